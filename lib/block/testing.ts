/**
 * For tests: drivers kept in memory whose latency, faults and alignment a test decides. Used by the block core's own
 * tests and by whoever needs a disk.
 */
import {
  assert,
  BlockError,
  CommandError,
  type IoVec,
  isPowerOfTwo,
  type MaybePromise,
} from "../base/mod.ts";
import { int, struct } from "../qmp/schema/core.ts";
import type { Memory, Sys } from "../sys/mod.ts";
import { type BlockdevOptionsValue, BlockdevRef } from "../qmp/schema/blockdev.ts";
import { driverRegistry } from "./graph_types.ts";
import { BlockGraph } from "./graph.ts";
import type { DriverDefinition, OpenContext } from "./driver_types.ts";
import type { BlockStatus, IoInstance, Limits } from "./types.ts";
import { defineDriver } from "./driver_types.ts";
import { RequestFlag } from "./types.ts";
import { type TestContext, testContext } from "./testing_context.ts";

export { type TestContext, testContext };

/** A call that reached the driver. `release` lets it go on (latency "held"), or fails it. */
export interface MemoryCall {
  readonly op: "read" | "write" | "write-zeroes" | "discard" | "flush";
  readonly offset: number;
  readonly length: number;
  readonly flags: number;
  release(error?: Error): void;
}

/** A disk: contents and behaviour; survives the node, as a file would. Name it in option `disk`. */
export class MemoryDisk {
  bytes: Uint8Array;
  /** 1 for each 512 bytes that were written and not discarded (status: data). */
  #written: Uint8Array;
  /** sync: done on return. async: done in a later microtask. held: when the test releases the call. */
  latency: "sync" | "async" | "held" = "sync";
  limits: Partial<Limits> = {};
  /** Request flags the driver says it honours. */
  supportedFlags = 0;
  canZero = true;
  canDiscard = true;
  /** Called before each call is carried out: returns an error to fail it. */
  fault: ((call: Omit<MemoryCall, "release">) => Error | undefined) | undefined;
  /** Every call so far, and those that wait. */
  readonly calls: Omit<MemoryCall, "release">[] = [];
  readonly held: MemoryCall[] = [];
  /** What preparePermissions was told, after commit. */
  permissions = { needed: 0, shared: 15 };
  refusePermissions: ((needed: number, shared: number) => Error | undefined) | undefined;
  quiesced = 0;
  closed = 0;
  /** What reopens did: "prepare", "commit", "abort". */
  readonly reopens: string[] = [];
  #arrived: (() => void)[] = [];

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
    this.#written = new Uint8Array(Math.ceil(size / 512));
  }

  /** Resolves when `count` calls are held. */
  async arrivals(count: number): Promise<void> {
    while (this.held.length < count) {
      await new Promise<void>((resolve) => this.#arrived.push(resolve));
    }
  }

  /** Runs `act` with the disk's latency and faults. */
  call(
    op: MemoryCall["op"],
    offset: number,
    length: number,
    flags: number,
    act: () => void,
  ): MaybePromise<void> {
    const call = { op, offset, length, flags };
    this.calls.push(call);
    const { requestAlignment = 1 } = this.limits;
    assert(
      offset % requestAlignment === 0 && length % requestAlignment === 0,
      `unaligned ${op} of ${length} at ${offset}`,
    );
    const run = () => {
      const error = this.fault?.(call);
      if (error !== undefined) throw error;
      act();
    };
    if (this.latency === "sync") return run();
    if (this.latency === "async") return Promise.resolve().then(run);
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const entry: MemoryCall = {
      ...call,
      release: (error) => {
        this.held.splice(this.held.indexOf(entry), 1);
        if (error !== undefined) return reject(error);
        try {
          run();
          resolve();
        } catch (thrown) {
          reject(thrown);
        }
      },
    };
    this.held.push(entry);
    for (const resolve of this.#arrived.splice(0)) resolve();
    return promise;
  }

  /** Grows to at least `end` bytes. */
  grow(end: number): void {
    if (end > this.bytes.length) this.resize(end);
  }
  resize(size: number): void {
    const bytes = new Uint8Array(size);
    bytes.set(this.bytes.subarray(0, size));
    this.bytes = bytes;
    const written = new Uint8Array(Math.ceil(size / 512));
    written.set(this.#written.subarray(0, written.length));
    this.#written = written;
  }
  mark(offset: number, length: number, written: boolean): void {
    const first = written ? Math.floor(offset / 512) : Math.ceil(offset / 512);
    const last = written ? Math.ceil((offset + length) / 512) : Math.floor((offset + length) / 512);
    this.#written.fill(written ? 1 : 0, first, Math.max(first, last));
  }
  /** The extent at `offset`. */
  extent(offset: number, length: number): { data: boolean; length: number } {
    const first = Math.floor(offset / 512);
    const data = this.#written[first] === 1;
    let end = first + 1;
    while (end < this.#written.length && (this.#written[end] === 1) === data) end++;
    return { data, length: Math.min(length, end * 512 - offset) };
  }
}

class MemoryInstance implements IoInstance {
  readonly kind = "io";
  /** Absent when the disk cannot. */
  readonly writeZeroes?: NonNullable<IoInstance["writeZeroes"]>;
  readonly discard?: NonNullable<IoInstance["discard"]>;

  constructor(
    private readonly sys: Sys,
    private readonly disk: MemoryDisk,
    private readonly name: string,
  ) {
    if (disk.canZero) {
      this.writeZeroes = (offset, length, flags) => this.#zero(offset, length, flags);
    }
    if (disk.canDiscard) this.discard = (offset, length) => this.#discard(offset, length);
  }
  get size(): number {
    return this.disk.bytes.length;
  }
  get limits(): Partial<Limits> {
    return this.disk.limits;
  }
  get supportedFlags(): number {
    return this.disk.supportedFlags;
  }

  #checkMemory(iov: IoVec): void {
    const { memoryAlignment = 1, maxSegments = Infinity } = this.disk.limits;
    assert(isPowerOfTwo(memoryAlignment));
    assert(iov.count <= maxSegments, "too many segments");
    for (let i = 0; i < iov.count; i++) {
      assert(iov.addresses[i]! % memoryAlignment === 0, "unaligned memory");
      assert(iov.lengths[i]! % memoryAlignment === 0, "unaligned length");
    }
  }
  #copy(offset: number, iov: IoVec, read: boolean): void {
    const { disk } = this;
    let at = offset;
    for (let i = 0; i < iov.count; i++) {
      const length = iov.lengths[i]!;
      const view = this.sys.viewAt(iov.addresses[i]!, length);
      if (read) {
        const have = disk.bytes.subarray(at, at + length);
        view.set(have);
        if (have.length < length) view.fill(0, have.length);
      } else {
        disk.bytes.set(view, at);
      }
      at += length;
    }
  }
  read(offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    this.#checkMemory(iov);
    return this.disk.call(
      "read",
      offset,
      iov.total,
      flags,
      () => this.#copy(offset, iov, true),
    );
  }
  write(offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    this.#checkMemory(iov);
    const { total } = iov;
    return this.disk.call("write", offset, total, flags, () => {
      this.disk.grow(offset + total);
      this.#copy(offset, iov, false);
      this.disk.mark(offset, total, true);
    });
  }
  #zero(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.disk.call("write-zeroes", offset, length, flags, () => {
      this.disk.grow(offset + length);
      this.disk.bytes.fill(0, offset, offset + length);
      this.disk.mark(offset, length, (flags & RequestFlag.mayUnmap) === 0);
    });
  }
  #discard(offset: number, length: number): MaybePromise<void> {
    return this.disk.call("discard", offset, length, 0, () => {
      this.disk.bytes.fill(0, offset, offset + length);
      this.disk.mark(offset, length, false);
    });
  }
  status(offset: number, length: number, _precise: boolean, out: BlockStatus): void {
    const extent = this.disk.extent(offset, length);
    out.length = extent.length;
    out.allocated = true;
    out.data = extent.data;
    out.zero = !extent.data;
    out.offset = offset;
  }
  flush(): MaybePromise<void> {
    return this.disk.call("flush", 0, 0, 0, () => {});
  }
  truncate(size: number): void {
    this.disk.resize(size);
  }
  preparePermissions(needed: number, shared: number): { commit(): void; abort(): void } {
    const refused = this.disk.refusePermissions?.(needed, shared);
    if (refused !== undefined) throw refused;
    return {
      commit: () => void (this.disk.permissions = { needed, shared }),
      abort: () => {},
    };
  }
  prepareReopen(next: OpenContext): { commit(): void; abort(): void } {
    const { disk } = this;
    if (next.options["disk"] !== this.name) {
      throw new CommandError("Parameter 'disk' cannot change");
    }
    disk.reopens.push("prepare");
    return {
      commit: () => void disk.reopens.push("commit"),
      abort: () => void disk.reopens.push("abort"),
    };
  }
  quiesce(): void {
    this.disk.quiesced++;
  }
  resume(): void {
    this.disk.quiesced--;
  }
  close(): void {
    this.disk.closed++;
  }
}

/** The driver `memory`, whose option `disk` names one of `disks`. */
export function memoryDriver(
  disks: Readonly<Record<string, MemoryDisk>>,
): DriverDefinition<unknown> {
  return defineDriver({
    name: "memory",
    kind: "protocol",
    options: struct("BlockdevOptionsMemory", {}),
    open(open, options) {
      const name = String((options as { disk?: string }).disk);
      const disk = disks[name];
      if (disk === undefined) throw new CommandError("Parameter 'disk' names no disk of this test");
      return new MemoryInstance(open.context.sys, disk, name);
    },
  }) as DriverDefinition<unknown>;
}

/** `raw` for tests: a window on its file. */
export const windowDriver: DriverDefinition<{ offset?: number; size?: number }> = defineDriver({
  name: "raw",
  kind: "format",
  options: struct("BlockdevOptionsWindow", { file: BlockdevRef, offset: int, size: int }),
  async open(open, options: { offset?: number; size?: number }) {
    const whole = options.offset === undefined && options.size === undefined;
    const file = await open.child("file", { role: whole ? ["data", "filtered"] : ["data"] });
    const offset = options.offset ?? 0;
    return {
      kind: "format" as const,
      get size() {
        return options.size ?? file.size - offset;
      },
      supportedFlags: RequestFlag.fua,
      locate: (start, length, out) => out.inChild(file, start + offset, length),
      reserve: (start, length, plan) => plan.inChild(file, start + offset, length),
      truncate: (size, how) => file.truncate(size + offset, how),
      prepareReopen: () => ({ commit: () => {}, abort: () => {} }),
      close: () => {},
    };
  },
});

/** A graph over memory disks, and what it said. */
export interface TestGraph {
  readonly graph: BlockGraph;
  readonly context: TestContext;
  readonly events: { name: string; data: Record<string, unknown> }[];
  /** Adds a node; its name is taken from the options, or made up. */
  add(options: BlockdevOptionsValue): Promise<void>;
  /** Native memory with these bytes (or that many zeroes). */
  memory(contents: Uint8Array | number): Memory;
}

/** Makes one, with `memory`, `raw` and the given drivers. */
export function testGraph(
  disks: Readonly<Record<string, MemoryDisk>>,
  drivers: readonly DriverDefinition<never>[] = [],
): TestGraph {
  const context = testContext();
  const events: TestGraph["events"] = [];
  const graph = new BlockGraph({
    context,
    drivers: driverRegistry([
      memoryDriver(disks),
      windowDriver as DriverDefinition<unknown>,
      ...drivers as readonly DriverDefinition<unknown>[],
    ]),
    events: { emit: (name, data) => void events.push({ name, data }) },
  });
  return {
    graph,
    context,
    events,
    add: async (options) => void await graph.add(options, { monitorOwned: true }),
    memory(contents) {
      const length = typeof contents === "number" ? contents : contents.length;
      const memory = context.sys.allocate(length);
      if (typeof contents !== "number") memory.bytes.set(contents);
      return memory;
    },
  };
}

/** An error as a disk gives it. */
export function ioError(errno = "EIO"): BlockError {
  return new BlockError(errno, `injected ${errno}`);
}
