/** What a load generator is asked to do, and what it answers. Pure: also the wire form between processes. */

/** Access patterns, with fio's names. `rw` mixes reads and writes. */
export const PATTERNS = ["read", "write", "rw", "randread", "randwrite", "randrw"] as const;
export type Pattern = (typeof PATTERNS)[number];

/** One run. */
export interface Workload {
  /** Where the server listens. */
  readonly target: { path: string } | { host: string; port: number };
  readonly exportName: string;
  readonly pattern: Pattern;
  /** Reads among the requests of `rw` and `randrw`, in percent. */
  readonly readPercent: number;
  /** Bytes of each request; requests are aligned to it. */
  readonly blockSize: number;
  /** Requests in flight on each connection. */
  readonly depth: number;
  readonly connections: number;
  /** Length of the measured window; ignored with `count`. */
  readonly seconds: number;
  /** Seconds of load before the window. */
  readonly warmup: number;
  /** Requests to make in all, instead of a time; 0: none. */
  readonly count: number;
  readonly seed: number;
  /** Ask for structured replies. */
  readonly structured: boolean;
  /** Write the pattern of `pattern.ts`, and compare all that is read with it (slow). */
  readonly verify: boolean;
  /** Time each request. */
  readonly latency: boolean;
  /** Process whose CPU time over the window is wanted (the server's), or 0. */
  readonly cpuOf: number;
}

/** Latencies in microseconds. */
export interface Latency {
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** What came of it. */
export interface Result {
  /** Requests completed in the window. */
  readonly requests: number;
  readonly seconds: number;
  /** Requests a second. */
  readonly rate: number;
  readonly bytesPerSecond: number;
  /** Calls of recv and send in the window, together; per request. */
  readonly callsPerRequest: number;
  /** CPU time of the generator itself per request, microseconds. */
  readonly generatorCpuUs: number;
  /** CPU time of `cpuOf` per request, microseconds; null without. */
  readonly serverCpuUs: number | null;
  /** Replies with an NBD error, by its number; of the whole run. */
  readonly errors: Record<string, number>;
  readonly latency: Latency | null;
}

/** The defaults; everything but the target. */
export const DEFAULTS: Omit<Workload, "target"> = {
  exportName: "",
  pattern: "randread",
  readPercent: 70,
  blockSize: 4096,
  depth: 32,
  connections: 1,
  seconds: 1,
  warmup: 0.2,
  count: 0,
  seed: 1,
  structured: false,
  verify: false,
  latency: false,
  cpuOf: 0,
};

/** xorshift32: quick, seeded, and good enough to scatter offsets. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = (Math.imul(seed, 0x9e3779b1) ^ 0x85ebca6b) | 0 || 1;
    for (let i = 0; i < 8; i++) this.below(1);
  }

  /** A whole number in [0, limit), `limit` at most 2^32. */
  below(limit: number): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return Math.floor((x >>> 0) * limit / 4294967296);
  }
}

/** Fills `bytes` with what belongs at byte `offset` of an image under the verified pattern of `seed`. */
export function fillPattern(bytes: Uint8Array, offset: number, seed: number): void {
  for (let i = 0; i < bytes.length; i++) bytes[i] = patternByte(offset + i, seed);
}

/** Whether `bytes` are what belongs at byte `offset` under the pattern of `seed`. */
export function matchesPattern(bytes: Uint8Array, offset: number, seed: number): boolean {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== patternByte(offset + i, seed)) return false;
  }
  return true;
}

/** Depends on all of the offset (a lost or doubled block shows) and never on where the request began. */
function patternByte(offset: number, seed: number): number {
  const word = Math.floor(offset / 4);
  let hash = Math.imul(word | 0, 0x9e3779b1) ^
    Math.imul(Math.floor(word / 4294967296) + seed, 0x85ebca6b);
  hash ^= hash >>> 15;
  return (hash >>> ((offset & 3) * 8)) & 255;
}
