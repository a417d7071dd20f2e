/**
 * Where data lies in a file (SEEK.DATA, SEEK.HOLE), with a small memory of data regions. Only data is remembered:
 * should another process punch a hole meanwhile, it is reported as data, which costs speed and nothing else. A
 * hole is never remembered, so what is called zero was zero when it was asked.
 */
import { Errno, SEEK, type Sys } from "../../../sys/mod.ts";
import { alignUp } from "../../../base/mod.ts";
import type { BlockStatus } from "../../mod.ts";

/** Remembered regions; clients walk an image front to back, so a few suffice. */
const REGIONS = 8;

/** Block status of one open file. */
export class Extents {
  readonly #starts = new Float64Array(REGIONS);
  readonly #ends = new Float64Array(REGIONS);
  #next = 0;
  #supported = true;
  /** Requests are multiples of this, in bytes. */
  alignment = 1;
  /** SEEK_* pairs made, for tests. */
  lookups = 0;

  constructor(readonly sys: Pick<Sys, "lseek">, readonly fd: number) {}

  /**
   * Fills `out` for the front part of [offset, offset+length); `size` is where the file ends, in bytes (beyond it
   * all is zero).
   */
  status(offset: number, length: number, size: number, out: BlockStatus): void {
    out.allocated = true;
    out.offset = offset;
    if (offset >= size) return this.#answer(out, false, length);
    if (!this.#supported) return this.#answer(out, true, length);
    for (let i = 0; i < REGIONS; i++) {
      if (offset >= this.#starts[i]! && offset < this.#ends[i]!) {
        return this.#answer(out, true, this.#upTo(this.#ends[i]!, offset, length, size));
      }
    }
    this.#look(offset, length, size, out);
  }

  #look(offset: number, length: number, size: number, out: BlockStatus): void {
    this.lookups++;
    const data = this.sys.lseek(this.fd, offset, SEEK.DATA);
    if (data === -Errno.ENXIO) return this.#answer(out, false, length); // a hole up to the end
    if (data < 0) {
      this.#supported = false;
      return this.#answer(out, true, length);
    }
    if (data > offset) return this.#answer(out, false, Math.min(data - offset, length));
    const hole = this.sys.lseek(this.fd, offset, SEEK.HOLE);
    if (hole <= offset) return this.#answer(out, true, length); // it changed between the two calls
    this.#starts[this.#next] = offset;
    this.#ends[this.#next] = hole;
    this.#next = (this.#next + 1) % REGIONS;
    this.#answer(out, true, this.#upTo(hole, offset, length, size));
  }

  /** Data that reaches the end of the file goes on to the alignment that the reader has to keep. */
  #upTo(end: number, offset: number, length: number, size: number): number {
    return Math.min((end >= size ? alignUp(end, this.alignment) : end) - offset, length);
  }

  #answer(out: BlockStatus, data: boolean, length: number): void {
    out.data = data;
    out.zero = !data;
    out.length = length;
  }

  /** Forgets data in [offset, offset+length): it may have become a hole. */
  forget(offset: number, length: number): void {
    for (let i = 0; i < REGIONS; i++) {
      if (this.#starts[i]! < offset + length && offset < this.#ends[i]!) this.#ends[i] = 0;
    }
  }

  /** Forgets everything. */
  clear(): void {
    this.#ends.fill(0);
  }
}
