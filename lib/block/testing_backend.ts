/** For tests of exports: a backend over native memory, whose requests can be held back or made to fail. */
import assert from "node:assert/strict";
import { BlockError, type IoVec, type MaybePromise } from "../base/mod.ts";
import { type Context, Errno, type Memory } from "../sys/mod.ts";
import type { BackendStatistics, BlockBackend } from "./backend_types.ts";
import { resolveLimits } from "./limits.ts";
import type { BackendPages, FilePlace } from "./pages_types.ts";
import type { BlockStatus, Limits } from "./types.ts";

const PAGE = 64 * 1024;

/** A disk in native memory. Pages of 64 KiB that were never written are holes. */
export class MemoryBackend implements BlockBackend, BackendPages {
  readonly node = { name: "disk", driver: "memory", size: 0 };
  limits: Limits = resolveLimits(undefined, []);
  readOnly = false;
  inserted = true;
  /** Answers later: after a turn of the loop, or when the test says so. */
  later: undefined | ((op: string, offset: number) => Promise<void> | undefined);
  /** Fails a call: an errno's name. */
  failing: undefined | ((op: string, offset: number) => string | undefined);
  /** Calls that arrived, as "read 0 4096". */
  readonly calls: string[] = [];
  inFlight = 0;
  readonly statistics = {} as BackendStatistics;
  readonly #context: Context;
  /** Whether data can be sent from the file that holds it. */
  locatable = false;
  readonly #fd: number;
  readonly #memory: Memory;
  readonly #written = new Set<number>();
  #size: number;

  constructor(context: Context, size: number) {
    this.#context = context;
    this.#size = size;
    this.#fd = context.sys.memfd("disk");
    assert.equal(context.sys.ftruncate(this.#fd, size), 0);
    const memory = context.sys.map(this.#fd, 0, size, true);
    assert.ok(typeof memory === "object");
    this.#memory = memory;
  }

  /** Gives the memory back. */
  close(): void {
    this.#memory.unmap();
    this.#context.sys.close(this.#fd);
  }

  /** Cuts the file off below what the node is long; the bytes behind must not be looked at any more. */
  cutFile(size: number): void {
    assert.equal(this.#context.sys.ftruncate(this.#fd, size), 0);
  }

  readonly pages: BackendPages = this;

  locate(offset: number, length: number, known: boolean, out: FilePlace): boolean {
    if (!this.locatable) return false;
    this.calls.push(`locate ${offset} ${length}${known ? " known" : ""}`);
    out.fd = this.#fd;
    out.offset = offset;
    return true;
  }

  countRead(): void {}

  /** Whether writes may come out of a pipe; each, and what countWrite hears, is a call. */
  piping = false;
  /** Most bytes that it takes at once. */
  pipeMost = Infinity;
  /** Where data that leaves the pipe is lost. */
  losing = Infinity;
  pipeUnit(): number {
    return this.piping ? 1 : 0;
  }

  writeFromPipe(offset: number, pipe: number, length: number): number {
    this.calls.push(`pipe ${offset} ${length}`);
    const errno = this.failing?.("pipe", offset);
    if (errno !== undefined) return -Errno[errno as keyof typeof Errno];
    if (offset + length > this.losing) throw new BlockError("ENOSPC", "lost");
    this.touch(offset, length);
    return this.#context.sys.splice(pipe, this.#fd, Math.min(length, this.pipeMost), offset);
  }

  countWrite(length: number): void {
    this.calls.push(`wrote ${length}`);
  }

  get size(): number {
    return this.#size;
  }

  /** The node shrinks (or grows back) underneath. */
  resize(size: number): void {
    assert.ok(size <= this.#memory.length);
    this.#size = size;
  }

  /** The disk's bytes. */
  get bytes(): Uint8Array {
    return this.#memory.bytes;
  }

  /** Marks a range as data. */
  touch(offset: number, length: number): void {
    for (let at = offset - offset % PAGE; at < offset + length; at += PAGE) this.#written.add(at);
  }

  #do(op: string, offset: number, length: number, work: () => void): MaybePromise<void> {
    this.calls.push(`${op} ${offset} ${length}`);
    const errno = this.failing?.(op, offset);
    const act = () => {
      if (errno !== undefined) throw new BlockError(errno, `${op} failed`);
      work();
    };
    const wait = this.later?.(op, offset);
    if (wait === undefined) return act();
    this.inFlight++;
    return wait.then(act).finally(() => this.inFlight--);
  }

  #each(iov: IoVec, move: (address: number, at: number, length: number) => void): void {
    let at = 0;
    for (let i = 0; i < iov.count; i++) {
      move(iov.addresses[i]!, at, iov.lengths[i]!);
      at += iov.lengths[i]!;
    }
  }

  read(offset: number, iov: IoVec): MaybePromise<void> {
    const { sys } = this.#context;
    assert.ok(offset + iov.total <= this.#size);
    return this.#do("read", offset, iov.total, () => {
      this.#each(iov, (to, at, n) => sys.copy(to, this.#memory.address + offset + at, n));
    });
  }

  write(offset: number, iov: IoVec, flags = 0): MaybePromise<void> {
    const { sys } = this.#context;
    assert.ok(offset + iov.total <= this.#size);
    const op = flags === 0 ? "write" : `write(${flags})`;
    return this.#do(op, offset, iov.total, () => {
      this.#each(iov, (from, at, n) => sys.copy(this.#memory.address + offset + at, from, n));
      this.touch(offset, iov.total);
    });
  }

  writeZeroes(offset: number, length: number, flags = 0): MaybePromise<void> {
    return this.#do(`zeroes(${flags})`, offset, length, () => {
      this.bytes.fill(0, offset, offset + length);
      this.touch(offset, length);
    });
  }

  discard(offset: number, length: number): MaybePromise<void> {
    return this.#do("discard", offset, length, () => {});
  }

  flush(): MaybePromise<void> {
    return this.#do("flush", 0, 0, () => {});
  }

  prefetch(offset: number, length: number): MaybePromise<void> {
    return this.#do("prefetch", offset, length, () => {});
  }

  status(
    offset: number,
    length: number,
    _precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void> {
    return this.#do("status", offset, length, () => {
      const data = this.#written.has(offset - offset % PAGE);
      let end = offset - offset % PAGE + PAGE;
      while (end < offset + length && this.#written.has(end) === data) end += PAGE;
      out.length = Math.min(end - offset, length);
      out.allocated = out.data = data;
      out.zero = !data;
    });
  }

  allocationDepth(offset: number, length: number): { depth: number; length: number } {
    const status: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
    const errno = this.failing?.("depth", offset);
    if (errno !== undefined) throw new BlockError(errno, "depth failed");
    const { later } = this;
    this.later = undefined;
    void this.status(offset, length, true, status);
    this.later = later;
    return { depth: status.data ? 1 : 0, length: status.length };
  }

  setPermissions(): Promise<void> {
    return Promise.resolve();
  }
  facts(): Record<string, never> {
    return {};
  }
  truncate(size: number): void {
    this.resize(size);
  }
  idle(): Promise<void> {
    return Promise.resolve();
  }
  detach(): Promise<void> {
    return Promise.resolve();
  }
}
