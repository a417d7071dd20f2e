/**
 * A pipe between a client's socket and the file of an export: what the socket has received is handed on by the page,
 * and copied only once, into the page cache. It is empty whenever nobody is at work on it.
 */
import { alignDown, assert } from "../base/mod.ts";
import { F, O, type Sys } from "../sys/mod.ts";

/** Most bytes in the pipe. */
export const PIPE_BYTES = 256 * 1024;
/** Parts of a payload end at multiples of this in the file, so that no page is written in two parts. */
const PAGE = 4096;
/** Fewer bytes, of a payload of which more is to come, are cheaper received and copied. */
const WORTHWHILE = 16 * 1024;

/** The pipe of one connection. */
export class PayloadPipe {
  /** The reading end. */
  readonly fd: number;
  readonly #into: number;
  #closed = false;

  private constructor(
    readonly sys: Sys,
    readonly socket: number,
    ends: readonly [number, number],
  ) {
    [this.fd, this.#into] = ends;
    // Where that many pages are not to be had, the pipe has less room, and is filled more often.
    sys.fcntl(this.#into, F.SETPIPE_SZ, PIPE_BYTES);
  }

  /** A pipe for what arrives at `socket`, or -errno. */
  static open(sys: Sys, socket: number): PayloadPipe | number {
    const ends = sys.pipe2(O.CLOEXEC | O.NONBLOCK);
    return typeof ends === "number" ? ends : new PayloadPipe(sys, socket, ends);
  }

  /**
   * Fills the empty pipe with what waits of a payload, whose next byte goes to `position`, and of which `left` bytes
   * are missing. Bytes, 0 at the end of the stream, or -errno; undefined: it comes in trickles, receive it.
   */
  fill(position: number, left: number): number | undefined {
    assert(!this.#closed && left > 0);
    const waiting = this.sys.unread(this.socket);
    const most = Math.min(left, PIPE_BYTES);
    let length = most;
    // When nothing waits, the call tells whether anything will.
    if (waiting > 0 && waiting < most) {
      length = alignDown(position + waiting, PAGE) - position;
      if (length < WORTHWHILE) return undefined;
    }
    return this.sys.splice(this.socket, this.#into, length);
  }

  /** Lets it go, and what is in it. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.sys.close(this.fd);
    this.sys.close(this.#into);
  }
}
