/**
 * Zeroes and discards without moving data. What the file system or device refuses once is not tried again, and
 * what cannot be done quickly is ENOTSUP: the seam then writes zeroes, or ignores a discard.
 *
 * zeroes, file:    mayUnmap: punch a hole | zero range | punch a hole and (not with noPages) allocate it again
 * zeroes, device:  mayUnmap: punch (unmaps, never slow) | BLK.BLKZEROOUT (may write: not with noFallback)
 * discard:         punch a hole (file) | BLK.BLKDISCARD (device)
 */
import { BLK, type Context, Errno, FALLOC } from "../../../sys/mod.ts";
import { BlockError } from "../../../base/mod.ts";
import { RequestFlag } from "../../mod.ts";
import { blockError } from "./failures.ts";

/** "Not here": refusals by kind of file system or device. Errno.EINVAL too: some refuse odd ranges so. */
function refused(rc: number): boolean {
  return rc === -Errno.EOPNOTSUPP || rc === -Errno.ENOSYS || rc === -Errno.ENOTTY ||
    rc === -Errno.EINVAL;
}

/** What a device ioctl that takes a range needs: two 64-bit numbers. */
const RANGE_BYTES = 16;

/** Allocation of one open file or device. */
export class Space {
  /** As query-blockstats shows them (driver-specific). */
  readonly statistics = { discardOk: 0, discardFailed: 0, discardBytesOk: 0 };
  #canPunch = true;
  #canZeroRange = true;
  #canZeroOut = true;
  #canDiscard = true;

  constructor(
    readonly context: Context,
    readonly fd: number,
    readonly node: string,
    readonly kind: "file" | "device" | "character",
  ) {
    if (kind === "character") {
      this.#canPunch =
        this.#canZeroRange =
        this.#canZeroOut =
        this.#canDiscard =
          false;
    }
    if (kind === "device") this.#canZeroRange = false;
  }

  /** Makes [offset, offset+length) read as zeroes. BlockError ENOTSUP: not in a quick way. */
  async writeZeroes(offset: number, length: number, flags: number): Promise<void> {
    if ((flags & RequestFlag.mayUnmap) !== 0 && await this.#punch(offset, length, "write-zeroes")) {
      return;
    }
    const done = this.kind === "file"
      ? await this.#zeroFile(offset, length, (flags & RequestFlag.noPages) === 0)
      : (flags & RequestFlag.noFallback) === 0 && await this.#zeroDevice(offset, length);
    if (!done) throw this.#unsupported("write-zeroes", offset);
  }

  /** Gives the space of [offset, offset+length) back. BlockError ENOTSUP: the medium cannot. */
  async discard(offset: number, length: number): Promise<void> {
    try {
      const done = this.kind === "device"
        ? await this.#discardDevice(offset, length)
        : await this.#punch(offset, length, "discard");
      if (!done) throw this.#unsupported("discard", offset);
    } catch (error) {
      this.statistics.discardFailed++;
      throw error;
    }
    this.statistics.discardOk++;
    this.statistics.discardBytesOk += length;
  }

  async #zeroFile(offset: number, length: number, allocate: boolean): Promise<boolean> {
    if (this.#canZeroRange) {
      const rc = await this.#fallocate(FALLOC.ZERO_RANGE, offset, length, "write-zeroes");
      if (rc === 0) return true;
      if (rc !== -Errno.EINVAL) this.#canZeroRange = false;
    }
    // Without zero range (tmpfs): a hole, then room in its place so that later writes cannot run out of it.
    if (!await this.#punch(offset, length, "write-zeroes")) return false;
    if (allocate) await this.#fallocate(0, offset, length, "write-zeroes");
    return true;
  }

  async #zeroDevice(offset: number, length: number): Promise<boolean> {
    if (!this.#canZeroOut) return false;
    const rc = await this.#rangeIoctl(BLK.BLKZEROOUT, offset, length, "write-zeroes");
    if (rc === -Errno.ENOTTY || rc === -Errno.EOPNOTSUPP) this.#canZeroOut = false;
    return rc === 0;
  }

  async #discardDevice(offset: number, length: number): Promise<boolean> {
    if (!this.#canDiscard) return false;
    const rc = await this.#rangeIoctl(BLK.BLKDISCARD, offset, length, "discard");
    if (rc === -Errno.ENOTTY || rc === -Errno.EOPNOTSUPP) this.#canDiscard = false;
    return rc === 0;
  }

  async #punch(offset: number, length: number, op: string): Promise<boolean> {
    if (!this.#canPunch) return false;
    const mode = FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE;
    const rc = await this.#fallocate(mode, offset, length, op);
    if (rc < 0 && rc !== -Errno.EINVAL) this.#canPunch = false;
    return rc === 0;
  }

  /** 0, or the -errno of a refusal; other failures throw. */
  async #fallocate(mode: number, offset: number, length: number, op: string): Promise<number> {
    for (;;) {
      const rc = await this.context.sys.pool.fallocate(this.fd, mode, offset, length);
      if (rc >= 0 || refused(rc)) return Math.min(rc, 0);
      if (rc !== -Errno.EINTR) throw blockError(rc, this.node, op, offset);
    }
  }

  /** As #fallocate, for an ioctl that takes (start, length). */
  async #rangeIoctl(request: number, offset: number, length: number, op: string): Promise<number> {
    const range = this.context.buffers.acquire(RANGE_BYTES);
    try {
      range.view.setBigUint64(0, BigInt(offset), true);
      range.view.setBigUint64(8, BigInt(length), true);
      for (;;) {
        const rc = await this.context.sys.pool.ioctl(this.fd, request, range.address);
        if (rc >= 0 || refused(rc)) return Math.min(rc, 0);
        if (rc !== -Errno.EINTR) throw blockError(rc, this.node, op, offset);
      }
    } finally {
      this.context.buffers.release(range);
    }
  }

  #unsupported(op: string, offset: number): BlockError {
    return new BlockError("ENOTSUP", "Operation not supported", { node: this.node, op, offset });
  }
}
