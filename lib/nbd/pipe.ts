/**
 * The way of a large payload from a client's socket to the file of an export, through a pipe: what the socket has
 * received is handed on by the page, and copied only once, into the page cache. The pipe is empty whenever nobody is
 * at work on it, and lent for so long by the context; so a client costs no more descriptors than its socket.
 */
import { alignDown, assert } from "../base/mod.ts";
import { type Context, Errno, knowsNoSplice, type Pipe } from "../sys/mod.ts";
import type { Transport } from "./transport.ts";

/** Most bytes in the pipe. */
export const PIPE_BYTES = 256 * 1024;
/** Parts of a payload end at multiples of this in the file, so that no page is written in two parts. */
const PAGE = 4096;
/** Larger units are seldom in a socket as a whole. */
const MOST_UNIT = 64 * 1024;
/** Fewer bytes, of a payload of which more is to come, are cheaper received and copied. */
const WORTHWHILE = 16 * 1024;

/** The pipe of one connection, while there is something in it. */
export class PayloadPipe {
  readonly #transport: Transport;
  readonly #context: Pick<Context, "sys" | "pipes">;
  #pipe: Pipe | undefined;
  /** Bytes in it. */
  #holds = 0;
  #refused = false;

  constructor(transport: Transport, context: Pick<Context, "sys" | "pipes">) {
    this.#transport = transport;
    this.#context = context;
    this.#refused = transport.splice === undefined;
  }

  /** Whether a payload can come this way. */
  get available(): boolean {
    return !this.#refused && this.#context.pipes?.available === true;
  }

  /** The end to take the bytes from, after `fill`; `took` tells how many it were. */
  get from(): number {
    assert(this.#pipe !== undefined);
    return this.#pipe.from;
  }

  /**
   * Fills the empty pipe with what waits of a payload, whose next byte goes to `position`, and of which `left` bytes
   * are missing; it is to end at a multiple of `unit` bytes. Bytes, 0 at the end of the stream, or -errno; undefined:
   * it comes in trickles, or cannot come this way, receive it.
   */
  fill(position: number, left: number, unit: number): number | undefined {
    assert(this.#holds === 0 && left > 0);
    const waiting = this.#transport.unread!();
    let length = Math.min(left, PIPE_BYTES);
    // When nothing waits, the call tells whether anything will.
    if (waiting > 0) length = Math.min(length, waiting);
    if (length < left) {
      const end = unit > MOST_UNIT ? PAGE : Math.max(unit, PAGE);
      length = alignDown(position + length, end) - position;
      if (length < WORTHWHILE) return undefined;
    }
    const pipe = this.#pipe ??= this.#context.pipes!.borrow();
    if (pipe === undefined) return undefined;
    const filled = this.#transport.splice!(pipe.into, length);
    if (filled > 0) {
      this.#holds = filled;
      return filled;
    }
    this.#letGo();
    if (!knowsNoSplice(filled)) return filled;
    this.#refused = true;
    return undefined;
  }

  /** `length` bytes were taken out. */
  took(length: number): void {
    this.#holds -= length;
    assert(this.#holds >= 0);
    if (this.#holds === 0) this.#letGo();
  }

  /** Takes out all that it still holds, to `address`. Bytes; 0: it is lost. */
  rescue(address: number): number {
    const { sys } = this.#context;
    const length = this.#holds;
    for (let done = 0; done < length;) {
      const rc = sys.read(this.from, address + done, length - done);
      if (rc === -Errno.EINTR) continue;
      if (rc <= 0) {
        this.close();
        return 0;
      }
      done += rc;
    }
    this.took(length);
    return length;
  }

  #letGo(): void {
    this.#context.pipes!.giveBack(this.#pipe!);
    this.#pipe = undefined;
  }

  /** Gives up what is in it. Idempotent. */
  close(): void {
    if (this.#pipe !== undefined) this.#context.pipes!.discard(this.#pipe);
    this.#pipe = undefined;
    this.#holds = 0;
  }
}
