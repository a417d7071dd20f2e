/**
 * What a connection needs of the stream below it. Today a non-blocking socket; a TLS stream has the same
 * shape (its plain text arrives and leaves in native buffers, and `interest` looks at what it has buffered).
 */
import type { IoVec } from "../base/mod.ts";
import { type Context, EPOLL, Errno, MSG, type Watch } from "../sys/mod.ts";

/** -EAGAIN: nothing can be moved now. */
export const AGAIN = -Errno.EAGAIN;
/** -EINTR: nothing was moved, for no reason. */
export const INTERRUPTED = -Errno.EINTR;

/** A byte stream. Results: bytes moved, 0 at the end of the stream (receive only), or -errno. */
export interface Transport {
  receive(address: number, length: number): number;
  /** `more`: more follows at once, wait for it before sending a short packet. */
  send(address: number, length: number, more: boolean): number;
  sendv(iov: IoVec): number;
  /**
   * Sends out of the page cache of an open file; 0 at the end of the file. Absent where data has to pass through
   * our hands (TLS).
   */
  sendFile?(file: number, offset: number, length: number): number;
  /**
   * Moves what has been received into an empty pipe, at most `length` bytes; results as of `receive`. Absent where data
   * has to pass through our hands (TLS).
   */
  splice?(pipe: number, length: number): number;
  /** Bytes that wait to be received, or -errno. Present with `splice`. */
  unread?(): number;
  /** Which of the two `ready` is called for; level-triggered. With neither it is not called at all. */
  interest(read: boolean, write: boolean): void;
  /**
   * Called with what is ready. `broken`: the peer is gone for both directions (what it sent before may
   * still be received).
   */
  ready: (read: boolean, write: boolean, broken: boolean) => void;
  /**
   * Gives the descriptor away, in place of `close`, for the stream to go on in another thread. Absent where there is
   * more to a stream than its descriptor (TLS).
   */
  release?(): number;
  /** Lets the stream go. Idempotent. */
  close(): void;
}

/** A non-blocking socket, owned: closed with the transport. */
export class SocketTransport implements Transport {
  ready: (read: boolean, write: boolean, broken: boolean) => void = () => {};
  readonly #context: Context;
  readonly #fd: number;
  readonly #watch: Watch;
  #closed = false;

  constructor(context: Context, fd: number) {
    this.#context = context;
    this.#fd = fd;
    this.#watch = context.loop.watch(fd, EPOLL.IN, (ready) => {
      const broken = (ready & (EPOLL.ERR | EPOLL.HUP)) !== 0;
      this.ready((ready & EPOLL.IN) !== 0, (ready & EPOLL.OUT) !== 0, broken);
    });
  }

  receive(address: number, length: number): number {
    return this.#context.sys.recv(this.#fd, address, length, 0);
  }

  send(address: number, length: number, more: boolean): number {
    return this.#context.sys.send(this.#fd, address, length, more ? MSG.MORE : 0);
  }

  sendFile(file: number, offset: number, length: number): number {
    return this.#context.sys.sendfile(this.#fd, file, offset, length);
  }

  splice(pipe: number, length: number): number {
    return this.#context.sys.splice(this.#fd, pipe, length);
  }

  unread(): number {
    return this.#context.sys.unread(this.#fd);
  }

  sendv(iov: IoVec): number {
    return this.#context.sys.sendmsg(this.#fd, iov, 0);
  }

  interest(read: boolean, write: boolean): void {
    this.#watch.set((read ? EPOLL.IN : 0) | (write ? EPOLL.OUT : 0));
  }

  release(): number {
    this.#closed = true;
    this.#watch.close();
    return this.#fd;
  }

  close(): void {
    if (this.#closed) return;
    this.#context.sys.close(this.release());
  }
}
