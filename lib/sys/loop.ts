/**
 * The data-plane loop of one context. While there is work it polls epoll once per setImmediate turn, so that
 * everything else of this thread (timers, promises, TLS) runs between turns. Without work it first polls, then
 * naps, then parks. A nap is a blocking epoll_wait of at most a millisecond: an event wakes this thread
 * directly, as cheaply as the kernel can; it is only taken while nothing but descriptors can bring work. To park
 * it arms its epoll set, one-shot, in the poller's, and sleeps in Atomics.waitAsync until the poller wakes it:
 * that costs two threads' wake-ups, but lets everything in this thread go on.
 *
 * A turn handles events (watches.ts), asks pollers, and runs timers and deferred tasks.
 *
 * Invariants: at most one turn is scheduled; `#state` is "parked" only while a waitAsync is outstanding and
 * the set is armed.
 */
import { clearImmediate, setImmediate } from "node:timers";
import { assert } from "../base/mod.ts";
import { AdaptivePolling } from "./adaptive.ts";
import { EPOLL } from "./constants.ts";
import { DeferredTasks } from "./deferred.ts";
import { check } from "./errno.ts";
import { now } from "./now.ts";
import { TimerHeap } from "./timers.ts";
import type { Loop, Sys, Timer, Watch } from "./types.ts";
import { pollerFailed, type PollerHandle, releaseSlot, takeSlot } from "./wakeup.ts";
import { Watches } from "./watches.ts";

/** A loop without work looks at rings for this long at a time, then gives the rest of the thread a turn. */
const SPIN_NS = 6_000;
/** While rings have work that is done at once, they are served for this long within one turn: turns are costly. */
const LINGER_NS = 50_000;
/** And again for as long while nobody else waits, but no longer than this: the runtime's own timers cannot be asked. */
const LINGER_MOST_NS = 400_000;
/** With a timer due this soon the loop stays awake: setTimeout would be a millisecond late. */
const NEAR_NS = 100_000;
/** How often a loop looks for work that nobody would wake it for. */
const BLIND_NS = 1e6;
/** One nap, in milliseconds: how late whatever is not a descriptor of ours (a signal) may be noticed. */
const NAP_MS = 1;
/** After this long without work the loop parks. */
const NAP_UNTIL_NS = 10_000_000;

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

/** Loop over epoll, setImmediate and the poller thread. */
export class EpollLoop implements Loop {
  readonly counters = { turns: 0, parks: 0, wakes: 0 };
  readonly #sys: Sys;
  readonly #options: LoopOptions;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #slot: number;
  readonly #watches: Watches;
  readonly #deferred: DeferredTasks;
  readonly #polling = new AdaptivePolling();
  readonly #timers = new TimerHeap();
  readonly #pollers: (() => boolean)[] = [];
  readonly #sleepers: (() => boolean)[] = [];
  readonly #settlers: (() => boolean)[] = [];

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
    this.#watches = new Watches(options.sys, options.onError);
    this.#deferred = new DeferredTasks(options.onError);
    const { master } = options.poller;
    // Disarmed until the first park.
    check(
      this.#sys.epollCtl(master, EPOLL.CTL_ADD, this.#watches.fd, EPOLL.ONESHOT, this.#slot),
      "epoll_ctl",
    );
  }

  watch(fd: number, events: number, handler: (events: number) => void, urgent = false): Watch {
    assert(this.#state !== "stopped", "watch on a stopped loop");
    const watch = this.#watches.add(fd, events, handler, urgent);
    this.#start();
    return watch;
  }

  defer(task: () => void): void {
    this.#deferred.add(task);
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
    this.#sys.epollCtl(this.#options.poller.master, EPOLL.CTL_DEL, this.#watches.fd, 0, 0);
    const leaked = this.#watches.close();
    await this.#drainWait();
    releaseSlot(this.#options.poller, this.#slot);
    const fds = leaked.join(", ");
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
    let worked = this.#watches.dispatch(began);
    const polled = this.#poll();
    worked = this.#expire(began) || worked;
    worked = this.#deferred.run() || worked;
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
    if (this.#deferred.any || this.#timers.next() - began < NEAR_NS) {
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
   * Only rings had work in this turn, and it is done: looks at them again and again while they have more, or had some
   * a moment ago. Anything else in this thread waits for LINGER_NS at most, counted from `began`, and one more pass.
   */
  #linger(began: number): void {
    const patience = Math.min(SPIN_NS, this.#polling.ns);
    const most = began + LINGER_MOST_NS;
    let until = began + LINGER_NS;
    let last = now();
    while (!this.#deferred.any && this.#settled() && !this.#isStopped()) {
      const worked = this.#poll();
      const time = now();
      if (worked) last = time;
      else if (time - last >= patience) break;
      if (time < until) continue;
      if (time >= most || !this.#alone(time)) return;
      until = time + LINGER_NS;
    }
  }

  /** Whether nothing but rings has work for this thread. Events found by asking are kept for the next turn. */
  #alone(time: number): boolean {
    if (this.#timers.next() <= time || (this.#options.awaitsOthers?.() ?? false)) return false;
    return !this.#watches.wait(0);
  }

  /** Whether all pollers say that their work is done: none waits for something that only another turn brings. */
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
    if (this.#watches.wait(NAP_MS)) this.#turn();
    else this.#immediate = setImmediate(this.#turn);
  }

  /** Behind a method because a handler may have stopped the loop, which the compiler cannot see. */
  #isStopped(): boolean {
    return this.#state === "stopped";
  }

  #poll(): boolean {
    return this.#ask(this.#pollers);
  }

  /** Asks all of them, and tells whether any answered true. */
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
      try {
        timer.task();
      } catch (error) {
        this.#options.onError(error);
      }
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
      this.#sys.epollCtl(master, EPOLL.CTL_MOD, this.#watches.fd, events, this.#slot),
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
