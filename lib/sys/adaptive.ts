/**
 * How long to poll before sleeping, learnt from how long the waits were: the meaning of an iothread's
 * poll-max-ns, poll-grow and poll-shrink (QAPI IothreadProperties). Pure. Times in nanoseconds.
 *
 * A wait that was longer than the polling makes polling longer, and that may be the only effect: where whoever is
 * waited for needs this very CPU it begins once this thread sleeps, however long it polls. So when polling has been
 * tried up to its limit and has not ended one wait, a number of waits are slept through, and more the next time.
 */

/** First polling time when it grows from nothing. */
const FIRST_NS = 4000;
/** Waits that are slept through after polling in vain, at first and at most. */
const REST_FIRST = 8;
const REST_MOST = 256;

/**
 * The longest polling where nothing else is asked for (an iothread has QEMU's 32768). A client with one request in
 * flight sends the next one 20 to 80 us after a reply, most of which it took to wake up. That is shorter than waking
 * both sides each time, and costs less CPU time: measured, 1.7 times the rate at 0.75 of the CPU time per request.
 */
const MAX_NS = 100_000;

/** Polling time that adapts between 0 and `maxNs`. */
export class AdaptivePolling {
  /** Polling time now. */
  ns = 0;
  maxNs = MAX_NS;
  /** Factor by which it grows; 0: 2. */
  grow = 0;
  /** Divisor by which it shrinks; 0: down to nothing at once. */
  shrink = 0;
  /** Whether polling has ended a wait since it last shrank. */
  #caught = false;
  /** Waits that will still be slept through, and how many it will be the next time. */
  #rest = 0;
  #nextRest = REST_FIRST;

  /** Changes the limits. */
  configure(options: { pollMaxNs?: number; pollGrow?: number; pollShrink?: number }): void {
    this.maxNs = options.pollMaxNs ?? this.maxNs;
    this.grow = options.pollGrow ?? this.grow;
    this.shrink = options.pollShrink ?? this.shrink;
    this.ns = Math.min(this.ns, this.maxNs);
    this.#rest = 0;
    this.#nextRest = REST_FIRST;
  }

  /** Learns from a wait of `waitedNs` without work, polled or slept, that has just ended with work. */
  learn(waitedNs: number): void {
    const { ns } = this;
    if (waitedNs <= ns) { // right as it is
      this.#caught = true;
      this.#nextRest = REST_FIRST;
    } else if (this.#rest > 0) {
      this.#rest--;
    } else if (waitedNs > this.maxNs) {
      // Polling could not have caught it, however long: it is wasted.
      this.ns = this.shrink === 0 ? 0 : Math.floor(ns / this.shrink);
      if (ns > 0 && this.ns === 0 && !this.#caught) this.#relax();
      this.#caught = false;
    } else {
      const grown = ns === 0 ? FIRST_NS : ns * (this.grow === 0 ? 2 : this.grow);
      this.ns = Math.min(grown, this.maxNs);
    }
  }

  #relax(): void {
    this.#rest = this.#nextRest;
    this.#nextRest = Math.min(2 * this.#nextRest, REST_MOST);
  }
}
