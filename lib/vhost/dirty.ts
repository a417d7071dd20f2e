/** The log of pages that we wrote, for live migration (vhost-user, "Migration"): one bit for each 4 KiB. */
import { alignDown, alignUp } from "../base/mod.ts";
import { errnoText, type Memory, type MemoryGuard, type Sys } from "../sys/mod.ts";
import type { SharedMemory } from "./shared.ts";
import { ProtocolError } from "./wire.ts";

const LOG_PAGE = 4096;

/** A log shared with the front-end. */
export class DirtyLog {
  readonly #shared: SharedMemory;
  readonly #mapping: Memory | undefined;
  readonly #guard: MemoryGuard | undefined;
  readonly #bits: Uint8Array;

  private constructor(sys: Sys, shared: SharedMemory, mapping: Memory | undefined) {
    this.#shared = shared;
    this.#mapping = mapping;
    this.#guard = mapping === undefined ? undefined : sys.guard(mapping);
    this.#bits = sys.viewAt(shared.address, shared.size);
  }

  /** The log of a session in another thread, which unmaps it. */
  static borrow(sys: Sys, shared: SharedMemory): DirtyLog {
    return new DirtyLog(sys, shared, undefined);
  }

  /** For `borrow`. */
  share(): SharedMemory {
    return this.#shared;
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
    return new DirtyLog(sys, { address: mapping.address + (offset - start), size }, mapping);
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
    return this.#guard?.lost ?? false;
  }

  unmap(): void {
    this.#guard?.release();
    this.#mapping?.unmap();
  }
}
