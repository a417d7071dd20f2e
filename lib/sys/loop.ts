/**
 * The data-plane loop of one context. While there is work it polls epoll once per setImmediate turn, so that
 * everything else of this thread (timers, promises, TLS) runs between turns. Without work it first polls, then
 * naps, then parks. A nap is a blocking epoll_wait of at most a millisecond: an event wakes this thread
 * directly, as cheaply as the kernel can; it is only taken while nothing but descriptors can bring work. To park
 * it arms its epoll set, one-shot, in the poller's, and sleeps in Atomics.waitAsync until the poller wakes it:
 * that costs two threads' wake-ups, but lets everything in this thread go on.
 *
 * A turn handles events, asks pollers, and runs timers and deferred tasks, each within a budget. Watches of the
 * control plane are urgent: they have a set of their own, within the main one, which is looked at first when events
 * were left over. So a monitor waits for two turns at most, however many clients are ready.
 *
 * Invariants: at most one turn is scheduled; `#state` is "parked" only while a waitAsync is outstanding and
 * the set is armed; a handler is never called after its watch was closed.
 */
import { clearImmediate, setImmediate } from "node:timers";
import { assert } from "../base/mod.ts";
import { AdaptivePolling } from "./adaptive.ts";
import { EPOLL } from "./constants.ts";
import { check } from "./errno.ts";
import { ReadySet } from "./ready.ts";
import { TimerHeap } from "./timers.ts";
import type { Loop, Sys, Timer, Watch } from "./types.ts";
import { pollerFailed, type PollerHandle, releaseSlot, takeSlot } from "./wakeup.ts";

/** Events taken from the kernel at once. */
const BATCH = 64;
/** As BATCH, of urgent watches: there are a few monitors. */
const URGENT_BATCH = 16;
/** What the main set gives for the set of urgent watches. */
const URGENT_KEY = 0xffff_ffff;
/**
 * Events are handled for this long in a turn, and then deferred tasks for this long: what is left waits for the next
 * turn, behind urgent watches and the rest of the thread.
 */
const BUDGET_NS = 500_000;
/** Without work, rings are looked at for this long before the rest of the thread gets its turn. */
const SPIN_NS = 6_000;
/** With work that is always done at once, for this long: a turn costs more than a small request. */
const LINGER_NS = 50_000;
/** Then again for as long, if nobody else was found to wait; timers of the runtime may, so not for longer than this. */
const LINGER_MOST_NS = 400_000;
/** With a timer due this soon the loop stays awake: setTimeout would be a millisecond late. */
const NEAR_NS = 100_000;
/** How often a loop looks for work that nobody would wake it for. */
const BLIND_NS = 1e6;
/** One nap, in milliseconds: how late whatever is not a descriptor of ours (a signal) may be noticed. */
const NAP_MS = 1;
/** After this long without work the loop parks. */
const NAP_UNTIL_NS = 10_000_000;
const SLOT_BITS = 20;

/** What a loop needs. */
export interface LoopOptions {
  readonly sys: Sys;
  readonly poller: PollerHandle;
  /** Called before the loop parks for the first time: starts the poller thread if that is our business. */
  readonly onFirstPark?: () => void;
  /** Called whenever the loop is about to park (to look after idle resources). */
  readonly onPark?: () => void;
  /** Whether something other than descriptors and our timers may bring work soon, as calls on the thread pool. */
  readonly awaitsOthers?: () => boolean;
  /** A handler or task has thrown. The loop goes on. */
  readonly onError: (error: unknown) => void;
}

class LoopWatch implements Watch {
  /** Interest now; 0 after close, too. */
  interest: number;
  closed = false;

  constructor(
    readonly loop: EpollLoop,
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
    this.loop.changeWatch(this, events);
  }

  close(): void {
    this.loop.closeWatch(this);
  }
}

/** Loop over epoll, setImmediate and the poller thread. */
export class EpollLoop implements Loop {
  readonly counters = { turns: 0, parks: 0, wakes: 0 };
  readonly #sys: Sys;
  readonly #options: LoopOptions;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #slot: number;
  readonly #main: ReadySet;
  /** Made with the first urgent watch. */
  #urgent: ReadySet | undefined;
  readonly #polling = new AdaptivePolling();
  readonly #timers = new TimerHeap();
  readonly #pollers: (() => boolean)[] = [];
  readonly #sleepers: (() => boolean)[] = [];
  readonly #settlers: (() => boolean)[] = [];

  #watches: (LoopWatch | undefined)[] = [];
  #freeSlots: number[] = [];
  #open = 0;
  #generation = 0;
  /** Events were left by the last turn. */
  #overdue = false;
  /** To be run in the next turn. */
  #deferred: (() => void)[] = [];
  /** Being run: those from #nextDue on are left. */
  #due: (() => void)[] = [];
  #nextDue = 0;

  #state: "new" | "running" | "parked" | "stopped" = "new";
  #immediate: ReturnType<typeof setImmediate> | undefined;
  #timeout: ReturnType<typeof setTimeout> | undefined;
  #timeoutAt = Infinity;
  /** The outstanding waitAsync, if any; it may outlive a park that ended otherwise. */
  #waiting: Promise<unknown> | undefined;
  /** Whether the last turn found nothing to do, and when that began. */
  #idle = false;
  #idleSince = 0;

  constructor(options: LoopOptions) {
    this.#options = options;
    this.#sys = options.sys;
    this.#words = options.poller.words;
    this.#slot = takeSlot(options.poller);
    this.#main = new ReadySet(options.sys, BATCH);
    const { master } = options.poller;
    // Disarmed until the first park.
    check(
      this.#sys.epollCtl(master, EPOLL.CTL_ADD, this.#main.fd, EPOLL.ONESHOT, this.#slot),
      "epoll_ctl",
    );
  }

  /** Watches that are open, for tests and leak checks. */
  get openWatches(): number {
    return this.#open;
  }

  watch(fd: number, events: number, handler: (events: number) => void, urgent = false): Watch {
    assert(this.#state !== "stopped", "watch on a stopped loop");
    const slot = this.#freeSlots.at(-1) ?? this.#watches.length;
    assert(slot < (1 << SLOT_BITS) - 1); // the last one is in URGENT_KEY
    // The generation tells late events of an earlier owner of the slot from ours.
    this.#generation = (this.#generation + 1) & 0xfff;
    const key = (slot | (this.#generation << SLOT_BITS)) >>> 0;
    const set = urgent ? this.#urgentSet() : this.#main;
    const watch = new LoopWatch(this, set, fd, key, events, handler);
    set.add(fd, events, key);
    this.#freeSlots.pop(); // the slot is taken only now: a plain file is refused above
    this.#watches[slot] = watch;
    this.#open++;
    this.#start();
    return watch;
  }

  #urgentSet(): ReadySet {
    if (this.#urgent === undefined) {
      this.#urgent = new ReadySet(this.#sys, URGENT_BATCH);
      this.#main.add(this.#urgent.fd, EPOLL.IN, URGENT_KEY);
    }
    return this.#urgent;
  }

  /** Watch.set. */
  changeWatch(watch: LoopWatch, events: number): void {
    assert(!watch.closed, "watch used after close");
    if (watch.interest === events) return;
    watch.interest = events;
    watch.ready.change(watch.fd, events, watch.key);
  }

  /** Watch.close. */
  closeWatch(watch: LoopWatch): void {
    if (watch.closed) return;
    watch.closed = true;
    watch.interest = 0;
    const slot = watch.key & ((1 << SLOT_BITS) - 1);
    this.#watches[slot] = undefined;
    this.#freeSlots.push(slot);
    this.#open--;
    watch.ready.remove(watch.fd);
  }

  defer(task: () => void): void {
    this.#deferred.push(task);
    this.#kick();
  }

  addPoller(
    poll: () => boolean,
    sleeping?: () => boolean,
    settled?: () => boolean,
  ): { remove(): void } {
    this.#pollers.push(poll);
    if (sleeping !== undefined) this.#sleepers.push(sleeping);
    if (settled !== undefined) this.#settlers.push(settled);
    this.#kick();
    return {
      remove: () => {
        takeOut(this.#pollers, poll);
        if (sleeping !== undefined) takeOut(this.#sleepers, sleeping);
        if (settled !== undefined) takeOut(this.#settlers, settled);
      },
    };
  }

  timer(ns: number, task: () => void): Timer {
    assert(this.#state !== "stopped", "timer on a stopped loop");
    const timer = this.#timers.add(now() + Math.max(0, ns), task);
    if (this.#state === "new") this.#start();
    else if (this.#state === "parked") this.#armTimeout();
    return timer;
  }

  sleep(ns: number): Promise<void> {
    return new Promise((resolve) => this.timer(ns, resolve));
  }

  configure(options: { pollMaxNs?: number; pollGrow?: number; pollShrink?: number }): void {
    this.#polling.configure(options);
  }

  async stop(): Promise<void> {
    if (this.#state === "stopped") return await this.#drainWait();
    this.#state = "stopped";
    if (this.#immediate !== undefined) clearImmediate(this.#immediate);
    if (this.#timeout !== undefined) clearTimeout(this.#timeout);
    this.#timers.clear();
    const leaked = this.#watches.filter((watch) => watch !== undefined);
    for (const watch of leaked) watch.close();
    this.#sys.epollCtl(this.#options.poller.master, EPOLL.CTL_DEL, this.#main.fd, 0, 0);
    this.#urgent?.close();
    this.#main.close();
    await this.#drainWait();
    releaseSlot(this.#options.poller, this.#slot);
    const fds = leaked.map((watch) => watch.fd).join(", ");
    assert(leaked.length === 0, `the loop was stopped with watches open on descriptors ${fds}`);
  }

  /** Resolves the outstanding waitAsync ourselves: it cannot be cancelled, and would keep the process. */
  async #drainWait(): Promise<void> {
    if (this.#waiting === undefined) return;
    Atomics.notify(this.#words, this.#slot);
    // A waitAsync alone does not keep the process where no Worker lives.
    const keep = setInterval(() => {}, 1000);
    await this.#waiting;
    clearInterval(keep);
  }

  /** First use. */
  #start(): void {
    if (this.#state !== "new") return;
    this.#schedule();
  }

  /** There is something to do that no event will tell: a turn must come. */
  #kick(): void {
    if (this.#state === "running" || this.#state === "stopped") return;
    this.#idle = false;
    this.#schedule();
  }

  #schedule(): void {
    this.#state = "running";
    this.#immediate = setImmediate(this.#turn);
  }

  /** One turn. An arrow function: one closure for the life of the loop. */
  readonly #turn = (): void => {
    if (this.#state !== "running") return;
    this.counters.turns++;
    const began = now();
    let worked = this.#dispatch(began);
    const polled = this.#poll();
    worked = this.#expire(began) || worked;
    worked = this.#runDeferred() || worked;
    if (this.#isStopped()) return;
    if (worked || polled) {
      if (this.#idle) this.#polling.learn(began - this.#idleSince);
      this.#idle = false;
      if (!worked) this.#linger(began);
      if (this.#isStopped()) return;
      this.#immediate = setImmediate(this.#turn);
      return;
    }
    if (!this.#idle) {
      this.#idle = true;
      this.#idleSince = began;
    }
    const idleNs = began - this.#idleSince;
    if (this.#deferred.length > 0 || this.#timers.next() - began < NEAR_NS) {
      this.#immediate = setImmediate(this.#turn);
    } else if (idleNs < this.#polling.ns) {
      if (this.#pollers.length > 0) this.#spin();
      if (this.#isStopped()) return;
      this.#immediate = setImmediate(this.#turn);
    } else if (this.#aroused()) {
      this.#immediate = setImmediate(this.#turn);
    } else if (idleNs < NAP_UNTIL_NS && this.#mayNap(began)) {
      this.#nap();
    } else {
      this.#park();
    }
  };

  /** Looks at the rings again and again: nothing of this thread is delayed by more than SPIN_NS. */
  #spin(): void {
    const began = now();
    for (;;) {
      if (this.#poll()) break;
      if (now() - began > SPIN_NS) return;
    }
    this.#polling.learn(now() - this.#idleSince);
    this.#idle = false;
    this.#linger(began);
  }

  /**
   * Rings alone had work, and it is done: they are looked at again at once, as long as they have more, or will have
   * soon. Whoever else has work in this thread waits for LINGER_NS, counted from `began`, and a pass of the pollers.
   */
  #linger(began: number): void {
    const patience = Math.min(SPIN_NS, this.#polling.ns);
    const most = began + LINGER_MOST_NS;
    let until = began + LINGER_NS;
    let last = now();
    while (this.#deferred.length === 0 && this.#settled() && !this.#isStopped()) {
      const worked = this.#poll();
      const time = now();
      if (worked) last = time;
      else if (time - last >= patience) break;
      if (time < until) continue;
      if (time >= most || !this.#alone(time)) return;
      until = time + LINGER_NS;
    }
  }

  /** Whether nothing but rings has work for this thread. Events that there are wait for the next turn. */
  #alone(time: number): boolean {
    if (this.#timers.next() <= time || (this.#options.awaitsOthers?.() ?? false)) return false;
    return !this.#main.left && !this.#main.wait(0);
  }

  /** Whether pollers wait for nothing that only another turn brings. */
  #settled(): boolean {
    if (this.#settlers.length < this.#pollers.length) return false;
    for (let i = 0; i < this.#settlers.length; i++) if (!this.#settlers[i]!()) return false;
    return true;
  }

  /** Tells pollers that the loop is about to sleep. Whether one of them has found work. */
  #aroused(): boolean {
    return this.#ask(this.#sleepers);
  }

  /** Whether this thread may block for a moment: nothing else of it is delayed by that. */
  #mayNap(began: number): boolean {
    return this.#timers.next() - began >= NAP_MS * 1e6 &&
      !(this.#options.awaitsOthers?.() ?? false);
  }

  /** Blocks until a descriptor is ready, for NAP_MS at most, and goes on with a turn. */
  #nap(): void {
    if (this.#main.wait(NAP_MS)) this.#turn();
    else this.#immediate = setImmediate(this.#turn);
  }

  /** Behind a method because a handler may have stopped the loop, which the compiler cannot see. */
  #isStopped(): boolean {
    return this.#state === "stopped";
  }

  /** Hands events to their watches until the budget is spent. Whether there were any. */
  #dispatch(began: number): boolean {
    const main = this.#main;
    if (this.#overdue) this.#dispatchUrgent();
    else if (!main.left && !main.wait(0)) return false; // a nap has brought some, perhaps
    this.#overdue = false;
    while (main.left && this.#state !== "stopped") {
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
    while (urgent.left && this.#state !== "stopped") {
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
      this.#options.onError(error);
    }
  }

  #poll(): boolean {
    return this.#ask(this.#pollers);
  }

  /** Whether one of them, who are all asked, says so. */
  #ask(all: readonly (() => boolean)[]): boolean {
    let any = false;
    for (let i = 0; i < all.length; i++) {
      try {
        if (all[i]!()) any = true;
      } catch (error) {
        this.#options.onError(error);
      }
    }
    return any;
  }

  #expire(began: number): boolean {
    let worked = false;
    for (;;) {
      const timer = this.#timers.take(began);
      if (timer === undefined) return worked;
      worked = true;
      this.#run(timer.task);
    }
  }

  /** Runs what was deferred before, until the budget is spent; what these tasks defer comes in a later turn. */
  #runDeferred(): boolean {
    let due = this.#due;
    if (due.length === 0) {
      if (this.#deferred.length === 0) return false;
      this.#due = this.#deferred;
      this.#deferred = due;
      due = this.#due;
    }
    const began = due.length > 1 ? now() : 0;
    do {
      this.#run(due[this.#nextDue++]!);
    } while (this.#nextDue < due.length && now() - began <= BUDGET_NS);
    if (this.#nextDue === due.length) {
      due.length = 0;
      this.#nextDue = 0;
    }
    return true;
  }

  #run(task: () => void): void {
    try {
      task();
    } catch (error) {
      this.#options.onError(error);
    }
  }

  /** Arms the poller and sleeps. Events that are there already make it wake us at once. */
  #park(): void {
    if (this.counters.parks++ === 0) this.#options.onFirstPark?.();
    this.#options.onPark?.();
    this.#state = "parked";
    this.#armTimeout();
    const seen = Atomics.load(this.#words, this.#slot);
    const { master } = this.#options.poller;
    const events = EPOLL.IN | EPOLL.ONESHOT;
    check(
      this.#sys.epollCtl(master, EPOLL.CTL_MOD, this.#main.fd, events, this.#slot),
      "epoll_ctl",
    );
    if (this.#waiting !== undefined) return; // from an earlier park that a task ended
    const wait = Atomics.waitAsync(this.#words, this.#slot, seen);
    if (wait.async) {
      this.#waiting = wait.value.then(this.#woken);
    } else { // woken between arming and waiting
      this.counters.wakes++;
      this.#disarmTimeout();
      this.#schedule();
    }
  }

  readonly #woken = (): void => {
    this.#waiting = undefined;
    if (this.#state !== "parked") return;
    this.counters.wakes++;
    this.#state = "running";
    this.#disarmTimeout();
    this.#turn();
  };

  #armTimeout(): void {
    // Without a poller thread (it was reported) the loop looks for work by itself.
    const own = pollerFailed(this.#options.poller) ? now() + BLIND_NS : Infinity;
    const next = Math.min(this.#timers.next(), own);
    if (next === this.#timeoutAt) return;
    this.#disarmTimeout();
    if (next === Infinity) return;
    this.#timeoutAt = next;
    const ms = Math.min(Math.max(0, Math.ceil((next - now()) / 1e6)), 0x7fff_ffff);
    this.#timeout = setTimeout(() => {
      this.#timeout = undefined;
      this.#timeoutAt = Infinity;
      this.#kick();
    }, ms);
  }

  #disarmTimeout(): void {
    if (this.#timeout !== undefined) clearTimeout(this.#timeout);
    this.#timeout = undefined;
    this.#timeoutAt = Infinity;
  }
}

function takeOut<T>(list: T[], item: T): void {
  const at = list.indexOf(item);
  if (at >= 0) list.splice(at, 1);
}

/** The loop's own clock, in nanoseconds: half the cost of clock_gettime through FFI. */
function now(): number {
  return performance.now() * 1e6;
}
