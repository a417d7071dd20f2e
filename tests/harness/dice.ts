import { chance, type Pick } from "../../lib/base/mod.ts";

/** Chance that can be repeated. */
export class Dice {
  readonly #pick: Pick;

  constructor(seed: number) {
    this.#pick = chance(seed);
  }
  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number {
    return Math.floor(this.#pick(2 ** 32) / 2 ** 32 * limit);
  }
  /** One of them. */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }
  /** Puts them in another order, in place. */
  shuffle(items: unknown[]): void {
    for (let last = items.length - 1; last > 0; last--) {
      const other = this.below(last + 1);
      [items[last], items[other]] = [items[other], items[last]];
    }
  }
}
