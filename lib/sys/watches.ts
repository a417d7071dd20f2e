/**
 * The watched descriptors of one loop: who hears of which event, and in what order. Events are handed on within a
 * budget. Watches of the control plane are urgent: they have an epoll set of their own, within the main one, which is
 * asked first when events were left over. So a monitor waits for two turns at most, however many clients are ready.
 *
 * Invariant: a handler is never called after its watch was closed.
 */
import { assert } from "../base/mod.ts";
import { EPOLL } from "./constants.ts";
import { BUDGET_NS, now } from "./now.ts";
import { ReadySet } from "./ready.ts";
import type { Sys, Watch } from "./types.ts";

/** Events taken from the kernel at once. */
const BATCH = 64;
/** As BATCH, of urgent watches: there are a few monitors. */
const URGENT_BATCH = 16;
/** What the main set gives for the set of urgent watches. */
const URGENT_KEY = 0xffff_ffff;
const SLOT_BITS = 20;

class LoopWatch implements Watch {
  /** Interest now; 0 after close, too. */
  interest: number;
  #closed = false;

  constructor(
    readonly watches: Watches,
    readonly ready: ReadySet,
    readonly fd: number,
    /** Slot and generation: what the kernel gives back with an event. */
    readonly key: number,
    events: number,
    readonly handler: (events: number) => void,
  ) {
    this.interest = events;
  }

  set(events: number): void {
    assert(!this.#closed, "watch used after close");
    const before = this.interest;
    if (before === events) return;
    this.interest = events;
    // A paused descriptor leaves the set: the kernel tells of a hang-up even those who ask for nothing.
    if (events === 0) this.ready.remove(this.fd);
    else if (before === 0) this.ready.add(this.fd, events, this.key);
    else this.ready.change(this.fd, events, this.key);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.interest = 0;
    this.watches.forget(this);
    this.ready.remove(this.fd);
  }
}

/** Those of one loop. */
export class Watches {
  readonly #sys: Sys;
  readonly #onError: (error: unknown) => void;
  readonly #main: ReadySet;
  /** Made with the first urgent watch. */
  #urgent: ReadySet | undefined;
  #watches: (LoopWatch | undefined)[] = [];
  #freeSlots: number[] = [];
  #generation = 0;
  /** Events were left by the last turn. */
  #overdue = false;
  #closed = false;

  /** `onError`: a handler has thrown. */
  constructor(sys: Sys, onError: (error: unknown) => void) {
    this.#sys = sys;
    this.#onError = onError;
    this.#main = new ReadySet(sys, BATCH);
  }

  /** The epoll descriptor, ready whenever one of the watches is. */
  get fd(): number {
    return this.#main.fd;
  }

  /** Loop.watch. */
  add(fd: number, events: number, handler: (events: number) => void, urgent: boolean): Watch {
    const slot = this.#freeSlots.at(-1) ?? this.#watches.length;
    assert(slot < (1 << SLOT_BITS) - 1); // the last one is in URGENT_KEY
    // The generation tells late events of an earlier owner of the slot from ours.
    this.#generation = (this.#generation + 1) & 0xfff;
    const key = (slot | (this.#generation << SLOT_BITS)) >>> 0;
    const set = urgent ? this.#urgentSet() : this.#main;
    const watch = new LoopWatch(this, set, fd, key, events, handler);
    set.add(fd, events, key); // throws for a plain file: the slot is taken only afterwards
    if (events === 0) set.remove(fd);
    this.#freeSlots.pop();
    this.#watches[slot] = watch;
    return watch;
  }

  #urgentSet(): ReadySet {
    if (this.#urgent === undefined) {
      this.#urgent = new ReadySet(this.#sys, URGENT_BATCH);
      this.#main.add(this.#urgent.fd, EPOLL.IN, URGENT_KEY);
    }
    return this.#urgent;
  }

  /** `watch` is closed: its slot is free. */
  forget(watch: LoopWatch): void {
    const slot = watch.key & ((1 << SLOT_BITS) - 1);
    this.#watches[slot] = undefined;
    this.#freeSlots.push(slot);
  }

  /** Whether events are left, or come within `ms` milliseconds. They are for the next `dispatch`. */
  wait(ms: number): boolean {
    return this.#main.left || this.#main.wait(ms);
  }

  /** Hands events to their watches until the budget of a turn that began at `began` is spent. Whether there were any. */
  dispatch(began: number): boolean {
    const main = this.#main;
    if (this.#overdue) this.#dispatchUrgent();
    else if (!this.wait(0)) return false; // asks the kernel, unless a nap has left events
    this.#overdue = false;
    while (main.left && !this.#closed) {
      const key = main.take();
      if (key === URGENT_KEY) this.#dispatchUrgent();
      else this.#handle(key, main.events);
      if (main.left && now() - began > BUDGET_NS) {
        this.#overdue = true;
        break;
      }
    }
    return true;
  }

  /** Each urgent watch that is ready gets its turn. */
  #dispatchUrgent(): void {
    const urgent = this.#urgent;
    if (urgent === undefined || !urgent.wait(0)) return;
    while (urgent.left && !this.#closed) {
      const key = urgent.take();
      this.#handle(key, urgent.events);
    }
  }

  #handle(key: number, ready: number): void {
    const watch = this.#watches[key & ((1 << SLOT_BITS) - 1)];
    if (watch === undefined || watch.key !== key) return;
    // Interest may have changed since the kernel answered; errors are always of interest.
    const events = ready & (watch.interest | EPOLL.ERR | EPOLL.HUP);
    if (events === 0 || watch.interest === 0) return;
    try {
      watch.handler(events);
    } catch (error) {
      this.#onError(error);
    }
  }

  /** Closes all watches and gives the sets back. The descriptors of those that were open. */
  close(): readonly number[] {
    this.#closed = true;
    const leaked = this.#watches.filter((watch) => watch !== undefined);
    for (const watch of leaked) watch.close();
    this.#urgent?.close();
    this.#main.close();
    return leaked.map(({ fd }) => fd);
  }
}
