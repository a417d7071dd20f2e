/** The log of pages that we wrote, for live migration (vhost-user, "Migration"): one bit for each 4 KiB. */
import type { Sys } from "../sys/mod.ts";
import { MappedMemory } from "./mapped.ts";
import type { SharedMemory } from "./shared.ts";

const LOG_PAGE = 4096;

/** A log shared with the front-end. */
export class DirtyLog {
  private constructor(readonly memory: MappedMemory) {}

  /** The log of a session in another thread, which unmaps it. */
  static borrow(sys: Sys, shared: SharedMemory): DirtyLog {
    return new DirtyLog(MappedMemory.borrow(sys, shared));
  }

  /** Maps `size` bytes at `offset` of `fd`, which stays the caller's. Throws ProtocolError. */
  static map(sys: Sys, fd: number, size: number, offset: number): DirtyLog {
    return new DirtyLog(MappedMemory.map(sys, fd, offset, size, "log"));
  }

  /** Marks the pages of [guest, guest+length); what lies beyond the log has no place in it. */
  mark(guest: number, length: number): void {
    const { bytes } = this.memory;
    const last = Math.floor((guest + length - 1) / LOG_PAGE);
    for (let page = Math.floor(guest / LOG_PAGE); page <= last; page++) {
      const at = Math.floor(page / 8);
      if (at >= bytes.length) return;
      Atomics.or(bytes, at, 1 << (page % 8));
    }
  }
}
