/**
 * How large reads are answered fastest for one client: sent from the page cache, or copied first. Sending costs this
 * side a third of the CPU time and is twice as fast, as a rule. But where data lies in its pages is given then, and a
 * processor may copy from there to where the client wants it at a fraction of its speed: an AMD EPYC at a fifth, if the
 * client's address lies 4 to 28 bytes further in its page, as with every large malloc of glibc. Nobody but the client
 * knows its addresses, so both ways are tried.
 *
 * The next client of an export is most often the same program: it begins with what the last trial chose. A trial that
 * says otherwise is repeated before it is believed; the machine may just have been busy.
 *
 * That is for one client at a time. When several read from an export at once they share this thread, so what costs it
 * least is fastest for all of them: data is sent, and nothing is tried.
 */

/** Bytes after a change of the way that are not measured: a socket's buffer still holds what went the other way. */
const SETTLE = 3 * 1024 * 1024;
/** Bytes that are measured then. */
const MEASURE = 5 * 1024 * 1024;
/** Measurements of a trial: every other one is of sending. */
const MEASUREMENTS = 4;
/** What copying must gain to be chosen: its cost in CPU time is ours alone. */
const GAIN = 1.25;
/** Bytes until the next trial; four times as many after each that confirms the one before. */
const HOLD = 256 * 1024 * 1024;
const HOLD_MAX = 64 * 1024 * 1024 * 1024;
/** Bytes until a new client is tried that begins with what another one's trial chose. */
const HOLD_NEW = 32 * 1024 * 1024;
/** How often a client looks, in bytes, whether it is alone: others have had less than a part of what it has had. */
const LOOK = 8 * 1024 * 1024;
const PART = 1 / 8;

/** CLOCK_MONOTONIC, as Sys has it. */
export interface Clock {
  monotonicNs(): number;
}

/** The large reads of all clients of an export. */
export class Traffic {
  /** What they have asked for, in bytes. */
  large = 0;
  /** What the last trial chose (to send), and for how many bytes; unknown while several clients read. */
  chosen: boolean | undefined;
  hold: number = HOLD;
}

/** The choice of one connection. */
export class Trial {
  /** To be sent from the page cache. */
  sends: boolean;
  /** Bytes counted since the last step, and when the next one is. */
  #bytes = 0;
  #until: number;
  /** All traffic at the last step. */
  #before: number;
  /** Bytes that the choice still holds for; none: a trial is under way. */
  #left: number;
  /** The trial before this one said otherwise than what is chosen. */
  #doubt = false;
  /** Measurements of this trial that are over; when the one under way began, or -1. */
  #measured = 0;
  #began = -1;
  /** Nanoseconds a byte, in the fastest measurement of each way. */
  #sent = Infinity;
  #copied = Infinity;

  constructor(readonly clock: Clock, readonly traffic: Traffic) {
    this.#before = traffic.large;
    const { chosen } = traffic;
    this.sends = chosen ?? true;
    this.#until = chosen === undefined ? SETTLE : LOOK;
    this.#left = chosen === undefined ? 0 : HOLD_NEW;
  }

  /** A large read of `length` bytes is about to be answered, as `sends` says. */
  count(length: number): void {
    this.traffic.large += length;
    this.#bytes += length;
    if (this.#bytes >= this.#until) this.#step();
  }

  #step(): void {
    const bytes = this.#bytes;
    const others = this.traffic.large - this.#before - bytes;
    this.#before = this.traffic.large;
    this.#bytes = 0;
    if (others > bytes * PART) {
      this.#left = 0;
      this.traffic.chosen = undefined;
      this.#begin();
    } else if (this.#left > 0) {
      this.#left -= bytes;
      if (this.#left <= 0) this.#begin();
    } else if (this.#began < 0) {
      this.#began = this.clock.monotonicNs();
      this.#until = MEASURE;
    } else {
      this.#learn((this.clock.monotonicNs() - this.#began) / bytes);
    }
  }

  /** A trial begins. */
  #begin(): void {
    this.#sent = this.#copied = Infinity;
    this.#measured = 0;
    this.#settle(true);
  }

  #settle(sends: boolean): void {
    this.sends = sends;
    this.#began = -1;
    this.#until = SETTLE;
  }

  #learn(ns: number): void {
    if (this.sends) this.#sent = Math.min(this.#sent, ns);
    else this.#copied = Math.min(this.#copied, ns);
    if (++this.#measured < MEASUREMENTS) this.#settle(!this.sends);
    else this.#choose();
  }

  #choose(): void {
    const { traffic } = this;
    const choice = this.#sent <= this.#copied * GAIN;
    this.#doubt = !this.#doubt && traffic.chosen === !choice;
    if (this.#doubt) return this.#begin();
    traffic.hold = choice === traffic.chosen ? Math.min(traffic.hold * 4, HOLD_MAX) : HOLD;
    traffic.chosen = choice;
    this.#settle(choice);
    this.#until = LOOK;
    this.#left = traffic.hold;
  }
}
