/** Statistics for benchmarks: medians, percentiles and a latency histogram. Pure. */

/** The middle value (mean of the two middle ones of an even number); NaN of nothing. */
export function median(values: readonly number[]): number {
  if (values.length === 0) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** The smallest value that at least `p` (0..1) of the values do not exceed (nearest rank). */
export function percentile(values: readonly number[], p: number): number {
  if (values.length === 0) return NaN;
  const sorted = [...values].sort((a, b) => a - b);
  const rank = Math.ceil(p * sorted.length);
  return sorted[Math.min(sorted.length, Math.max(1, rank)) - 1]!;
}

/**
 * The standard error of the median, as a part of it: how far that of another run is likely to be from this one. From the
 * distance of the quartiles, so that a single slice that the machine held up counts no more than any other; as for a
 * normal distribution (1.25 s / sqrt(n), and the quartiles are 1.35 s apart).
 */
export function medianError(values: readonly number[]): number {
  if (values.length === 0) return NaN;
  const quartiles = percentile(values, 0.75) - percentile(values, 0.25);
  return 1.25 / 1.35 * quartiles / Math.sqrt(values.length) / median(values);
}

/** The error that is good enough, and how many times the slices asked for may be taken to get there. */
const GOOD_ERROR = 0.08;
const MOST = 3;

/**
 * Whether a row is measured: all servers have `slices` rates, and all medians are good, or there are three times as many
 * slices. What the ratio of two servers is plays no part.
 */
export function measured(
  servers: Iterable<readonly { readonly rate: number }[]>,
  slices: number,
): boolean {
  for (const samples of servers) {
    const rates = samples.map(({ rate }) => rate);
    if (rates.length < slices) return false;
    if (rates.length < slices * MOST && medianError(rates) > GOOD_ERROR) return false;
  }
  return true;
}

/** Sub-buckets a power of two: values are kept to within 1/64. */
const SUB = 64;

/**
 * Counts durations in buckets whose width grows with the value (a sixty-fourth of each power of two),
 * so that recording costs a few nanoseconds and a percentile is right to 2 %. Unit: nanoseconds.
 */
export class Histogram {
  readonly #counts = new Uint32Array(SUB * 44);
  #total = 0;
  #max = 0;

  /** Counts one duration in nanoseconds. Negative durations count as zero. */
  record(ns: number): void {
    const value = ns < 0 ? 0 : ns;
    this.#counts[bucketOf(value)]!++;
    this.#total++;
    if (value > this.#max) this.#max = value;
  }

  /** Number of durations recorded. */
  get total(): number {
    return this.#total;
  }

  /** The longest duration in nanoseconds, exactly. */
  get max(): number {
    return this.#max;
  }

  /** The duration that part `p` (0..1) of the records do not exceed, in nanoseconds; NaN of nothing. */
  percentile(p: number): number {
    if (this.#total === 0) return NaN;
    let left = Math.max(1, Math.ceil(p * this.#total));
    for (let i = 0; i < this.#counts.length; i++) {
      left -= this.#counts[i]!;
      if (left <= 0) return Math.min(bucketTop(i), this.#max);
    }
    return this.#max;
  }

  /** Forgets everything. */
  reset(): void {
    this.#counts.fill(0);
    this.#total = 0;
    this.#max = 0;
  }
}

function bucketOf(ns: number): number {
  if (ns < SUB) return Math.floor(ns);
  const power = Math.min(Math.floor(Math.log2(ns)), 48);
  const sub = Math.min(Math.floor(ns / 2 ** (power - 6)) - SUB, SUB - 1);
  return (power - 5) * SUB + sub;
}

function bucketTop(index: number): number {
  if (index < SUB) return index;
  const power = Math.floor(index / SUB) + 5;
  return (SUB + (index % SUB) + 1) * 2 ** (power - 6) - 1;
}
