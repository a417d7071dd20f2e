/**
 * One NBD connection of the load generator. Made to cost little: requests are written into one staging
 * area and sent with one call; replies are received with one call into one buffer, of which only the
 * headers are looked at; nothing is allocated per request.
 */
import { Errno, type LinuxSys, type Memory, MSG } from "../../lib/sys/mod.ts";
import * as nbd from "./protocol.ts";
import { fillPattern, matchesPattern, Random, type Workload } from "./workload.ts";
import { negotiate } from "./negotiate.ts";
import { connectTo } from "./sockets.ts";
import type { Histogram } from "../stats.ts";

/** Large enough for many replies, small enough to stay in the processor's cache. */
const RECEIVE_BYTES = 256 * 1024;

/** State of one connection; counters are totals since it was made. */
export class Connection {
  readonly fd: number;
  /** Requests completed (also those that failed). */
  completed = 0;
  /** Calls of recv and send. */
  calls = 0;
  /** Requests sent or staged, without a full reply. */
  inFlight = 0;
  /** Replies with an error, by NBD error number. */
  readonly errors = new Map<number, number>();

  readonly #sys: LinuxSys;
  readonly #work: Workload;
  readonly #blocks: number;
  readonly #random: Random;
  readonly #histogram: Histogram | null;
  readonly #replies: Memory;
  readonly #staging: Memory;
  #stagedStart = 0;
  #stagedEnd = 0;
  /** Cookies not in use, a stack. */
  readonly #free: Int32Array;
  #freeCount: number;
  /** Per cookie: 1 for a read; the block asked for, -1 when idle; when it was staged (ns). */
  readonly #isRead: Uint8Array;
  readonly #block: Float64Array;
  readonly #started: Float64Array;
  #next: number;
  /** Bytes of an incomplete header at the front of the receive buffer. */
  #have = 0;
  /** Payload bytes still to come, their request, where they belong, and whether they end it. */
  #skip = 0;
  #skipCookie = 0;
  #skipOffset = 0;
  #skipEnds = false;

  /** Connects and negotiates. `index` of `work.connections` picks the part of a sequential run, and the seed. */
  constructor(sys: LinuxSys, work: Workload, index: number, histogram: Histogram | null) {
    this.#sys = sys;
    this.#work = work;
    this.#histogram = histogram;
    this.fd = connectTo(sys, work.target);
    this.#replies = sys.allocate(RECEIVE_BYTES);
    let size: number;
    try {
      size = negotiate(sys, this.fd, this.#replies, work.exportName, work.structured);
      if (size < work.blockSize) throw new Error(`the export has ${size} bytes: less than a block`);
    } catch (error) {
      sys.close(this.fd);
      this.#replies.unmap();
      throw error;
    }
    this.#blocks = Math.floor(size / work.blockSize);
    this.#next = Math.floor(this.#blocks * index / work.connections);
    this.#random = new Random(work.seed + index * 7919);
    const slot = nbd.REQUEST_BYTES + (work.pattern.endsWith("read") ? 0 : work.blockSize);
    this.#staging = sys.allocate(slot * work.depth);
    fillPattern(
      this.#staging.bytes.subarray(0, Math.min(this.#staging.length, 1 << 20)),
      1,
      work.seed,
    );
    this.#free = Int32Array.from({ length: work.depth }, (_, i) => work.depth - 1 - i);
    this.#freeCount = work.depth;
    this.#isRead = new Uint8Array(work.depth);
    this.#block = new Float64Array(work.depth).fill(-1);
    this.#started = new Float64Array(work.depth);
  }

  /** Whether staged bytes wait for the socket to take them. */
  get sending(): boolean {
    return this.#stagedStart < this.#stagedEnd;
  }

  /**
   * Makes up to `limit` new requests, as many as the depth allows, unless old ones still wait to be
   * sent. Returns how many. `nowNs` is their start time.
   */
  stage(limit: number, nowNs: number): number {
    if (this.sending) return 0;
    const work = this.#work;
    const view = this.#staging.view;
    const bytes = work.blockSize;
    const count = Math.min(limit, this.#freeCount);
    let at = 0;
    for (let i = 0; i < count; i++) {
      const cookie = this.#free[--this.#freeCount]!;
      const read = this.#chooseRead();
      const block = this.#chooseBlock();
      const offset = block * bytes;
      this.#isRead[cookie] = read ? 1 : 0;
      this.#block[cookie] = block;
      this.#started[cookie] = nowNs;
      view.setUint32(at, nbd.REQUEST_MAGIC);
      view.setUint32(at + 4, read ? nbd.CMD_READ : nbd.CMD_WRITE);
      view.setUint32(at + 8, 0);
      view.setUint32(at + 12, cookie);
      view.setUint32(at + 16, Math.floor(offset / 4294967296));
      view.setUint32(at + 20, offset >>> 0);
      view.setUint32(at + 24, bytes);
      at += nbd.REQUEST_BYTES;
      if (!read) {
        if (work.verify) {
          fillPattern(this.#staging.bytes.subarray(at, at + bytes), offset, work.seed);
        }
        at += bytes;
      }
    }
    this.#stagedStart = 0;
    this.#stagedEnd = at;
    this.inFlight += count;
    return count;
  }

  /** Sends what is staged, as far as the socket takes it now. */
  flush(): void {
    while (this.#stagedStart < this.#stagedEnd) {
      const sent = this.#sys.send(
        this.fd,
        this.#staging.address + this.#stagedStart,
        this.#stagedEnd - this.#stagedStart,
        MSG.DONTWAIT,
      );
      this.calls++;
      if (sent === -Errno.EAGAIN) return;
      if (sent < 0 && sent !== -Errno.EINTR) throw new Error(`send: errno ${-sent}`);
      if (sent > 0) this.#stagedStart += sent;
    }
  }

  /** Receives once (waiting only if `wait`) and completes requests. `now` gives the time in nanoseconds. */
  receive(wait: boolean, now: () => number): void {
    const got = this.#sys.recv(
      this.fd,
      this.#replies.address + this.#have,
      this.#replies.length - this.#have,
      wait ? 0 : MSG.DONTWAIT,
    );
    this.calls++;
    if (got === -Errno.EAGAIN || got === -Errno.EINTR) return;
    if (got <= 0) throw new Error(got === 0 ? "the server hung up" : `recv: errno ${-got}`);
    this.#parse(this.#have + got, this.#histogram === null ? 0 : now());
  }

  /** Says goodbye and closes. */
  close(): void {
    const view = this.#staging.view;
    view.setUint32(0, nbd.REQUEST_MAGIC);
    view.setUint32(4, nbd.CMD_DISC);
    for (let at = 8; at < nbd.REQUEST_BYTES; at += 4) view.setUint32(at, 0);
    this.#sys.send(this.fd, this.#staging.address, nbd.REQUEST_BYTES, MSG.DONTWAIT);
    this.#sys.close(this.fd);
    this.#replies.unmap();
    this.#staging.unmap();
  }

  #chooseRead(): boolean {
    switch (this.#work.pattern) {
      case "read":
      case "randread":
        return true;
      case "write":
      case "randwrite":
        return false;
      default:
        return this.#random.below(100) < this.#work.readPercent;
    }
  }

  #chooseBlock(): number {
    if (this.#work.pattern.startsWith("rand")) return this.#random.below(this.#blocks);
    const block = this.#next;
    this.#next = block + 1 === this.#blocks ? 0 : block + 1;
    return block;
  }

  #parse(end: number, nowNs: number): void {
    const view = this.#replies.view;
    let at = this.#skip > 0 ? this.#pass(0, end, nowNs) : 0;
    while (end - at >= nbd.SIMPLE_BYTES) {
      const magic = view.getUint32(at);
      if (magic === nbd.SIMPLE_REPLY_MAGIC) {
        const error = view.getUint32(at + 4);
        const cookie = this.#checkCookie(view.getUint32(at + 12));
        if (error !== 0) this.#countError(error);
        this.#skip = error === 0 && this.#isRead[cookie] === 1 ? this.#work.blockSize : 0;
        this.#skipCookie = cookie;
        this.#skipOffset = this.#block[cookie]! * this.#work.blockSize;
        this.#skipEnds = true;
        at = this.#pass(at + nbd.SIMPLE_BYTES, end, nowNs);
      } else if (magic === nbd.STRUCTURED_REPLY_MAGIC) {
        const next = this.#parseChunk(at, end);
        if (next < 0) break;
        at = this.#pass(next, end, nowNs);
      } else {
        throw new Error(`a reply begins with 0x${magic.toString(16)}`);
      }
    }
    if (at > 0 && at < end) this.#replies.bytes.copyWithin(0, at, end);
    this.#have = end - at;
  }

  /** Takes a structured reply's header at `at`; where its data begins, or -1 if it is not all there yet. */
  #parseChunk(at: number, end: number): number {
    if (end - at < nbd.STRUCTURED_BYTES) return -1;
    const view = this.#replies.view;
    const type = view.getUint16(at + 6);
    const length = view.getUint32(at + 16);
    // So much of the payload is looked at: an offset, an offset and a length, an error number.
    const own = type === nbd.REPLY_OFFSET_DATA
      ? 8
      : type === nbd.REPLY_OFFSET_HOLE
      ? 12
      : (type & nbd.REPLY_ERROR_BIT) !== 0
      ? 4
      : 0;
    if (length < own) throw new Error(`a chunk of type ${type} has only ${length} bytes`);
    if (end - at < nbd.STRUCTURED_BYTES + own) return -1;
    const body = at + nbd.STRUCTURED_BYTES;
    this.#skipCookie = this.#checkCookie(view.getUint32(at + 12));
    this.#skipEnds = (view.getUint16(at + 4) & nbd.REPLY_FLAG_DONE) !== 0;
    this.#skip = length - own;
    if (own === 4) this.#countError(view.getUint32(body));
    if (own >= 8) this.#skipOffset = view.getUint32(body) * 4294967296 + view.getUint32(body + 4);
    if (own === 12 && this.#work.verify) throw new Error("verified data came back as a hole");
    return body + own;
  }

  /** Passes over payload from `at`; returns where it, or the received data, ends. */
  #pass(at: number, end: number, nowNs: number): number {
    const take = Math.min(this.#skip, end - at);
    if (this.#work.verify && take > 0 && this.#isRead[this.#skipCookie] === 1) {
      const data = this.#replies.bytes.subarray(at, at + take);
      if (!matchesPattern(data, this.#skipOffset, this.#work.seed)) {
        throw new Error(`wrong data within ${take} bytes at offset ${this.#skipOffset}`);
      }
      this.#skipOffset += take;
    }
    this.#skip -= take;
    if (this.#skip === 0 && this.#skipEnds) {
      const cookie = this.#skipCookie;
      this.#skipEnds = false;
      this.#free[this.#freeCount++] = cookie;
      this.#block[cookie] = -1;
      this.inFlight--;
      this.completed++;
      if (this.#histogram !== null) this.#histogram.record(nowNs - this.#started[cookie]!);
    }
    return at + take;
  }

  #checkCookie(cookie: number): number {
    if (cookie >= this.#work.depth || this.#block[cookie]! < 0) {
      throw new Error(`a reply to a request that is not in flight: cookie ${cookie}`);
    }
    return cookie;
  }

  #countError(error: number): void {
    this.errors.set(error, (this.errors.get(error) ?? 0) + 1);
  }
}
