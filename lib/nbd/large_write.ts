/**
 * A WRITE whose payload does not come at once: it is written in pieces as they arrive, or out of a pipe
 * (lib/block/pages_types.ts), and answered at its end.
 */
import { BlockError, IoVec, type MaybePromise } from "../base/mod.ts";
import { Errno } from "../sys/mod.ts";
import type { Counters, NbdExport } from "./export.ts";
import type { Replies } from "./replies.ts";
import type { Slab } from "./slab.ts";
import { CmdFlag, type Cookie, keepCookie, type RequestHeader } from "./wire.ts";

const FAILED = "writing to file failed";

/** What large writes need of the executor. */
export interface WriteHost {
  readonly target: NbdExport;
  readonly replies: Replies;
  readonly counters: Counters;
  bytesInFlight: number;
  fail(to: Cookie, error: unknown, text: string): void;
  /** Answers when `pending` has settled; it is in flight until then. */
  answerLater(pending: Promise<void>, to: Cookie, bytes: number, text: string): void;
  /** There is room again. */
  wake(): void;
}

/** One of them. `piece` and `fromPipe` take its payload in order, then `end` follows. */
export class LargeWrite {
  /** Bytes of the payload still to be written, and where they go. */
  left: number;
  position: number;
  readonly #host: WriteHost;
  readonly #cookie: Cookie;
  readonly #durable: boolean;
  #iov = new IoVec();
  /** Pieces that are being written. */
  #outstanding = 0;
  /** Bytes written out of a pipe. */
  #piped = 0;
  #error: unknown = undefined;
  #ended = false;

  constructor(host: WriteHost, header: RequestHeader) {
    this.#host = host;
    this.#cookie = keepCookie(header);
    this.#durable = host.target.writethrough || (header.flags & CmdFlag.fua) !== 0;
    this.left = header.length;
    this.position = header.offset;
    host.counters.bytesWritten += header.length;
    host.counters.inFlight++;
  }

  /** It will be answered with an error: the rest of it is only received. */
  get failed(): boolean {
    return this.#error !== undefined;
  }

  /** The next `length` bytes are at `address` in `slab`. */
  piece(slab: Slab, address: number, length: number): void {
    const { position } = this;
    const host = this.#host;
    this.position += length;
    this.left -= length;
    if (this.failed) return;
    let pending: MaybePromise<void>;
    try {
      pending = host.target.backend.write(position, this.#iov.single(address, length), 0);
    } catch (error) {
      this.#error = error;
      return;
    }
    if (pending === undefined) return;
    this.#iov = new IoVec(); // the other one is in use now
    slab.retain();
    this.#outstanding++;
    host.bytesInFlight += length;
    pending.catch((error) => {
      this.#error ??= error;
    }).finally(() => {
      slab.release();
      this.#outstanding--;
      host.bytesInFlight -= length;
      if (this.#ended && this.#outstanding === 0) this.#finish();
      host.wake();
    });
  }

  /**
   * The next `length` bytes are in the pipe whose reading end is `pipe`. How many were written, and the rest is for
   * `piece`; or -1: some have left the pipe and were not.
   */
  fromPipe(pipe: number, length: number): number {
    const pages = this.#host.target.backend.pages!;
    let done = 0;
    try {
      while (done < length) {
        const rc = pages.writeFromPipe(this.position + done, pipe, length - done);
        if (rc === -Errno.EINTR) continue;
        if (rc <= 0) break;
        done += rc;
      }
    } catch (error) {
      this.#error ??= error;
      this.position += length;
      this.left -= length;
      return -1;
    }
    this.position += done;
    this.left -= done;
    this.#piped += done;
    return done;
  }

  /** All of the payload was received, or (`gone`) the client is not there any more. */
  end(gone = false): void {
    this.#ended = true;
    if (gone) this.#error ??= new BlockError("EIO", "the client disconnected");
    if (this.#outstanding === 0) this.#finish();
  }

  #finish(): void {
    const host = this.#host;
    const { backend } = host.target;
    host.counters.inFlight--;
    if (this.#piped > 0) backend.pages!.countWrite(this.#piped);
    if (this.failed) return host.fail(this.#cookie, this.#error, FAILED);
    if (!this.#durable) return host.replies.ok(this.#cookie);
    let pending: MaybePromise<void>;
    try {
      pending = backend.flush();
    } catch (error) {
      return host.fail(this.#cookie, error, FAILED);
    }
    if (pending === undefined) return host.replies.ok(this.#cookie);
    host.answerLater(pending, this.#cookie, 0, FAILED);
  }
}
