/**
 * Many clusters, by number, in little memory: a bit each where there are many of them, two bytes where there are few.
 * What a snapshot of terabytes gives back when it is deleted takes some megabytes.
 */

/** Clusters that share a part: their numbers differ in the low bits only. */
const PART_BITS = 16;
const PART = 1 << PART_BITS;
/** A part with more than so many is kept as bits. */
const FEW = 256;

/** Neighbouring clusters. */
export interface ClusterRun {
  readonly first: number;
  readonly count: number;
}

/** Some clusters in the order in which they came, or a bit for each that is there. */
interface Part {
  few: Uint16Array | undefined;
  length: number;
  bits: Uint32Array | undefined;
}

/** A set of clusters. */
export class ClusterSet {
  readonly #parts = new Map<number, Part>();
  #lastKey = -1;
  #last: Part | undefined;

  /** Bytes that it takes, without what each part costs by itself. */
  get bytes(): number {
    let sum = 0;
    for (const { few, bits } of this.#parts.values()) sum += (few ?? bits)!.byteLength;
    return sum;
  }

  add(cluster: number): void {
    const key = Math.floor(cluster / PART);
    const part = key === this.#lastKey ? this.#last! : this.#part(key);
    const at = cluster % PART;
    if (part.few !== undefined && part.length === part.few.length) grow(part);
    if (part.few !== undefined) part.few[part.length++] = at;
    else part.bits![at >> 5]! |= 1 << (at & 31);
  }

  #part(key: number): Part {
    let part = this.#parts.get(key);
    if (part === undefined) {
      part = { few: new Uint16Array(4), length: 0, bits: undefined };
      this.#parts.set(key, part);
    }
    this.#lastKey = key;
    return this.#last = part;
  }

  /** Takes out all of them, in rising order, each once. */
  *take(): Iterable<ClusterRun> {
    const keys = Float64Array.from(this.#parts.keys()).sort();
    for (const key of keys) {
      const part = this.#parts.get(key)!;
      this.#parts.delete(key);
      yield* runs(bitsOf(part), key * PART);
    }
    this.#lastKey = -1;
    this.#last = undefined;
  }
}

/** Makes room for one more. */
function grow(part: Part): void {
  if (part.length < FEW) {
    const few = new Uint16Array(part.length * 2);
    few.set(part.few!);
    part.few = few;
  } else {
    part.bits = bitsOf(part);
    part.few = undefined;
  }
}

function bitsOf({ few, length, bits }: Part): Uint32Array {
  if (bits !== undefined) return bits;
  const made = new Uint32Array(PART / 32);
  for (let i = 0; i < length; i++) made[few![i]! >> 5]! |= 1 << (few![i]! & 31);
  return made;
}

function* runs(bits: Uint32Array, base: number): Iterable<ClusterRun> {
  let first = -1;
  for (let word = 0; word < bits.length; word++) {
    const value = bits[word]!;
    // Nothing begins or ends here.
    if (first < 0 ? value === 0 : value === 0xffffffff) continue;
    for (let bit = 0; bit < 32; bit++) {
      const at = word * 32 + bit;
      if ((value >>> bit & 1) !== 0) {
        if (first < 0) first = at;
      } else if (first >= 0) {
        yield { first: base + first, count: at - first };
        first = -1;
      }
    }
  }
  if (first >= 0) yield { first: base + first, count: PART - first };
}
