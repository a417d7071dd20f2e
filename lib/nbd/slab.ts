/** Reference-counted pieces of native memory that requests and replies are laid out in. */
import { assert } from "../base/mod.ts";
import type { BufferPool, Memory } from "../sys/mod.ts";

/** A pool buffer with several users: the connection that fills it and requests whose data lies in it. */
export class Slab {
  readonly memory: Memory;
  readonly #pool: BufferPool;
  #references = 1;

  /** A buffer of at least `length` bytes, with one reference. */
  constructor(pool: BufferPool, length: number) {
    this.#pool = pool;
    this.memory = pool.acquire(length);
  }

  /** Whether the caller, who holds one reference, is the only user. */
  get exclusive(): boolean {
    return this.#references === 1;
  }

  /** One more user. */
  retain(): void {
    assert(this.#references > 0);
    this.#references++;
  }

  /** One user less; the last one gives the memory back. */
  release(): void {
    assert(this.#references > 0);
    if (--this.#references === 0) this.#pool.release(this.memory);
  }
}
