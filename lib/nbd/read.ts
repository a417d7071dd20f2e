/**
 * READ. Data is read directly behind its reply header. Small reads of known data are one call and one chunk;
 * others go extent by extent (holes as OFFSET_HOLE) and piece by piece, sent while later pieces are read.
 *
 * A client that wants one piece (a simple reply, or DF) gets it from one buffer, unless it is long: such data is queued
 * as a source and read, or sent, as the client takes it. Since an error could not be told any more then, data that is
 * not in the page cache is read once before.
 */
import { IoVec, type MaybePromise } from "../base/mod.ts";
import type { BlockBackend, BlockStatus } from "../block/mod.ts";
import type { NbdExport } from "./export.ts";
import { type Region, SOURCE_PIECE } from "./output.ts";
import { type ReadHost, ReadSource } from "./source.ts";
import { CmdFlag, type Cookie, Framing, keepCookie, type RequestHeader } from "./wire.ts";

/** Bytes of one piece of a large read: so small that data is still in the cache when it is sent. */
export const PIECE = 256 * 1024;
/**
 * Data of at least ALIGN_FROM bytes begins on a multiple of COPY_ALIGN bytes. Measured on an AMD EPYC: a pread
 * whose target lies 16 to 28 bytes further in its page than the source in its own takes four times as long.
 */
const ALIGN_FROM = 16 * 1024;
const COPY_ALIGN = 64;
/** Queued bytes at which a piece-wise read sends what there is. */
const SEND_AT = 192 * 1024;
/** Queued bytes at which reads wait for the client to take what it asked for. */
export const OUTPUT_LIMIT = 512 * 1024;
/** A reply in one piece that is longer is never in memory as a whole. */
const WHOLE_LIMIT = 1024 * 1024;
/** How far ahead block status is asked for, to learn how long an extent is. */
const LOOK_AHEAD = 1024 * 1024 * 1024;
const FAILED = "reading from file failed";

/** A read that takes several chunks or waits for something. */
export class ReadJob {
  readonly cookie: Cookie;
  position: number;
  readonly end: number;
  /** Pieces being read, and a status being asked for. */
  outstanding = 0;
  error: unknown = undefined;
  /** The extent at `position` ends here; it is a hole or data. */
  extentEnd = 0;
  hole = false;
  /** Whether it is counted in flight. */
  counted = false;
  answered = false;
  readonly status: BlockStatus = { length: 0, allocated: false, data: false, zero: false };

  /** `whole`: its pieces are only looked at; the answer is one piece. */
  constructor(header: RequestHeader, readonly whole: boolean) {
    this.cookie = keepCookie(header);
    this.position = header.offset;
    this.end = header.offset + header.length;
  }
}

/** Reads of one connection. */
export class Reader {
  readonly #host: ReadHost;
  readonly #target: NbdExport;
  readonly #backend: BlockBackend;
  /** Data that is not read before it is queued. */
  readonly #source: ReadSource;
  #iov = new IoVec();
  #waiting: ReadJob[] = [];
  #abandoned = false;
  /** Bytes that piece-wise reads may still read in this turn. */
  #bytesLeft = 0;

  constructor(host: ReadHost, target: NbdExport) {
    this.#host = host;
    this.#target = target;
    this.#backend = target.backend;
    this.#source = new ReadSource(host, target);
  }

  /** Whether a read waits for room in the output. */
  get waiting(): boolean {
    return this.#waiting.length > 0;
  }

  /** Whether a read waits though nothing in flight will resume it: only the client taking replies can. */
  get stalled(): boolean {
    return this.#waiting.length > 0 && !this.#host.full;
  }

  /** A valid READ. */
  read(header: RequestHeader): void {
    const { replies, counters } = this.#host;
    const { length } = header;
    counters.bytesRead += length;
    const whole = replies.framing === Framing.simple || (header.flags & CmdFlag.df) !== 0 ||
      (length <= PIECE && this.#knownData(header.offset) >= length);
    if (length === 0) {
      if (replies.framing === Framing.simple) replies.ok(header);
      else replies.done(header);
    } else if (whole && length <= WHOLE_LIMIT) {
      this.#readWhole(header);
    } else if (whole && this.#source.cached(header.offset, length)) {
      this.#source.queueCached(header, header.offset, length, true);
    } else {
      this.#run(new ReadJob(header, whole));
    }
  }

  /** A new turn: goes on with the reads that waited. */
  resume(bytes: number): void {
    this.#bytesLeft = bytes;
    if (this.#waiting.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const job of waiting) this.#run(job);
  }

  /** Nobody will take the replies. */
  abandon(): void {
    this.#abandoned = true;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const job of waiting) this.#drop(job);
  }

  /** Bytes from `offset` on that are known to be data. */
  #knownData(offset: number): number {
    const { dataStart, dataEnd } = this.#target;
    return offset >= dataStart && offset < dataEnd ? dataEnd - offset : 0;
  }

  /** One reply with all of the data. */
  #readWhole(header: RequestHeader): void {
    const { replies } = this.#host;
    const { output, dataHeader } = replies;
    const { offset, length } = header;
    if (this.#source.sendable(offset, length)) {
      return this.#source.queueCached(header, offset, length, true);
    }
    let pending: MaybePromise<void>;
    try {
      output.reserve(dataHeader + length, dataHeader, this.#alignment(length));
      pending = this.#backend.read(offset, this.#iov.single(output.address + dataHeader, length));
    } catch (error) {
      return this.#host.fail(header, error, FAILED);
    }
    if (pending === undefined) {
      replies.putDataHeader(output.view, output.at, header, offset, length, true);
      output.commit(dataHeader + length);
      return;
    }
    this.#iov = new IoVec(); // the other one is in use now
    const region = output.detach(dataHeader + length);
    this.#whenRead(pending, region, keepCookie(header), length);
  }

  #whenRead(pending: Promise<void>, region: Region, cookie: Cookie, length: number): void {
    const host = this.#host;
    host.counters.inFlight++;
    host.bytesInFlight += length;
    pending.then(
      () => host.replies.dataInRegion(region, cookie, cookie.offset, length, true),
      (error) => {
        host.replies.output.dropRegion(region);
        host.fail(cookie, error, FAILED);
      },
    ).finally(() => host.ended(length));
  }

  /** Sends a job's chunks until it is done, waits for room, or waits for the block layer. */
  #run(job: ReadJob): void {
    const { output } = this.#host.replies;
    while (job.position < job.end && job.error === undefined) {
      if (output.pending >= SEND_AT) output.flush();
      if (output.broken !== 0) return this.#drop(job);
      if (this.#mustWait()) {
        if (this.#abandoned) return this.#drop(job);
        this.#waiting.push(job);
        return;
      }
      if (job.whole) job.extentEnd = job.end;
      else if (job.position >= job.extentEnd && !this.#nextExtent(job)) return;
      if (job.hole) this.#hole(job);
      else this.#piece(job);
    }
    if (job.outstanding === 0 && !job.answered) this.#finish(job);
    this.#close(job);
  }

  /** Something will resume it: the client taking what is queued, a completion, or the next turn. */
  #mustWait(): boolean {
    const { replies, full } = this.#host;
    return replies.output.pending >= OUTPUT_LIMIT || full || this.#bytesLeft <= 0;
  }

  /** Nobody will take the answer. */
  #drop(job: ReadJob): void {
    job.position = job.end;
    job.answered = true;
    this.#close(job);
  }

  /** Learns what lies at the job's position; false: the answer comes later. */
  #nextExtent(job: ReadJob): boolean {
    const known = this.#knownData(job.position);
    if (known > 0) {
      job.hole = false;
      job.extentEnd = Math.min(job.end, job.position + known);
      return true;
    }
    const room = Math.max(job.end, this.#target.size) - job.position;
    const ask = Math.min(room, Math.max(job.end - job.position, LOOK_AHEAD));
    let pending: MaybePromise<void>;
    try {
      pending = this.#backend.status(job.position, ask, true, job.status);
    } catch {
      return this.#unknownExtent(job);
    }
    if (pending === undefined) {
      this.#learn(job);
      return true;
    }
    this.#count(job);
    job.outstanding++;
    pending.then(() => this.#learn(job), () => this.#unknownExtent(job)).finally(() => {
      job.outstanding--;
      this.#run(job);
      this.#settle(job, 0);
    });
    return false;
  }

  /** Without an answer everything is read. */
  #unknownExtent(job: ReadJob): true {
    job.hole = false;
    job.extentEnd = job.end;
    return true;
  }

  #learn(job: ReadJob): void {
    const { zero, length } = job.status;
    const end = job.position + length;
    job.hole = zero;
    job.extentEnd = Math.min(job.end, end);
    if (zero) return;
    const target = this.#target;
    if (job.position === target.dataEnd) {
      target.dataEnd = end;
    } else {
      target.dataStart = job.position;
      target.dataEnd = end;
    }
  }

  #hole(job: ReadJob): void {
    const { position } = job;
    job.position = job.extentEnd;
    this.#host.replies.hole(job.cookie, position, job.position - position, this.#last(job));
  }

  /** Whether the chunk being sent completes the answer. */
  #last(job: ReadJob): boolean {
    const last = job.position === job.end && job.outstanding === 0 && job.error === undefined;
    if (last) job.answered = true;
    return last;
  }

  /** What the address of `length` bytes of data is to be a multiple of. */
  #alignment(length: number): number {
    const { memoryAlignment } = this.#backend.limits;
    return length < ALIGN_FROM ? memoryAlignment : Math.max(memoryAlignment, COPY_ALIGN);
  }

  /** Reads the next piece of data. */
  #piece(job: ReadJob): void {
    const { replies } = this.#host;
    const { output, dataHeader } = replies;
    const { position } = job;
    const rest = Math.min(job.extentEnd - position, SOURCE_PIECE);
    if (!job.whole && this.#source.sendable(position, rest)) {
      this.#bytesLeft -= rest;
      job.position += rest;
      return this.#source.queueCached(job.cookie, position, rest, this.#last(job));
    }
    const length = Math.min(rest, PIECE);
    this.#bytesLeft -= length;
    let pending: MaybePromise<void>;
    try {
      output.reserve(dataHeader + length, dataHeader, this.#alignment(length));
      pending = this.#backend.read(position, this.#iov.single(output.address + dataHeader, length));
    } catch (error) {
      job.error = error;
      return;
    }
    job.position += length;
    if (pending === undefined) {
      if (job.whole) return; // the room is used again
      const last = this.#last(job);
      replies.putDataHeader(output.view, output.at, job.cookie, position, length, last);
      output.commit(dataHeader + length);
      return;
    }
    this.#iov = new IoVec();
    this.#count(job);
    job.outstanding++;
    this.#host.bytesInFlight += length;
    const region = output.detach(dataHeader + length);
    pending.then(
      () => {
        job.outstanding--;
        if (job.whole) output.dropRegion(region);
        else replies.dataInRegion(region, job.cookie, position, length, this.#last(job));
      },
      (error) => {
        job.outstanding--;
        job.error ??= error;
        output.dropRegion(region);
      },
    ).finally(() => this.#settle(job, length));
  }

  /** After something asynchronous of a job ended. */
  #settle(job: ReadJob, bytes: number): void {
    this.#host.bytesInFlight -= bytes;
    const over = job.outstanding === 0 && (job.position === job.end || job.error !== undefined);
    if (over && !job.answered && !this.#waiting.includes(job)) this.#finish(job);
    this.#close(job);
    this.#host.wake();
  }

  #count(job: ReadJob): void {
    if (job.counted) return;
    job.counted = true;
    this.#host.counters.inFlight++;
  }

  /** An answered job without anything outstanding is in flight no longer. */
  #close(job: ReadJob): void {
    if (!job.counted || !job.answered || job.outstanding > 0) return;
    job.counted = false;
    this.#host.ended(0);
  }

  /** Nothing is outstanding and no chunk carried DONE. */
  #finish(job: ReadJob): void {
    job.answered = true;
    if (job.error !== undefined) this.#host.fail(job.cookie, job.error, FAILED);
    else if (job.whole) this.#sendLong(job);
    else this.#host.replies.done(job.cookie);
  }

  /** Queues a long reply in one piece, whose data could be read just now. */
  #sendLong({ cookie, end }: ReadJob): void {
    this.#source.queueRead(cookie, cookie.offset, end - cookie.offset);
  }
}
