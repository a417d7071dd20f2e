/**
 * How large reads are answered fastest for one client: sent from the page cache, or copied first. Sending costs this
 * side a quarter of the CPU time and is two to three times as fast, as a rule. But where data lies in its pages is
 * given then, and a processor may copy from there to where the client wants it at a fraction of its speed: an AMD EPYC
 * at a fifth, if the client's address lies 4 to 28 bytes further in its page, as with every large malloc of glibc.
 * Nobody but the client knows its addresses, so both ways are tried.
 */

/** Bytes answered in one way before its time is taken; more than a socket's buffer holds. */
const PHASE = 8 * 1024 * 1024;
/** Phases of a trial: every other one is sent. */
const PHASES = 4;
/** What copying must gain to be chosen: its cost in CPU time is ours alone. */
const GAIN = 1.25;
/** Bytes until the next trial; four times as many after each. */
const HOLD = 256 * 1024 * 1024;
const HOLD_MAX = 64 * 1024 * 1024 * 1024;

/** CLOCK_MONOTONIC, as Sys has it. */
export interface Clock {
  monotonicNs(): number;
}

/** The choice of one connection. */
export class Trial {
  /** To be sent from the page cache. */
  sends = true;
  /** Bytes left of this phase, or until the next trial. */
  #left = PHASE;
  /** Phases of this trial that are over; the choice is made when all are. */
  #phase = 0;
  #began = -1;
  /** Nanoseconds of the fastest phase sent, and copied. */
  #sent = Infinity;
  #copied = Infinity;
  #hold = HOLD;

  constructor(readonly clock: Clock) {}

  /** A large read of `length` bytes is about to be answered, as `sends` says. */
  count(length: number): void {
    this.#left -= length;
    if (this.#left > 0) return;
    const now = this.clock.monotonicNs();
    // What is counted first only fills the socket, and what follows a choice is not measured.
    if (this.#began < 0) {
      this.#began = now;
      this.#left = PHASE;
      this.sends = true;
      return;
    }
    const took = now - this.#began;
    if (this.sends) this.#sent = Math.min(this.#sent, took);
    else this.#copied = Math.min(this.#copied, took);
    if (++this.#phase < PHASES) {
      this.#began = now;
      this.#left = PHASE;
      this.sends = !this.sends;
    } else {
      this.#choose();
    }
  }

  #choose(): void {
    this.sends = this.#sent <= this.#copied * GAIN;
    this.#left = this.#hold;
    this.#hold = Math.min(this.#hold * 4, HOLD_MAX);
    this.#phase = 0;
    this.#began = -1;
    this.#sent = this.#copied = Infinity;
  }
}
