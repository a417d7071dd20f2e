/**
 * Decides whether calls that may block are made inline. An inline call costs 1-2 us, one through the pool 30-45
 * us; but when the kernel makes a caller wait (dirty throttling, a slow disk) the whole loop waits with it.
 *
 * So calls are timed, and after a slow one all go to the pool until a run of them was quick there. Under load
 * one clock reading a call is enough: if little time has passed since the last reading, the call was quick.
 */

/** Slower than this plus NS_PER_BYTE for each byte is slow, in nanoseconds. */
const SLOW_NS = 2_000_000;
/** What copying may cost: 1 GB/s. */
const NS_PER_BYTE = 1;
/** So many quick calls in a row, on the pool, bring back inline calls. */
const QUICK_RUN = 256;

/** One for each kind of call on a file. Times in nanoseconds, lengths in bytes. */
export class SlowGuard {
  /** Calls go to the pool now. */
  slow = false;
  /** How often calls were moved to the pool, for tests and status. */
  switches = 0;
  #lastNs = 0;
  #exact = true;
  #quick = 0;

  constructor(readonly clock: { monotonicNs(): number }) {}

  /** Before an inline call. */
  begin(): void {
    if (this.#exact) this.#lastNs = this.clock.monotonicNs();
  }

  /** After an inline call that moved `length` bytes. */
  end(length: number): void {
    const now = this.clock.monotonicNs();
    const took = now - this.#lastNs;
    this.#lastNs = now;
    if (took < SLOW_NS + length * NS_PER_BYTE) {
      this.#exact = false;
    } else if (this.#exact) {
      this.slow = true;
      this.switches++;
      this.#quick = 0;
    } else {
      // Slow, or there was a pause before the call: look closely at the next one.
      this.#exact = true;
    }
  }

  /** After a pool call of `length` bytes that took `ns` from submission to completion. */
  pooled(length: number, ns: number): void {
    if (!this.slow) return;
    if (ns >= 2 * SLOW_NS + length * NS_PER_BYTE) {
      this.#quick = 0;
    } else if (++this.#quick >= QUICK_RUN) {
      this.slow = false;
      this.#exact = true;
    }
  }
}
