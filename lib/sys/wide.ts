/**
 * Numbers as 64-bit arguments of foreign functions. V8 makes a fast call only if such an argument is a BigInt; given
 * a number, the optimized caller is thrown away each time, and compiled again, without end (measured: 400 ns a call,
 * and a compiler thread kept busy, instead of 20 ns). A BigInt that is read from a BigUint64Array as the argument itself
 * never becomes an object: the optimizing compiler keeps its bits in a register.
 */

/** Numbers from here on have no bits to spare in a double. */
const LIMIT = 2 ** 52;
/** Added to a smaller number, it puts the number's bits as they are into the lower 52 bits of the double. */
const MAGIC = 2 ** 52;

/** One memory cell through which numbers become BigInts. One per thread and user: it holds nothing. */
export class Wide {
  readonly #double = new Float64Array(1);
  readonly #bits = new BigUint64Array(this.#double.buffer);

  /** `n`, an integer: an address, an offset or a length, as a rule. Negative numbers are for signed parameters. */
  of(n: number): bigint {
    if (!(n >= 0 && n < LIMIT)) return BigInt(n);
    this.#double[0] = n + MAGIC;
    return BigInt.asUintN(52, this.#bits[0]!);
  }
}
