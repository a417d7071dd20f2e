/** Chance that can be repeated, for fuzzers and tests of random operations. */

/** A number in [0, n). */
export type Pick = (n: number) => number;

/** mulberry32: the same numbers for the same seed. */
export function chance(seed: number): Pick {
  let state = seed >>> 0;
  return (n) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}
