/** An epoll set, with the events that it gave and that have not been handled yet. */
import { EPOLL } from "./constants.ts";
import { check } from "./errno.ts";
import type { EpollEvents, Sys } from "./types.ts";

/** One set. Keys are what the kernel gives back with an event: 32 bits. */
export class ReadySet {
  readonly fd: number;
  readonly #sys: Sys;
  readonly #ready: EpollEvents;
  /** Events [#cursor, #count) are left. */
  #cursor = 0;
  #count = 0;
  /** Set by `take`: what is ready, as EPOLL bits. */
  events = 0;

  /** At most `batch` events are taken from the kernel at once. */
  constructor(sys: Sys, batch: number) {
    this.#sys = sys;
    this.fd = check(sys.epollCreate(), "epoll_create1");
    this.#ready = sys.epollEvents(batch);
  }

  /** Whether events are left. */
  get left(): boolean {
    return this.#cursor < this.#count;
  }

  /** Asks the kernel, and waits `ms` milliseconds at most. Whether there are events. Those that were left are forgotten. */
  wait(ms: number): boolean {
    this.#cursor = 0;
    this.#count = Math.max(0, this.#sys.epollWait(this.fd, this.#ready, ms)); // EINTR
    return this.#count > 0;
  }

  /** The key of the next event, which is left no longer. */
  take(): number {
    const i = this.#cursor++;
    this.events = this.#ready.events(i);
    return this.#ready.data(i);
  }

  /** Adds `fd`. Throws if it cannot be waited for. */
  add(fd: number, events: number, key: number): void {
    check(this.#sys.epollCtl(this.fd, EPOLL.CTL_ADD, fd, events, key), "epoll_ctl");
  }

  /** Changes what is waited for. */
  change(fd: number, events: number, key: number): void {
    check(this.#sys.epollCtl(this.fd, EPOLL.CTL_MOD, fd, events, key), "epoll_ctl");
  }

  /** Takes `fd` out, if it is still there: a descriptor that was closed has left the set. */
  remove(fd: number): void {
    this.#sys.epollCtl(this.fd, EPOLL.CTL_DEL, fd, 0, 0);
  }

  /** Gives the set back. */
  close(): void {
    this.#sys.close(this.fd);
  }
}
