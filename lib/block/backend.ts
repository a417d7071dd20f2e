/** A user's attachment to a node (QEMU's BlockBackend): bounds, drain, statistics, requests in flight. */
import { assert, BlockError, type IoVec, type MaybePromise } from "../base/mod.ts";
import type {
  BackendOptions,
  BackendStatistics,
  BlockBackend,
  OperationStatistics,
} from "./backend_types.ts";
import { FactsRound } from "./facts.ts";
import type { RequestInFlight } from "./graph_types.ts";
import type { BlockNode } from "./node.ts";
import { NodePages } from "./pages.ts";
import type { BackendPages } from "./pages_types.ts";
import type { Permissions } from "./permissions.ts";
import type { Seam } from "./seam.ts";
import { noStatistics } from "./statistics.ts";
import { chainDepth, chainStatus } from "./status.ts";
import {
  type BlockStatus,
  type ImageFacts,
  type Limits,
  Perm,
  RequestFlag,
  type TruncateOptions,
} from "./types.ts";

/** What a backend asks of its graph. */
export interface BackendOwner {
  setPermissions(backend: Backend, needed: number, shared: number): Promise<void>;
  detach(backend: Backend): Promise<void>;
}

/** A backend. Requests complete at once where the driver does; those that do not are on `requests`. */
export class Backend implements BlockBackend {
  /** What messages call the node as this user's child. */
  readonly name = "root";
  /** What it holds: what it wants, or nothing while the node is inactive. */
  needed: number;
  shared: number;
  /** What it said that it needs and shares. */
  wanted: Readonly<Permissions>;
  readonly statistics: BackendStatistics = noStatistics();
  /** Requests that did not complete at once, oldest first. */
  readonly requests: Set<RequestInFlight> = new Set();
  #drained = 0;
  readonly #waiting: (() => void)[] = [];
  #idle: (() => void)[] = [];
  #quiet: (() => void)[] = [];
  #detached = false;
  readonly #writeFlags: number;
  readonly pages: BackendPages;
  /** Counts `begun`, which a driver goes on with though its write was given up, as in flight: a drain waits for it. */
  readonly outlives = (begun: Promise<void>): void => {
    this.#track("write", undefined, 0, 0, begun);
  };

  constructor(
    private readonly owner: BackendOwner,
    private readonly seam: Seam,
    public node: BlockNode,
    readonly options: BackendOptions,
  ) {
    this.needed = options.needed;
    this.shared = options.shared;
    this.wanted = { needed: options.needed, shared: options.shared };
    this.pages = new NodePages(seam, this);
    this.#writeFlags = options.writethrough === true ? RequestFlag.fua : 0;
  }

  get describe(): string {
    return this.options.describe;
  }
  get size(): number {
    return this.node.size;
  }
  get limits(): Readonly<Limits> {
    return this.node.limits;
  }
  get readOnly(): boolean {
    return this.node.readOnly;
  }
  get inserted(): boolean {
    return this.node.inserted;
  }
  /** Whether new requests wait. */
  get drained(): boolean {
    return this.#drained > 0;
  }
  get inFlight(): number {
    return this.requests.size + this.#waiting.length;
  }

  read(offset: number, iov: IoVec, flags = 0): MaybePromise<void> {
    const { read } = this.statistics;
    const length = iov.total;
    if (this.#drained > 0) return this.#later(() => this.read(offset, iov, flags));
    let result: MaybePromise<void>;
    try {
      this.#check("read", offset, length);
      result = this.seam.read(this.node, offset, iov, flags);
    } catch (error) {
      read.failed++;
      throw error;
    }
    if (result !== undefined) return this.#track("read", read, offset, length, result);
    read.operations++;
    read.bytes += length;
    return undefined;
  }

  write(offset: number, iov: IoVec, flags = 0): MaybePromise<void> {
    const { write } = this.statistics;
    const length = iov.total;
    if (this.#drained > 0) return this.#later(() => this.write(offset, iov, flags));
    let result: MaybePromise<void>;
    try {
      this.#checkWrite("write", offset, length);
      result = this.seam.write(this.node, offset, iov, flags | this.#writeFlags);
    } catch (error) {
      write.failed++;
      throw error;
    }
    if (result !== undefined) return this.#track("write", write, offset, length, result);
    write.operations++;
    write.bytes += length;
    return undefined;
  }

  writeZeroes(offset: number, length: number, flags = 0): MaybePromise<void> {
    if (this.#drained > 0) return this.#later(() => this.writeZeroes(offset, length, flags));
    return this.#run("write-zeroes", this.statistics.write, offset, length, () => {
      this.#checkWrite("write-zeroes", offset, length);
      return this.seam.writeZeroes(this.node, offset, length, flags | this.#writeFlags);
    });
  }

  discard(offset: number, length: number): MaybePromise<void> {
    if (this.#drained > 0) return this.#later(() => this.discard(offset, length));
    return this.#run("discard", this.statistics.discard, offset, length, () => {
      this.#checkWrite("discard", offset, length);
      return this.seam.discard(this.node, offset, length);
    });
  }

  flush(): MaybePromise<void> {
    if (this.#drained > 0) return this.#later(() => this.flush());
    return this.#run("flush", this.statistics.flush, 0, 0, () => this.seam.flush(this.node));
  }

  facts(): MaybePromise<Partial<ImageFacts>> {
    return new FactsRound().of(this.node);
  }

  truncate(size: number, options: TruncateOptions): MaybePromise<void> {
    if (this.#drained > 0) return this.#later(() => this.truncate(size, options));
    assert((this.needed & Perm.resize) !== 0, "resizing without the permission");
    return this.#run(
      "truncate",
      undefined,
      0,
      0,
      () => this.seam.truncate(this.node, size, options),
    );
  }

  status(
    offset: number,
    length: number,
    precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void> {
    if (this.#drained > 0) return this.#later(() => this.status(offset, length, precise, out));
    return this.#run("status", undefined, offset, length, () => {
      this.#check("status", offset, length);
      return chainStatus(this.node, offset, length, precise, out);
    });
  }

  async allocationDepth(
    offset: number,
    length: number,
  ): Promise<{ depth: number; length: number }> {
    let answer = { depth: 0, length };
    const ask = async () => {
      this.#check("status", offset, length);
      answer = await chainDepth(this.node, offset, length);
    };
    const run = () => this.#run("status", undefined, offset, length, ask);
    await (this.#drained > 0 ? this.#later(run) : run());
    return answer;
  }

  prefetch(offset: number, length: number): MaybePromise<void> {
    if (this.#drained > 0) return this.#later(() => this.prefetch(offset, length));
    return this.#run("prefetch", undefined, offset, length, () => {
      this.#check("prefetch", offset, length);
      return this.seam.prefetch(this.node, offset, length);
    });
  }

  setPermissions(needed: number, shared: number): Promise<void> {
    return this.owner.setPermissions(this, needed, shared);
  }

  idle(): Promise<void> {
    if (this.inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  async detach(): Promise<void> {
    if (this.#detached) return;
    this.#detached = true;
    await this.idle();
    await this.owner.detach(this);
  }

  // --- drain, for the graph ---

  /** New requests wait from now on. Sections nest. */
  hold(): void {
    this.#drained++;
  }
  /** Resolves when no request is with the drivers (those that wait do not count). */
  quiet(): Promise<void> {
    if (this.requests.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#quiet.push(resolve));
  }
  /** Ends one section; after the last the waiting requests go on in their order. */
  release(): void {
    this.#drained--;
    while (this.#drained === 0 && this.#waiting.length > 0) this.#waiting.shift()!();
    this.#settled();
  }

  // --- common parts ---

  /** As #check, for requests that change something. */
  #checkWrite(op: string, offset: number, length: number): void {
    this.#check(op, offset, length);
    if ((this.needed & (Perm.write | Perm.writeUnchanged)) !== 0) return;
    const why = this.node.active
      ? `${this.describe} has no permission to write`
      : `node '${this.node.name}' is inactive`;
    throw new BlockError("EPERM", why, {
      node: this.node.name,
      op,
      offset,
    });
  }

  #check(op: string, offset: number, length: number): void {
    if (offset >= 0 && length >= 0 && this.node.holds(offset + length)) return;
    const { name } = this.node;
    throw new BlockError("EIO", "request outside the node", { node: name, op, offset });
  }

  /** Keeps a request back until the node is no longer drained. */
  #later<T>(start: () => MaybePromise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#waiting.push(() => {
        try {
          const result = start();
          if (result instanceof Promise) result.then(resolve, reject);
          else resolve(result);
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  #run(
    op: string,
    counter: OperationStatistics | undefined,
    offset: number,
    length: number,
    start: () => MaybePromise<void>,
  ): MaybePromise<void> {
    let result: MaybePromise<void>;
    try {
      result = start();
    } catch (error) {
      if (counter !== undefined) counter.failed++;
      throw error;
    }
    if (result !== undefined) return this.#track(op, counter, offset, length, result);
    if (counter !== undefined) {
      counter.operations++;
      counter.bytes += length;
    }
    return undefined;
  }

  #track(
    op: string,
    counter: OperationStatistics | undefined,
    offset: number,
    length: number,
    result: Promise<void>,
  ): Promise<void> {
    const request: RequestInFlight = {
      op,
      node: this.node.name,
      offset,
      length,
      startedNs: this.seam.sys.monotonicNs(),
    };
    this.requests.add(request);
    return result.then(
      () => {
        if (counter !== undefined) {
          counter.operations++;
          counter.bytes += length;
        }
        this.#done(request);
      },
      (error) => {
        if (counter !== undefined) counter.failed++;
        this.#done(request);
        throw error;
      },
    );
  }

  #done(request: RequestInFlight): void {
    this.requests.delete(request);
    this.#settled();
  }
  #settled(): void {
    if (this.requests.size > 0) return;
    if (this.#quiet.length > 0) {
      const quiet = this.#quiet;
      this.#quiet = [];
      for (const resolve of quiet) resolve();
    }
    if (this.#waiting.length > 0 || this.#idle.length === 0) return;
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }
}
