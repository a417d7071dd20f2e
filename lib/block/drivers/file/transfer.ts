/**
 * Reads and writes of an open file. Buffered ones run inline when the kernel is not expected to make us
 * wait; the rest, and everything under O_DIRECT, goes to the engine.
 *
 * - reads: preadv2(RWF.NOWAIT) answers from the page cache or says Errno.EAGAIN. File systems that refuse the flag
 *   (tmpfs) are read plainly, under a SlowGuard.
 * - writes: into the page cache, with RWF.NOWAIT where that is understood (XFS, btrfs), else plainly under a
 *   SlowGuard: dirty throttling can hold a writer for 200 ms.
 * - short transfers are continued; a read past the end of the file gives zeroes; Errno.EINTR is retried.
 */
import { Errno, RWF, type Sys } from "../../../sys/mod.ts";
import type { IoVec, MaybePromise } from "../../../base/mod.ts";
import { zeroFill } from "../../mod.ts";
import type { TransferEngine } from "./engine.ts";
import { blockError } from "./failures.ts";
import { SlowGuard } from "./guard.ts";

/**
 * Larger transfers leave this thread at once: the pool copies them while the loop serves others. Measured on two
 * busy cores, a read inline / through the pool, four at once: 256 KiB 43 / 94 us, 512 KiB 102 / 91, 1 MiB 184 / 126.
 */
const INLINE_MAX = 512 * 1024;

/** Whether preadv2 or pwritev2 answered so because the file system, or the kernel, does not know the flag, or the call. */
function knowsNoFlags(rc: number): boolean {
  return rc === -Errno.EOPNOTSUPP || rc === -Errno.EINVAL || rc === -Errno.ENOSYS;
}

/** The data path of one open file; survives reopening, since the descriptor keeps its number. */
export class Transfer {
  /** Bytes in the file as last known; writes beyond it raise it. */
  size = 0;
  /** With O_DIRECT: what a short read is a multiple of unless the file ends there. 0: buffered. */
  directAlignment = 0;
  /** Counters for status and tests. */
  readonly counters = { inline: 0, engine: 0 };
  readonly readGuard: SlowGuard;
  readonly writeGuard: SlowGuard;
  /** Ranges in a row that were found in the page cache (pages.ts), since the last read that was not. */
  cachedRun = 0;
  #nowaitReads = true;
  #nowaitWrites = true;
  readonly #sys: Sys;

  constructor(sys: Sys, readonly fd: number, readonly node: string, public engine: TransferEngine) {
    this.#sys = sys;
    this.readGuard = new SlowGuard(sys);
    this.writeGuard = new SlowGuard(sys);
  }

  /** Fills `iov` from `offset` on; throws BlockError. */
  read(offset: number, iov: IoVec): MaybePromise<void> {
    if (this.directAlignment > 0 || iov.total > INLINE_MAX) return this.#readLater(offset, iov, 0);
    if (!this.#nowaitReads) return this.#readPlainly(offset, iov);
    const rc = this.#sys.preadv(this.fd, iov, offset, RWF.NOWAIT);
    if (rc === iov.total) {
      this.counters.inline++;
      return;
    }
    if (knowsNoFlags(rc)) {
      this.#nowaitReads = false;
      return this.#readPlainly(offset, iov);
    }
    if (rc < 0 && rc !== -Errno.EAGAIN && rc !== -Errno.EINTR) {
      throw blockError(rc, this.node, "read", offset);
    }
    return this.#readLater(offset, iov, Math.max(rc, 0));
  }

  #readPlainly(offset: number, iov: IoVec): MaybePromise<void> {
    if (this.readGuard.slow) return this.#readLater(offset, iov, 0);
    this.readGuard.begin();
    const rc = iov.count === 1
      ? this.#sys.pread(this.fd, iov.addresses[0]!, iov.total, offset)
      : this.#sys.preadv(this.fd, iov, offset, 0);
    this.readGuard.end(iov.total);
    if (rc === iov.total) {
      this.counters.inline++;
      return;
    }
    if (rc < 0 && rc !== -Errno.EINTR) throw blockError(rc, this.node, "read", offset);
    return this.#readLater(offset, iov, Math.max(rc, 0));
  }

  /** Reads what follows the first `done` bytes with the engine. */
  async #readLater(offset: number, iov: IoVec, done: number): Promise<void> {
    const total = iov.total;
    this.counters.engine++;
    if (total <= INLINE_MAX) this.cachedRun = 0;
    while (done < total) {
      const rest = done === 0 ? iov : iov.slice(done, total - done);
      const pending = this.engine.readv(this.fd, rest, offset + done);
      const rc = await this.#timed(this.readGuard, rest.total, pending);
      if (rc > 0) done += rc;
      else if (rc !== 0 && rc !== -Errno.EINTR) {
        throw blockError(rc, this.node, "read", offset + done);
      }
      // The end of the file. O_DIRECT cannot go on from an odd place, and need not: only an end is odd.
      if (rc === 0 || (this.directAlignment > 0 && rc > 0 && rc % this.directAlignment !== 0)) {
        return zeroFill(this.#sys, iov, done);
      }
    }
  }

  /** What the engine answers for `length` bytes; `guard` learns how long that took. */
  async #timed(guard: SlowGuard, length: number, pending: Promise<number>): Promise<number> {
    const queued = guard.enter(length);
    const began = guard.slow ? this.#sys.monotonicNs() : 0;
    let rc: number;
    try {
      rc = await pending;
    } finally {
      guard.leave(length);
    }
    if (began > 0) guard.pooled(queued, this.#sys.monotonicNs() - began);
    return rc;
  }

  /** Writes `iov` at `offset`; throws BlockError. */
  write(offset: number, iov: IoVec): MaybePromise<void> {
    if (this.directAlignment > 0 || iov.total > INLINE_MAX || this.writeGuard.slow) {
      return this.#writeLater(offset, iov, 0);
    }
    let rc: number;
    if (this.#nowaitWrites) {
      rc = this.#sys.pwritev(this.fd, iov, offset, RWF.NOWAIT);
      if (knowsNoFlags(rc)) {
        this.#nowaitWrites = false;
        rc = this.#writePlainly(offset, iov);
      }
    } else {
      rc = this.#writePlainly(offset, iov);
    }
    if (rc === iov.total) {
      this.counters.inline++;
      if (offset + rc > this.size) this.size = offset + rc;
      return;
    }
    if (rc < 0 && rc !== -Errno.EAGAIN && rc !== -Errno.EINTR) {
      throw blockError(rc, this.node, "write", offset);
    }
    return this.#writeLater(offset, iov, Math.max(rc, 0));
  }

  /** Whether a write that is not too large is made inline now, and without RWF.NOWAIT. */
  get writesPlainly(): boolean {
    return this.directAlignment === 0 && !this.#nowaitWrites && !this.writeGuard.slow;
  }

  /** Writes `length` bytes out of a pipe: bytes, or -errno. */
  writeFromPipe(offset: number, pipe: number, length: number): number {
    this.writeGuard.begin();
    const rc = this.#sys.splice(pipe, this.fd, length, offset);
    this.writeGuard.end(length);
    if (rc > 0) {
      this.counters.inline++;
      if (offset + rc > this.size) this.size = offset + rc;
    }
    return rc;
  }

  #writePlainly(offset: number, iov: IoVec): number {
    this.writeGuard.begin();
    const rc = iov.count === 1
      ? this.#sys.pwrite(this.fd, iov.addresses[0]!, iov.total, offset)
      : this.#sys.pwritev(this.fd, iov, offset, 0);
    this.writeGuard.end(iov.total);
    return rc;
  }

  /** Writes what follows the first `done` bytes with the engine. */
  async #writeLater(offset: number, iov: IoVec, done: number): Promise<void> {
    const total = iov.total;
    this.counters.engine++;
    while (done < total) {
      const rest = done === 0 ? iov : iov.slice(done, total - done);
      const pending = this.engine.writev(this.fd, rest, offset + done);
      const rc = await this.#timed(this.writeGuard, rest.total, pending);
      // A write that moves nothing and names no error would be tried for ever.
      if (rc === 0) throw blockError(-Errno.EIO, this.node, "write", offset + done);
      if (rc < 0 && rc !== -Errno.EINTR) throw blockError(rc, this.node, "write", offset + done);
      if (rc > 0) done += rc;
    }
    if (offset + total > this.size) this.size = offset + total;
  }
}
