/**
 * A bit for each granule of a range of bytes: what dirty bitmaps are made of. Bits are in 32-bit words, bit i in
 * word i / 32; on disk and in checksums they are bytes, bit i in byte i / 8, which is the same on the little-endian
 * machines that qsd runs on. The length of the memory is a whole number of 64-bit words, as in QEMU.
 *
 * Setting is on the way of every write: one granule that is dirty already costs a look at one word.
 *
 * The memory is shared: when a node moves to another thread, the thread that it is in changes the bits, and all
 * others may look at them (`state`). One thread writes at a time.
 */
import { alignUp, assert, isPowerOfTwo } from "../../base/mod.ts";

/** Smallest granule, in bytes. */
export const MIN_GRANULARITY = 512;
/** Largest granule, in bytes: the command's type is 32 bits wide. */
export const MAX_GRANULARITY = 2 ** 31;
/** Most bits of one bitmap: 8 GiB of memory, if there is so much. */
export const MAX_BITS = 2 ** 36;

/** The memory of bits, to be posted to another thread; it is the same memory there. */
export interface BitsState {
  readonly granularity: number;
  readonly size: number;
  readonly words: Uint32Array<SharedArrayBuffer>;
  /** How many are set, and whether this state has been replaced by another. */
  readonly count: Float64Array<SharedArrayBuffer>;
}

/** Bits for `size` bytes, a granule each. All lengths and offsets are in bytes. */
export class Bits {
  readonly granularity: number;
  #size: number;
  /** Granules, the last one perhaps a part only. */
  #bits: number;
  #words: Uint32Array<SharedArrayBuffer>;
  /** See BitsState. */
  #count: Float64Array<SharedArrayBuffer>;

  /** `size / granularity` is at most MAX_BITS. */
  constructor(size: number, granularity: number) {
    assert(isPowerOfTwo(granularity) && granularity >= MIN_GRANULARITY, "granularity");
    this.granularity = granularity;
    this.#size = size;
    this.#bits = Math.ceil(size / granularity);
    assert(this.#bits <= MAX_BITS, "too many bits");
    this.#words = wordsFor(this.#bits);
    this.#count = newCount();
  }

  /** Bits in memory that another thread posted. */
  static of(state: BitsState): Bits {
    const bits = new Bits(0, state.granularity);
    bits.adopt(state);
    return bits;
  }

  /** The memory, for another thread. `resize` replaces it. */
  get state(): BitsState {
    const { granularity } = this;
    return { granularity, size: this.#size, words: this.#words, count: this.#count };
  }

  /** The memory was replaced in another thread. */
  adopt({ granularity, size, words, count }: BitsState): void {
    assert(granularity === this.granularity, "granularity");
    this.#size = size;
    this.#bits = Math.ceil(size / granularity);
    this.#words = words;
    this.#count = count;
  }

  /** The thread that may have replaced the memory has failed: what is here is all that there is. */
  keep(): void {
    const count = newCount();
    count[0] = this.count;
    this.#count = count;
  }

  /** Bytes that it covers. */
  get size(): number {
    return this.#size;
  }
  /** Whether they were resized in another thread: what is here is what they were before, until `adopt`. */
  get replaced(): boolean {
    return this.#count[1] !== 0;
  }
  /** Granules that are set. */
  get count(): number {
    return this.#count[0]!;
  }
  /** Bytes of memory. */
  get memory(): number {
    return this.#words.byteLength;
  }

  /** Sets every granule that [offset, offset + length) touches; what lies beyond the end is ignored. */
  set(offset: number, length: number): void {
    const { granularity } = this;
    const first = Math.floor(offset / granularity);
    const last = Math.floor((offset + length - 1) / granularity);
    if (first === last && first < this.#bits) {
      const at = Math.floor(first / 32);
      const bit = 1 << (first & 31);
      const word = this.#words[at]!;
      if ((word & bit) !== 0 || length === 0) return;
      this.#words[at] = word | bit;
      this.#count[0]!++;
      return;
    }
    if (length > 0) this.#change(first, Math.min(last + 1, this.#bits), true);
  }

  /** Clears every granule that lies wholly in [offset, offset + length); the end counts as a granule's. */
  clear(offset: number, length: number): void {
    const end = offset + length;
    const first = Math.ceil(offset / this.granularity);
    const stop = end >= this.#size ? this.#bits : Math.floor(end / this.granularity);
    if (first < stop) this.#change(first, stop, false);
  }

  /** Clears all. */
  clearAll(): void {
    this.#words.fill(0);
    this.#count[0] = 0;
  }

  /** Whether the granule at `offset` is set. */
  has(offset: number): boolean {
    const bit = Math.floor(offset / this.granularity);
    return bit < this.#bits && (this.#words[Math.floor(bit / 32)]! & (1 << (bit & 31))) !== 0;
  }

  /**
   * Where, from `offset` on, the first byte lies whose granule is set (`dirty`) or not; `end` if there is none. What
   * lies behind the last granule is not set.
   */
  next(dirty: boolean, offset: number, end: number): number {
    if (offset >= end) return end;
    const found = this.#find(dirty, Math.floor(offset / this.granularity));
    if (dirty && found >= this.#bits) return end;
    return Math.min(Math.max(found * this.granularity, offset), end);
  }

  /** Calls `act` with each run of set granules in [offset, end), cut to that range, in order. */
  each(offset: number, end: number, act: (offset: number, length: number) => void): void {
    const stop = Math.min(end, this.#size);
    for (let at = this.next(true, offset, stop); at < stop;) {
      const clean = this.next(false, at, stop);
      act(at, clean - at);
      at = this.next(true, clean, stop);
    }
  }

  /** Sets what is set in `other`, which covers as many bytes, in granules of any size. */
  merge(other: Bits): void {
    assert(other.#size === this.#size, "bitmaps of different sizes");
    if (other.granularity !== this.granularity) {
      other.each(0, other.#size, (offset, length) => this.set(offset, length));
      return;
    }
    const [to, from] = [this.#words, other.#words];
    for (let i = 0; i < to.length; i++) to[i] = to[i]! | from[i]!;
    this.#recount();
  }

  /**
   * Changes the length in bytes; new granules are clean, and so is what the end cut a granule short of. Other threads
   * find that their state was replaced before they could miss what is set from now on.
   */
  resize(size: number): void {
    if (size === this.#size) return;
    const bits = Math.ceil(size / this.granularity);
    assert(bits <= MAX_BITS, "too many bits");
    if (bits < this.#bits) this.#change(bits, this.#bits, false);
    if (wordCount(bits) !== this.#words.length) {
      const words = wordsFor(bits);
      words.set(this.#words.subarray(0, Math.min(words.length, this.#words.length)));
      this.#words = words;
    }
    this.#size = size;
    this.#bits = bits;
    const before = this.#count;
    this.#count = newCount();
    this.#count[0] = before[0]!;
    before[1] = 1;
  }

  /** The memory as bytes, with clear bits after the last granule. Valid until the next `resize`. */
  get bytes(): Uint8Array<SharedArrayBuffer> {
    return new Uint8Array(this.#words.buffer);
  }

  /**
   * Replaces the bits of the bytes from `at` of the memory on, a multiple of 4; bits after the last granule are
   * ignored. Memory that nothing is loaded into is not touched.
   */
  load(at: number, bytes: Uint8Array): void {
    const taken = bytes.subarray(0, Math.max(0, Math.ceil(this.#bits / 8) - at));
    if (taken.length === 0) return;
    const words = this.#words.subarray(at / 4, Math.ceil((at + taken.length) / 4));
    let added = 0;
    for (const word of words) added -= ones(word);
    this.bytes.set(taken, at);
    const tail = this.#bits % 32;
    const last = Math.floor(this.#bits / 32);
    if (tail > 0 && at / 4 + words.length > last) {
      this.#words[last] = this.#words[last]! & ((1 << tail) - 1);
    }
    for (const word of words) added += ones(word);
    this.#count[0]! += added;
  }

  /** What all of `length` bytes of the memory from `at` on are, both multiples of 4; undefined: they differ. */
  uniform(at: number, length: number): 0 | 0xff | undefined {
    const words = this.#words;
    const end = Math.min((at + length) / 4, words.length);
    const first = words[at / 4] ?? 0;
    if (first !== 0 && first !== 0xffffffff) return undefined;
    if (first !== 0 && (at + length) / 4 > words.length) return undefined;
    for (let i = at / 4 + 1; i < end; i++) if (words[i] !== first) return undefined;
    return first === 0 ? 0 : 0xff;
  }

  /** Sets or clears bits [first, stop). */
  #change(first: number, stop: number, value: boolean): void {
    if (first >= stop) return;
    const words = this.#words;
    const from = Math.floor(first / 32);
    const to = Math.floor((stop - 1) / 32);
    let added = 0;
    for (let at = from; at <= to; at++) {
      let mask = -1;
      if (at === from) mask &= -1 << (first & 31);
      if (at === to) mask &= -1 >>> (31 - ((stop - 1) & 31));
      const before = words[at]!;
      const after = value ? before | mask : before & ~mask;
      words[at] = after;
      added += ones(after) - ones(before);
    }
    this.#count[0]! += added;
  }

  /** The first bit from `bit` on that is as wanted; the number of bits, if there is none. */
  #find(wanted: boolean, bit: number): number {
    if (bit >= this.#bits) return this.#bits;
    const words = this.#words;
    const flip = wanted ? 0 : -1;
    let at = Math.floor(bit / 32);
    let word = (words[at]! ^ flip) & (-1 << (bit & 31));
    while (word === 0) {
      if (++at >= words.length) return this.#bits;
      word = words[at]! ^ flip;
    }
    return Math.min(at * 32 + 31 - Math.clz32(word & -word), this.#bits);
  }

  #recount(): void {
    let count = 0;
    for (const word of this.#words) if (word !== 0) count += ones(word);
    this.#count[0] = count;
  }
}

/** How many words so many bits need: an even number. */
function wordCount(bits: number): number {
  return alignUp(Math.ceil(bits / 32), 2);
}

/** See BitsState. */
function newCount(): Float64Array<SharedArrayBuffer> {
  return new Float64Array(new SharedArrayBuffer(16));
}

/** Words for so many bits. Throws RangeError where so much memory cannot be had. */
function wordsFor(bits: number): Uint32Array<SharedArrayBuffer> {
  return new Uint32Array(new SharedArrayBuffer(wordCount(bits) * 4));
}

/** How many bits of a 32-bit word are set. */
function ones(word: number): number {
  word -= (word >>> 1) & 0x55555555;
  word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
