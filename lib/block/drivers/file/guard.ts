/**
 * Decides whether calls that may block are made inline. An inline call costs 1-2 us, one through the pool 30-45
 * us; but when the kernel makes a caller wait (dirty throttling, a slow disk) the whole loop waits with it.
 *
 * So calls are timed, and after a slow one all go to the pool until a run of them was quick there. Under load
 * one clock reading for several calls is enough: if little time has passed since the last reading, all of them
 * were quick. If more has passed, that may have been a pause between calls, so the next ones are timed singly.
 * A call that took long without having waited for anything has lost its CPU to others, and would have on the pool.
 *
 * The stay on the pool is short on purpose. Measured on ext4, 4k 70/30 while all of the file is written back: inline
 * 73 000 requests/s, all writes on the pool 34 000, at three times the CPU time. A write waits there for the lock of a
 * large folio (50 to 80 ms), holding the lock of the file: other threads' writes would stand behind it all the same.
 */

/** The time, and how often this thread has waited; as Sys has them. */
export interface GuardClock {
  monotonicNs(): number;
  waits(): number;
}

/** Slower than this plus NS_PER_BYTE for each byte is slow, in nanoseconds. */
const SLOW_NS = 2_000_000;
/** What copying may cost: 1 GB/s. */
const NS_PER_BYTE = 1;
/** What the pool may take for each byte that it has been asked for: its threads share the CPUs. */
const NS_PER_QUEUED_BYTE = 4;
/** Calls for one clock reading. */
const WINDOW = 8;
/** Calls timed singly after a suspicious window: the kernel holds up one writer's call in 32 or so. */
const EXACT_RUN = 128;
/** So many quick calls in a row, on the pool, bring back inline calls. */
const QUICK_RUN = 256;

/** One for each kind of call on a file. Times in nanoseconds, lengths in bytes. */
export class SlowGuard {
  /** Calls go to the pool now. */
  slow = false;
  /** How often calls were moved to the pool, for tests and status. */
  switches = 0;
  #lastNs = 0;
  /** Calls still to be timed singly. */
  #exact = EXACT_RUN;
  /** Calls and bytes since the last reading. */
  #calls = 0;
  #bytes = 0;
  #quick = 0;
  /** GuardClock.waits before the call that is timed singly. */
  #waits = 0;
  /** Bytes asked of the pool. */
  #queued = 0;

  constructor(readonly clock: GuardClock) {}

  /** Before an inline call. */
  begin(): void {
    if (this.#exact === 0) return;
    this.#lastNs = this.clock.monotonicNs();
    this.#waits = this.clock.waits();
  }

  /** After an inline call that moved `length` bytes. */
  end(length: number): void {
    this.#bytes += length;
    if (this.#exact === 0 && ++this.#calls < WINDOW) return;
    const now = this.clock.monotonicNs();
    const quick = now - this.#lastNs < SLOW_NS + this.#bytes * NS_PER_BYTE;
    this.#lastNs = now;
    this.#calls = this.#bytes = 0;
    if (this.#exact === 0) {
      if (!quick) this.#exact = EXACT_RUN;
    } else if (quick || this.clock.waits() === this.#waits) {
      this.#exact--;
    } else {
      this.slow = true;
      this.switches++;
      this.#quick = 0;
    }
  }

  /** Before a pool call of `length` bytes: all bytes asked of the pool, for `pooled`. `leave` follows. */
  enter(length: number): number {
    return this.#queued += length;
  }

  /** After a pool call of `length` bytes. */
  leave(length: number): void {
    this.#queued -= length;
  }

  /** A pool call has taken `ns` from submission to completion; `enter` had answered `queued`. */
  pooled(queued: number, ns: number): void {
    if (!this.slow) return;
    if (ns >= 2 * SLOW_NS + queued * NS_PER_QUEUED_BYTE) {
      this.#quick = 0;
    } else if (++this.#quick >= QUICK_RUN) {
      this.slow = false;
      this.#exact = EXACT_RUN;
    }
  }
}
