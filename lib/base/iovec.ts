/**
 * Scatter/gather lists over native memory. Data never goes through the JS heap: an IoVec names memory
 * by address (a plain number: user space lies below 2^47) and length in bytes.
 */
import { assert } from "./assert.ts";

/** A list of (address, length) pairs; reusable: `reset` and fill again. */
export class IoVec {
  /** Addresses of the segments. Only the first `count` are valid. */
  readonly addresses: number[] = [];
  /** Lengths of the segments in bytes, each above zero. */
  readonly lengths: number[] = [];
  /** Number of segments. */
  count = 0;
  /** Sum of the lengths, in bytes. */
  total = 0;

  /** One segment. */
  static of(address: number, length: number): IoVec {
    const iov = new IoVec();
    if (length > 0) iov.add(address, length);
    return iov;
  }

  /** Forgets all segments. */
  reset(): this {
    this.count = 0;
    this.total = 0;
    return this;
  }

  /** Appends a segment; `length` > 0. */
  add(address: number, length: number): this {
    assert(length > 0);
    this.addresses[this.count] = address;
    this.lengths[this.count] = length;
    this.count++;
    this.total += length;
    return this;
  }

  /** Makes this the single segment given (the hot path: nothing allocated). */
  single(address: number, length: number): this {
    this.addresses[0] = address;
    this.lengths[0] = length;
    this.count = 1;
    this.total = length;
    return this;
  }

  /** The bytes [start, start+length) of this list as a list of its own, in `out` if given. */
  slice(start: number, length: number, out: IoVec = new IoVec()): IoVec {
    assert(start >= 0 && length >= 0 && start + length <= this.total, "slice outside the IoVec");
    out.reset();
    let skip = start;
    let left = length;
    for (let i = 0; i < this.count && left > 0; i++) {
      const size = this.lengths[i]!;
      if (skip >= size) {
        skip -= size;
        continue;
      }
      const take = Math.min(size - skip, left);
      out.add(this.addresses[i]! + skip, take);
      left -= take;
      skip = 0;
    }
    return out;
  }
}
