/**
 * What a connection needs of the stream below it. Today a non-blocking socket; a TLS stream has the same
 * shape (its plain text arrives and leaves in native buffers, and `interest` looks at what it has buffered).
 */
import type { IoVec } from "../base/mod.ts";
import type { Context, Watch } from "../sys/mod.ts";

/** -EAGAIN: nothing can be moved now. */
export const AGAIN = -11;
/** -EINTR: nothing was moved, for no reason. */
export const INTERRUPTED = -4;

/** A byte stream. Results: bytes moved, 0 at the end of the stream (receive only), or -errno. */
export interface Transport {
  receive(address: number, length: number): number;
  send(address: number, length: number): number;
  sendv(iov: IoVec): number;
  /** Which of the two `ready` is called for; level-triggered. */
  interest(read: boolean, write: boolean): void;
  /**
   * Called with what is ready. `broken`: the peer is gone for both directions (what it sent before may
   * still be received).
   */
  ready: (read: boolean, write: boolean, broken: boolean) => void;
  /** Lets the stream go. Idempotent. */
  close(): void;
}

const EPOLLIN = 1;
const EPOLLOUT = 4;
const EPOLLERR = 8;
const EPOLLHUP = 16;

/** A non-blocking socket, owned: closed with the transport. */
export class SocketTransport implements Transport {
  ready: (read: boolean, write: boolean, broken: boolean) => void = () => {};
  readonly #context: Context;
  readonly #fd: number;
  readonly #watch: Watch;
  #events = EPOLLIN;
  #closed = false;
  #watched = true;

  constructor(context: Context, fd: number) {
    this.#context = context;
    this.#fd = fd;
    this.#watch = context.loop.watch(fd, EPOLLIN, (events) => {
      const unwanted = this.#events === 0;
      this.ready(
        (events & EPOLLIN) !== 0,
        (events & EPOLLOUT) !== 0,
        (events & (EPOLLERR | EPOLLHUP)) !== 0,
      );
      // A hang-up is reported again and again, wanted or not: once is enough. An event that was wanted
      // may leave nothing to want for a moment (its requests are under way): that is no reason to go.
      if (unwanted && this.#events === 0) this.#unwatch();
    });
  }

  #unwatch(): void {
    if (this.#watched) this.#watch.close();
    this.#watched = false;
  }

  receive(address: number, length: number): number {
    return this.#context.sys.recv(this.#fd, address, length, 0);
  }

  send(address: number, length: number): number {
    return this.#context.sys.send(this.#fd, address, length, 0);
  }

  sendv(iov: IoVec): number {
    return this.#context.sys.sendmsg(this.#fd, iov, 0);
  }

  interest(read: boolean, write: boolean): void {
    const events = (read ? EPOLLIN : 0) | (write ? EPOLLOUT : 0);
    if (events === this.#events || !this.#watched) return;
    this.#events = events;
    this.#watch.set(events);
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#unwatch();
    this.#context.sys.close(this.#fd);
  }
}
