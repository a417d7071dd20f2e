/**
 * The poller as its users see it: who owns the thread (Poller), and how a context parks in it (PollerHandle,
 * which can be posted to another thread).
 */
import { assert } from "../base/mod.ts";
import { type ArchConstants, EPOLL } from "./constants.ts";
import { check } from "./errno.ts";
import { pollerProgram, type PollerStart } from "./poller.ts";
import type { Sys } from "./types.ts";

/** Most contexts that can share a poller; word 0 is the stop event. */
const CONTEXTS = 255;

/** What a context needs in order to park: plain data, to be posted to another Worker. */
export interface PollerHandle {
  /** The epoll set that the poller sleeps on. */
  readonly master: number;
  /** words[0]: 1 if the thread has failed; words[n]: how often context n was woken; n+256: whether it is taken. */
  readonly words: Int32Array<SharedArrayBuffer>;
}

/** Takes a free slot of the handle: the context's number, from 1. */
export function takeSlot(handle: PollerHandle): number {
  for (let n = 1; n <= CONTEXTS; n++) {
    if (Atomics.compareExchange(handle.words, n + CONTEXTS + 1, 0, 1) === 0) return n;
  }
  throw new Error(`more than ${CONTEXTS} contexts`);
}

/** Whether nobody will wake a parked context: the thread could not run. */
export function pollerFailed(handle: PollerHandle): boolean {
  return Atomics.load(handle.words, 0) !== 0;
}

/** Says that the thread cannot run, and wakes everybody, to go on without it. */
export function failPoller(handle: PollerHandle): void {
  Atomics.store(handle.words, 0, 1);
  for (let n = 1; n <= CONTEXTS; n++) {
    Atomics.add(handle.words, n, 1);
    Atomics.notify(handle.words, n);
  }
}

/** Gives a slot back. */
export function releaseSlot(handle: PollerHandle, slot: number): void {
  assert(Atomics.exchange(handle.words, slot + CONTEXTS + 1, 0) === 1);
}

/** Owns the poller thread. The thread starts with the first `start`; until it runs, events wait in the kernel. */
export class Poller {
  readonly handle: PollerHandle;
  readonly #sys: Sys;
  readonly #constants: ArchConstants;
  readonly #onError: (error: unknown) => void;
  readonly #stopFd: number;
  #worker: Worker | undefined;
  #done: Promise<boolean> | undefined;
  #stopped = false;

  /** `onError`: the thread could not run; contexts go on, looking for work once a millisecond. */
  constructor(sys: Sys, constants: ArchConstants, onError: (error: unknown) => void) {
    this.#onError = onError;
    this.#sys = sys;
    this.#constants = constants;
    const master = check(sys.epollCreate(), "epoll_create1");
    this.#stopFd = check(sys.eventfd(0), "eventfd");
    check(sys.epollCtl(master, EPOLL.CTL_ADD, this.#stopFd, EPOLL.IN, 0), "epoll_ctl");
    const shared = new SharedArrayBuffer(4 * 2 * (CONTEXTS + 1));
    this.handle = { master, words: new Int32Array(shared) };
  }

  /** Starts the thread, in parallel: returns at once. Idempotent. */
  start(): void {
    if (this.#worker !== undefined || this.#stopped) return;
    const worker = new Worker(pollerProgram(), {
      type: "module",
      name: "poller",
    });
    this.#worker = worker;
    this.#done = new Promise((resolve) => {
      worker.onmessage = () => resolve(true);
      worker.onerror = (event) => {
        event.preventDefault();
        failPoller(this.handle);
        this.#onError(new Error(`the poller thread failed: ${event.message}`));
        resolve(false);
      };
    });
    const start: PollerStart = {
      ...this.handle,
      epollEventSize: this.#constants.epollEventSize,
      epollDataOffset: this.#constants.epollDataOffset,
    };
    worker.postMessage(start);
  }

  /** Wakes the thread, waits until it has left the kernel, ends it. All contexts must have stopped. Idempotent. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    if (this.#worker !== undefined) {
      const one = this.#sys.allocate(8);
      one.view.setBigUint64(0, 1n, true);
      check(this.#sys.write(this.#stopFd, one.address, 8), "write to eventfd");
      one.unmap();
      await this.#done;
      this.#worker.terminate();
    }
    this.#sys.close(this.#stopFd);
    this.#sys.close(this.handle.master);
  }
}
