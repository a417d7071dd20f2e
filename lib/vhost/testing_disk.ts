/** For tests: a disk in native memory, whose requests can be held back or made to fail. */
import { BlockError, type IoVec, type MaybePromise } from "../base/mod.ts";
import {
  type BackendStatistics,
  type BlockBackend,
  type BlockStatus,
  type Limits,
  resolveLimits,
} from "../block/mod.ts";
import type { Context, Memory } from "../sys/mod.ts";

/** A disk. */
export class MemoryDisk implements BlockBackend {
  readonly node = { name: "disk", driver: "memory", size: 0 };
  readonly limits: Limits = resolveLimits(undefined, []);
  readonly readOnly = false;
  readonly inserted = true;
  readonly statistics = {} as BackendStatistics;
  inFlight = 0;
  size: number;
  /** Calls that arrived, as "read 0 4096". */
  readonly calls: string[] = [];
  /** Makes a call complete later. */
  later: undefined | ((op: string, offset: number) => Promise<void> | undefined);
  /** Fails a call: an errno's name. */
  failing: undefined | ((op: string, offset: number) => string | undefined);
  readonly #context: Context;
  readonly #memory: Memory;

  constructor(context: Context, size: number) {
    this.#context = context;
    this.#memory = context.sys.allocate(size);
    this.size = size;
  }

  get bytes(): Uint8Array {
    return this.#memory.bytes;
  }

  close(): void {
    this.#memory.unmap();
  }

  #do(op: string, offset: number, length: number, work: () => void): MaybePromise<void> {
    this.calls.push(`${op} ${offset} ${length}`);
    const errno = this.failing?.(op, offset);
    const act = () => {
      if (errno !== undefined) throw new BlockError(errno, `${op} failed`);
      work();
    };
    const wait = this.later?.(op, offset);
    return wait === undefined ? act() : wait.then(act);
  }

  #each(iov: IoVec, move: (address: number, at: number, length: number) => void): void {
    let at = 0;
    for (let i = 0; i < iov.count; i++) {
      move(iov.addresses[i]!, at, iov.lengths[i]!);
      at += iov.lengths[i]!;
    }
  }

  #check(offset: number, length: number): void {
    if (offset + length > this.size) throw new BlockError("EIO", "beyond the end");
  }

  read(offset: number, iov: IoVec): MaybePromise<void> {
    const { sys } = this.#context;
    return this.#do("read", offset, iov.total, () => {
      this.#check(offset, iov.total);
      this.#each(iov, (to, at, n) => sys.copy(to, this.#memory.address + offset + at, n));
    });
  }

  write(offset: number, iov: IoVec, flags = 0): MaybePromise<void> {
    const { sys } = this.#context;
    return this.#do(flags === 0 ? "write" : `write(${flags})`, offset, iov.total, () => {
      this.#check(offset, iov.total);
      this.#each(iov, (from, at, n) => sys.copy(this.#memory.address + offset + at, from, n));
    });
  }

  writeZeroes(offset: number, length: number, flags = 0): MaybePromise<void> {
    return this.#do(`zeroes(${flags})`, offset, length, () => {
      this.#check(offset, length);
      this.bytes.fill(0, offset, offset + length);
    });
  }

  discard(offset: number, length: number): MaybePromise<void> {
    return this.#do("discard", offset, length, () => this.#check(offset, length));
  }

  flush(): MaybePromise<void> {
    return this.#do("flush", 0, 0, () => {});
  }

  prefetch(): MaybePromise<void> {
    return undefined;
  }

  status(_offset: number, length: number, _precise: boolean, out: BlockStatus): MaybePromise<void> {
    Object.assign(out, { length, allocated: true, data: true, zero: false });
  }

  facts(): Record<string, never> {
    return {};
  }

  truncate(size: number): void {
    this.size = size;
  }

  allocationDepth(_offset: number, length: number): { depth: number; length: number } {
    return { depth: 1, length };
  }

  setPermissions(): Promise<void> {
    return Promise.resolve();
  }

  idle(): Promise<void> {
    return Promise.resolve();
  }

  detach(): Promise<void> {
    return Promise.resolve();
  }
}
