/**
 * Waking another context: an eventfd on its loop, so that it is woken from wherever it waits. A shared word says
 * whether it has been rung already, so that a busy context is not rung again and again.
 */
import { check, type Context, EPOLL, type Memory, type Sys, type Watch } from "../sys/mod.ts";

/** What others need in order to ring: plain data, to be posted to another thread. */
export interface BellHandle {
  readonly fd: number;
  /** word[0]: 1 while it has been rung and not been heard. */
  readonly word: Int32Array<SharedArrayBuffer>;
}

/** The bell of this context. */
export class Bell {
  readonly handle: BellHandle;
  readonly #context: Context;
  readonly #watch: Watch;
  readonly #memory: Memory;
  readonly #listeners = new Set<() => void>();

  constructor(context: Context) {
    this.#context = context;
    const { sys } = context;
    const fd = check(sys.eventfd(0), "eventfd");
    this.handle = { fd, word: new Int32Array(new SharedArrayBuffer(4)) };
    this.#memory = sys.allocate(8);
    this.#watch = context.loop.watch(fd, EPOLL.IN, () => this.#heard());
  }

  /** Calls `listener` whenever the bell was rung, until `remove`. */
  listen(listener: () => void): { remove(): void } {
    this.#listeners.add(listener);
    return { remove: () => void this.#listeners.delete(listener) };
  }

  #heard(): void {
    this.#context.sys.read(this.handle.fd, this.#memory.address, 8);
    // Before looking: whoever comes now rings again.
    Atomics.store(this.handle.word, 0, 0);
    for (const listener of this.#listeners) listener();
  }

  /** No one may ring any more. */
  close(): void {
    this.#watch.close();
    this.#context.sys.close(this.handle.fd);
    this.#memory.unmap();
  }
}

/** Rings another context's bell. */
export class Ringer {
  readonly #sys: Sys;
  readonly #handle: BellHandle;
  readonly #one: Memory;

  constructor(sys: Sys, handle: BellHandle) {
    this.#sys = sys;
    this.#handle = handle;
    this.#one = sys.allocate(8);
    this.#one.view.setBigUint64(0, 1n, true);
  }

  /** What was stored before this call, the other context will see. */
  ring(): void {
    const { fd, word } = this.#handle;
    if (Atomics.exchange(word, 0, 1) === 0) this.#sys.write(fd, this.#one.address, 8);
  }

  close(): void {
    this.#one.unmap();
  }
}
