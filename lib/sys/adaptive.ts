/**
 * How long to poll before sleeping, learnt from how long the waits were: the meaning of an iothread's
 * poll-max-ns, poll-grow and poll-shrink (QAPI IothreadProperties). Pure. Times in nanoseconds.
 */

/** First polling time when it grows from nothing. */
const FIRST_NS = 4000;

/** Polling time that adapts between 0 and `maxNs`. */
export class AdaptivePolling {
  /** Polling time now. */
  ns = 0;
  maxNs = 32768;
  /** Factor by which it grows; 0: 2. */
  grow = 0;
  /** Divisor by which it shrinks; 0: down to nothing at once. */
  shrink = 0;

  /** Changes the limits. */
  configure(options: { pollMaxNs?: number; pollGrow?: number; pollShrink?: number }): void {
    this.maxNs = options.pollMaxNs ?? this.maxNs;
    this.grow = options.pollGrow ?? this.grow;
    this.shrink = options.pollShrink ?? this.shrink;
    this.ns = Math.min(this.ns, this.maxNs);
  }

  /** Learns from a wait of `waitedNs` without work, polled or slept, that has just ended with work. */
  learn(waitedNs: number): void {
    if (waitedNs <= this.ns) return; // polling caught it: right as it is
    if (waitedNs > this.maxNs) {
      // Polling could not have caught it, however long: it is wasted.
      this.ns = this.shrink === 0 ? 0 : Math.floor(this.ns / this.shrink);
      return;
    }
    const grown = this.ns === 0 ? FIRST_NS : this.ns * (this.grow === 0 ? 2 : this.grow);
    this.ns = Math.min(grown, this.maxNs);
  }
}
