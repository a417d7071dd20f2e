/** Native buffers by size class (powers of two from 4 KiB), reused so that the hot path maps nothing. */
import { assert, isPowerOfTwo, MiB } from "../base/mod.ts";
import type { BufferPool, Memory } from "./types.ts";

const SMALLEST = 4096;
/** Bytes kept for reuse unless told otherwise: bounded, so that one burst does not stay forever. */
const KEEP = 32 * MiB;

/** BufferPool over mmap'ed regions. */
export class SizeClassPool implements BufferPool {
  readonly #allocate: (length: number) => Memory;
  readonly #keep: number;
  readonly #classes: Memory[][] = [];
  #inUse = 0;
  #kept = 0;
  /** Addresses in buffers, and in other memory, that are to be left alone when they are let go. */
  #surrendered: number[] = [];

  /** `allocate` gives zeroed pages; `keep`: most bytes to hold back for reuse. */
  constructor(allocate: (length: number) => Memory, keep: number = KEEP) {
    this.#allocate = allocate;
    this.#keep = keep;
  }

  get inUse(): number {
    return this.#inUse;
  }

  get kept(): number {
    return this.#kept;
  }

  acquire(length: number): Memory {
    assert(length > 0);
    const kept = this.#class(length).pop();
    if (kept !== undefined) {
      this.#kept -= kept.length;
      this.#inUse += kept.length;
      return kept;
    }
    const memory = this.#allocate(classSize(length));
    this.#inUse += memory.length;
    return memory;
  }

  release(buffer: Memory): void {
    assert(isPowerOfTwo(buffer.length) && buffer.length <= this.#inUse, "not from this pool");
    this.#inUse -= buffer.length;
    if (this.surrendered(buffer)) return;
    if (this.#kept + buffer.length > this.#keep) {
      buffer.unmap();
      return;
    }
    this.#kept += buffer.length;
    this.#class(buffer.length).push(buffer);
  }

  surrender(address: number): void {
    this.#surrendered.push(address);
  }

  surrendered({ address, length }: Pick<Memory, "address" | "length">): boolean {
    if (this.#surrendered.length === 0) return false;
    const within = (at: number) => at >= address && at < address + length;
    if (!this.#surrendered.some(within)) return false;
    this.#surrendered = this.#surrendered.filter((at) => !within(at));
    return true;
  }

  trim(): void {
    for (const list of this.#classes) {
      for (const memory of list) memory.unmap();
      list.length = 0;
    }
    this.#kept = 0;
  }

  #class(length: number): Memory[] {
    const index = classOf(length);
    while (this.#classes.length <= index) this.#classes.push([]);
    return this.#classes[index]!;
  }
}

/** The logarithm of a buffer's size. Whole numbers: logarithms of the library take longer than the rest of it. */
function classOf(length: number): number {
  assert(length <= 2 ** 31);
  return 32 - Math.clz32(Math.max(length, SMALLEST) - 1);
}

function classSize(length: number): number {
  return 2 ** classOf(length);
}
