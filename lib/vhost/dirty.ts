/** The log of pages that we wrote, for live migration (vhost-user, "Migration"): one bit for each 4 KiB. */
import { alignDown, alignUp } from "../base/mod.ts";
import { errnoText, type Memory, type MemoryGuard, type Sys } from "../sys/mod.ts";
import { ProtocolError } from "./wire.ts";

const LOG_PAGE = 4096;

/** A log shared with the front-end. */
export class DirtyLog {
  readonly #mapping: Memory;
  readonly #guard: MemoryGuard;
  readonly #bits: Uint8Array;

  private constructor(sys: Sys, mapping: Memory, skip: number, size: number) {
    this.#mapping = mapping;
    this.#guard = sys.guard(mapping);
    this.#bits = mapping.bytes.subarray(skip, skip + size);
  }

  /** Maps `size` bytes at `offset` of `fd`, which stays the caller's. Throws ProtocolError. */
  static map(sys: Sys, fd: number, size: number, offset: number): DirtyLog {
    const stat = sys.fstat(fd);
    if (typeof stat === "number" || size === 0 || offset + size > stat.size) {
      throw new ProtocolError(`a log of ${size} bytes that is not there`);
    }
    const start = alignDown(offset, 4096);
    const mapping = sys.map(fd, start, alignUp(offset + size - start, 4096), true);
    if (typeof mapping === "number") {
      throw new ProtocolError(`the log cannot be mapped: ${errnoText(-mapping)}`);
    }
    return new DirtyLog(sys, mapping, offset - start, size);
  }

  /** Marks the pages of [guest, guest+length); what lies beyond the log has no place in it. */
  mark(guest: number, length: number): void {
    const last = Math.floor((guest + length - 1) / LOG_PAGE);
    for (let page = Math.floor(guest / LOG_PAGE); page <= last; page++) {
      const at = Math.floor(page / 8);
      if (at >= this.#bits.length) return;
      Atomics.or(this.#bits, at, 1 << (page % 8));
    }
  }

  /** Whether the front-end took it away. */
  get lost(): boolean {
    return this.#guard.lost;
  }

  unmap(): void {
    this.#guard.release();
    this.#mapping.unmap();
  }
}
