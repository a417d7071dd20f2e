/**
 * The transmission phase's commands: each request goes to the block layer and its reply to the output.
 * What completes at once is answered in the same call, without promises or garbage; the rest is counted as
 * in flight and answered when it is done.
 */
import { BlockError, chain, IoVec, type MaybePromise } from "../base/mod.ts";
import { type BlockBackend, RequestFlag } from "../block/mod.ts";
import { SysError } from "../sys/mod.ts";
import { collectExtents, Extents } from "./block_status.ts";
import { type CheckContext, checkRequest, checkStatusRange, type Refusal } from "./check.ts";
import { Counters, type MetaContext, type NbdExport } from "./export.ts";
import type { Negotiated } from "./negotiate.ts";
import type { WriteHost } from "./large_write.ts";
import { Reader } from "./read.ts";
import type { Replies } from "./replies.ts";
import type { Slab } from "./slab.ts";
import type { Clock } from "./trial.ts";
import {
  Cmd,
  CmdFlag,
  type Cookie,
  getUint64,
  keepCookie,
  NbdErrno,
  nbdErrnoOf,
  type RequestHeader,
} from "./wire.ts";

/** Most requests of one client in flight; beyond it nothing more is read from the client. */
export const MAX_REQUESTS = 128;
/** Most bytes of one client's requests in flight. */
const MAX_BYTES_IN_FLIGHT = 16 * 1024 * 1024;
/** Bytes of all buffers of this thread at which a client that has CLIENT_BYTES in flight waits until some have come back. */
const SHARED_BYTES = 24 * 1024 * 1024;
const CLIENT_BYTES = 512 * 1024;

/** What the trace points of transmission need. */
export interface ServeTraces {
  readonly request: { enabled: boolean; emit(text: string): void };
  readonly replyError: { enabled: boolean; emit(text: string): void };
}

/** Serves one connection's requests. */
export class Executor implements CheckContext, WriteHost {
  readonly counters: Counters = new Counters();
  readonly replies: Replies;
  readonly target: NbdExport;
  readonly #backend: BlockBackend;
  readonly #contexts: readonly MetaContext[];
  readonly wake: () => void;
  readonly #traces: ServeTraces;
  readonly #reader: Reader;
  #iov = new IoVec();

  /** `wake` is called when something completed outside `execute`: replies are queued, limits have room. */
  constructor(
    chosen: Negotiated,
    replies: Replies,
    traces: ServeTraces,
    readonly clock: Clock,
    wake: () => void,
  ) {
    this.target = chosen.target;
    this.#backend = chosen.target.backend;
    this.#contexts = chosen.contexts;
    this.replies = replies;
    this.#traces = traces;
    this.wake = wake;
    this.#reader = new Reader(this, chosen.target);
  }

  get size(): number {
    return this.target.size;
  }
  get writable(): boolean {
    return this.target.writable;
  }
  get framing(): Replies["framing"] {
    return this.replies.framing;
  }
  get contexts(): number {
    return this.#contexts.length;
  }

  /** Bytes of requests in flight. */
  bytesInFlight = 0;

  /** Whether so many bytes are in flight that more have to wait for them. */
  get full(): boolean {
    const { bytesInFlight } = this;
    return bytesInFlight >= MAX_BYTES_IN_FLIGHT ||
      bytesInFlight >= CLIENT_BYTES && this.replies.output.memoryInUse >= SHARED_BYTES;
  }

  /** Whether no more requests are to be taken for now. */
  get saturated(): boolean {
    return this.counters.inFlight >= MAX_REQUESTS || this.full || this.#reader.waiting;
  }

  /** Whether a read waits for room in the output alone. */
  get stalled(): boolean {
    return this.#reader.stalled;
  }

  /** Whether any request has not been answered. */
  get busy(): boolean {
    return this.counters.inFlight > 0 || this.#reader.waiting;
  }

  /** A new turn: goes on with reads that waited, for `bytes` at first. */
  resume(bytes: number): void {
    this.#reader.resume(bytes);
  }

  /** Forgets reads that wait for room, now and from now on: their client is gone, or is to go. */
  abandon(): void {
    this.#reader.abandon();
  }

  /** Why the request is refused, or undefined. Counts it. */
  check(header: RequestHeader): Refusal | undefined {
    this.counters.requests++;
    if (this.#traces.request.enabled) {
      const { type, flags, offset, length } = header;
      this.#traces.request.emit(
        `Got request: { type = ${type}, flags = 0x${flags.toString(16)}, from = ${offset}, ` +
          `len = ${length} }`,
      );
    }
    return checkRequest(header, this);
  }

  /** Answers with an error. */
  refuse(to: Cookie, refusal: Refusal): void {
    this.counters.errors++;
    if (this.#traces.replyError.enabled) {
      this.#traces.replyError.emit(`Send error: error = ${refusal.error}, msg = '${refusal.text}'`);
    }
    this.replies.error(to, refusal.error, refusal.text);
  }

  /** Answers for a failed block operation. */
  fail(to: Cookie, error: unknown, text: string): void {
    // Memory that runs out below (SysError) is the request's failure too; all else is a mistake of ours.
    const failure = error instanceof SysError ? new BlockError(error.code, error.message) : error;
    if (!(failure instanceof BlockError)) throw failure;
    this.refuse(to, { error: nbdErrnoOf(failure), text });
  }

  /** A valid request without payload (not DISC). */
  execute(header: RequestHeader): void {
    switch (header.type) {
      case Cmd.read:
        return this.#reader.read(header);
      case Cmd.flush:
        return this.#plain(header, "flush failed");
      case Cmd.trim:
        return this.#plain(header, "discard failed");
      case Cmd.cache:
        return this.#plain(header, "caching data failed");
      case Cmd.blockStatus:
        return this.#blockStatus(header, header.length, this.#contexts);
      default: // WRITE_ZEROES, and WRITE of nothing
        return this.#plain(header, "writing to file failed");
    }
  }

  /** BLOCK_STATUS with a payload: the effect's length, then the ids of the contexts asked for. */
  executeFiltered(header: RequestHeader, view: DataView, at: number): void {
    const count = (header.length - 8) / 4;
    if (!Number.isInteger(count) || count < 1) {
      return this.refuse(header, {
        error: NbdErrno.EINVAL,
        text: "invalid payload for command block status",
      });
    }
    const length = getUint64(view, at);
    const refusal = checkStatusRange(header, length, this.size);
    if (refusal !== undefined) return this.refuse(header, refusal);
    const wanted = new Set<number>();
    for (let i = 0; i < count; i++) wanted.add(view.getUint32(at + 8 + 4 * i));
    const chosen = this.#contexts.filter(({ id }) => wanted.has(id));
    if (wanted.size !== count || chosen.length !== count) {
      return this.refuse(header, {
        error: NbdErrno.EINVAL,
        text: "unknown context id in payload of block status",
      });
    }
    this.#blockStatus(header, length, chosen);
  }

  /** A valid WRITE whose payload lies at `address` in `slab`. */
  write(header: RequestHeader, slab: Slab, address: number): void {
    const { length } = header;
    this.counters.bytesWritten += length;
    const durable = this.target.writethrough || (header.flags & CmdFlag.fua) !== 0;
    const flags = durable ? RequestFlag.fua : 0;
    let pending: MaybePromise<void>;
    try {
      pending = this.#backend.write(header.offset, this.#iov.single(address, length), flags);
    } catch (error) {
      return this.fail(header, error, "writing to file failed");
    }
    if (pending === undefined) return this.replies.ok(header);
    this.#iov = new IoVec(); // the other one is in use now
    slab.retain();
    this.answerLater(pending, keepCookie(header), length, "writing to file failed", slab);
  }

  /** Whether a large write, or the rest of one, may come out of a pipe now: see PageTransfers. */
  pipeUnit(offset: number, length: number): number {
    return this.#backend.pages?.pipeUnit(offset, length) ?? 0;
  }

  /** Commands that only succeed or fail. */
  #plain(header: RequestHeader, text: string): void {
    let pending: MaybePromise<void>;
    try {
      pending = this.#start(header);
    } catch (error) {
      return this.fail(header, error, text);
    }
    if (pending === undefined) return this.replies.ok(header);
    this.answerLater(pending, keepCookie(header), 0, text);
  }

  #start(header: RequestHeader): MaybePromise<void> {
    const { offset, length } = header;
    const fua = (header.flags & CmdFlag.fua) !== 0;
    if (header.type === Cmd.flush) return this.#backend.flush();
    if (length === 0) return undefined;
    switch (header.type) {
      case Cmd.cache:
        return this.#backend.prefetch(offset, length);
      case Cmd.trim: {
        this.target.forgetData();
        const trimmed = this.#backend.discard(offset, length);
        return fua ? chain(trimmed, () => this.#backend.flush()) : trimmed;
      }
      default: {
        this.target.forgetData();
        let flags = fua || this.target.writethrough ? RequestFlag.fua : 0;
        if ((header.flags & CmdFlag.noHole) === 0) flags |= RequestFlag.mayUnmap;
        if ((header.flags & CmdFlag.fastZero) !== 0) flags |= RequestFlag.noFallback;
        return this.#backend.writeZeroes(offset, length, flags);
      }
    }
  }

  /** Answers when `pending` has settled, with `text` if it has failed; `slab` is in use until then. */
  answerLater(
    pending: Promise<void>,
    cookie: Cookie,
    bytes: number,
    text: string,
    slab?: Slab,
  ): void {
    this.counters.inFlight++;
    this.bytesInFlight += bytes;
    pending.then(
      () => this.replies.ok(cookie),
      (error) => this.fail(cookie, error, text),
    ).finally(() => {
      slab?.release();
      this.ended(bytes);
    });
  }

  /** A request that was counted as in flight has been answered. */
  ended(bytes: number): void {
    this.counters.inFlight--;
    this.bytesInFlight -= bytes;
    this.wake();
  }

  #blockStatus(header: RequestHeader, length: number, contexts: readonly MetaContext[]): void {
    this.target.forgetData(); // whoever asks wants fresh answers, also from reads
    const single = (header.flags & CmdFlag.reqOne) !== 0;
    const all = contexts.map((context) => new Extents(context, header.offset, length, single));
    const cookie = keepCookie(header);
    const text = "can't get block status";
    let pending: MaybePromise<void>;
    try {
      pending = all.reduce<MaybePromise<void>>(
        (before, extents) => chain(before, () => collectExtents(this.#backend, extents)),
        undefined,
      );
    } catch (error) {
      return this.fail(header, error, text);
    }
    if (pending === undefined) return this.#sendExtents(cookie, all);
    this.counters.inFlight++;
    pending.then(
      () => this.#sendExtents(cookie, all),
      (error) => this.fail(cookie, error, text),
    ).finally(() => this.ended(0));
  }

  #sendExtents(cookie: Cookie, all: readonly Extents[]): void {
    all.forEach((extents, i) => {
      const last = i === all.length - 1;
      const { context, lengths, flags, count } = extents;
      this.replies.extents(cookie, context.id, lengths, flags, count, last);
    });
  }
}
