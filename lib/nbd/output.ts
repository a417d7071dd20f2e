/**
 * Replies on their way to the client. They are laid out one behind the other in native memory
 * ([header][data][header][data]...), so that a batch of replies leaves with one send; data is read by the
 * block layer directly behind its header. Replies that complete later keep their region and are queued when
 * they are ready, in any order.
 *
 * Data may also be sent from where it lies (`DataSource`). Its place is looked up when it is sent, so that nothing is
 * held while the client is slow; what cannot be sent so any more is read when its turn comes.
 */
import { alignUp, assert, IoVec, type MaybePromise } from "../base/mod.ts";
import { type BufferPool, Errno, now } from "../sys/mod.ts";
import { Slab } from "./slab.ts";
import { AGAIN, INTERRUPTED, type Transport } from "./transport.ts";

/** Bytes of one slab: a 256 KiB reply with its header, and small ones. Small enough to stay in the cache. */
const OUTPUT_SLAB = 288 * 1024;
/**
 * Where the first reply begins in a slab: its data (16 bytes on) lies on a cache line, and not a few bytes past
 * a page, where the copy out of the page cache is slowest (see read.ts).
 */
const FIRST = 48;
/**
 * Aligned data of at least this many bytes begins at one place in a page. The kernel copies what is sent into pages of
 * its own, 16,064 bytes and then 32 KiB at a time. Measured on an AMD EPYC: where its place in a page is 1 to 44 bytes
 * ahead of ours, 64 KiB take 22 us instead of 8. That was so for every reply of 64 KiB that came fifth in its slab,
 * 304 bytes into a page, and was the first one of a send.
 */
const PLACED_FROM = 32 * 1024;
const PAGE = 4096;
/** Most segments of one sendmsg (IOV_MAX is 1024). */
const MAX_SEGMENTS = 64;

/** Most bytes of a source that are sent with one call. */
export const SOURCE_PIECE = 1024 * 1024;
/** Most bytes of a source that are read at once, when they cannot be sent from where they lie. */
const FETCH = 256 * 1024;
/** Most bytes sent in one go: a client that takes them as fast as they come is not to hold back others. */
const FLUSH_BYTES = 4 * 1024 * 1024;

/** Bytes to be sent: of a slab, or (without one) of the source. */
class Segment {
  /** The source had it at hand when it was queued, just now. */
  fresh = true;
  constructor(readonly slab: Slab | undefined, public start: number, public end: number) {}
}

/** Data by position that need not pass through our memory. */
export interface DataSource {
  /** Sends from `position` on: bytes, -errno, or undefined when it has to be read. `fresh`: as Segment.fresh. */
  send(position: number, length: number, fresh: boolean): number | undefined;
  /** Reads it. A failure is the end of the connection: the reply has begun. */
  fetch(position: number, length: number, address: number): MaybePromise<void>;
}

/** Room kept for a reply that completes later. */
export interface Region {
  readonly slab: Slab;
  /** Where the reply's header begins in the slab. */
  readonly start: number;
  readonly view: DataView;
}

/** The queue of one connection. */
export class Output {
  /** Bytes queued and not sent. */
  pending = 0;
  /** Set by `reserve`: where the reply's first byte goes in `view`. */
  at = 0;
  /** Set by `reserve`: the slab's memory. */
  view: DataView = new DataView(new ArrayBuffer(0));
  /** Set by `reserve`: address of `at`. */
  address = 0;
  /** The errno (negative) that ended sending, or 0. */
  broken = 0;
  /** Where segments without a slab come from. */
  source: DataSource | undefined;
  /** What is to be sent next is being read: the client taking more does not help. */
  fetching = false;

  /** When the client last took something, or, before it has, was offered it: while something is pending. */
  #taken = 0;
  readonly #pool: BufferPool;
  readonly #transport: Transport;
  readonly #iov = new IoVec();
  #segments: Segment[] = [];
  /** Where the next replies go, and the slab that `reserve` chose (the same, unless the reply is large). */
  #current: Slab | undefined;
  #tail = 0;
  /** Bytes that the last call was given to send. */
  #wanted = 0;
  #reserved: Slab | undefined;

  constructor(pool: BufferPool, transport: Transport) {
    this.#pool = pool;
    this.#transport = transport;
  }

  /**
   * Finds room for `length` bytes whose byte `header`, where its data begins, gets an address that is a multiple of
   * `alignment`; if it is long, one that lies `alignment` bytes into a page.
   * `commit` or `detach` follows, or nothing: then the room is used for the next reply.
   */
  reserve(length: number, header = 0, alignment = 1): void {
    this.#dropLarge();
    let slab = this.#current;
    if (slab !== undefined && this.pending === 0 && slab.exclusive) this.#tail = FIRST;
    const long = length - header >= PLACED_FROM && alignment > 1;
    const place = long ? alignment % PAGE : 0;
    const unit = place > 0 ? PAGE : alignment;
    let at = slab === undefined ? 0 : placeIn(slab, this.#tail, header, unit, place);
    if (slab === undefined || at + length > slab.memory.length) {
      const room = length + unit;
      if (FIRST + room > OUTPUT_SLAB) {
        slab = new Slab(this.#pool, room);
        at = placeIn(slab, 0, header, unit, place);
      } else {
        slab?.release();
        slab = this.#current = new Slab(this.#pool, OUTPUT_SLAB);
        this.#tail = FIRST;
        at = placeIn(slab, FIRST, header, unit, place);
      }
    }
    this.#reserved = slab;
    this.at = at;
    this.view = slab.memory.view;
    this.address = slab.memory.address + at;
  }

  /** A large slab that was reserved and not used. */
  #dropLarge(): void {
    if (this.#reserved !== undefined && this.#reserved !== this.#current) this.#reserved.release();
    this.#reserved = undefined;
  }

  /** Queues the first `length` bytes of what was reserved. */
  commit(length: number): void {
    const slab = this.#reserved;
    assert(slab !== undefined && length > 0);
    this.#reserved = undefined;
    if (slab === this.#current) {
      this.#tail = this.at + length;
      this.#queue(slab, this.at, length);
    } else {
      this.#queue(slab, this.at, length);
      slab.release();
    }
  }

  /** Keeps the first `length` bytes of what was reserved for a reply that completes later. */
  detach(length: number): Region {
    const slab = this.#reserved;
    assert(slab !== undefined);
    this.#reserved = undefined;
    if (slab === this.#current) {
      this.#tail = this.at + length;
      slab.retain();
    }
    return { slab, start: this.at, view: slab.memory.view };
  }

  /** Queues the first `length` bytes of a region; it is gone then. */
  commitRegion(region: Region, length: number): void {
    this.#queue(region.slab, region.start, length);
    region.slab.release();
  }

  /** Gives up a region. */
  dropRegion(region: Region): void {
    region.slab.release();
  }

  #queue(slab: Slab, start: number, length: number): void {
    if (this.broken !== 0) return;
    this.pending += length;
    const last = this.#segments[this.#segments.length - 1];
    if (last !== undefined && last.slab === slab && last.end === start) {
      last.end += length;
      return;
    }
    slab.retain();
    this.#segments.push(new Segment(slab, start, start + length));
  }

  /** Bytes of the buffers in use: those of all connections of this thread. */
  get memoryInUse(): number {
    return this.#pool.inUse;
  }

  /** Whether `sendFile` can be called. */
  get sendsFiles(): boolean {
    return this.#transport.sendFile !== undefined;
  }

  /** Transport.sendFile, for the source. */
  sendFile(file: number, offset: number, length: number): number {
    return this.#transport.sendFile!(file, offset, length);
  }

  /** Queues data of the source; `fresh`: which has it at hand. */
  queueSource(position: number, length: number, fresh: boolean): void {
    if (this.broken !== 0) return;
    this.pending += length;
    const segment = new Segment(undefined, position, position + length);
    segment.fresh = fresh;
    this.#segments.push(segment);
  }

  /** For how many nanoseconds the client has taken nothing of what is pending; 0 while it has nothing to take. */
  get stalledNs(): number {
    return this.pending === 0 || this.fetching ? 0 : now() - this.#taken;
  }

  /** Sends what can be sent now. Afterwards `pending` is what could not, `broken` says if it never can. */
  flush(): void {
    const before = this.pending;
    let left = FLUSH_BYTES;
    while (this.pending > 0 && left > 0 && !this.fetching) {
      const first = this.#segments[0]!;
      const sent = first.slab === undefined ? this.#sendSource(first) : this.#sendSlabs();
      if (sent === INTERRUPTED || sent === undefined) continue;
      if (sent === AGAIN) break;
      if (sent < 0) return this.discard(sent);
      left -= sent;
      const wanted = this.#wanted;
      this.#advance(sent);
      if (sent < wanted) break;
    }
    if (this.pending === 0) {
      this.#taken = 0;
      return;
    }
    if (this.pending < before || this.#taken === 0 || this.fetching) this.#taken = now();
    for (const segment of this.#segments) segment.fresh = false;
  }

  /** Sends the slabs at the front of the queue, with one call. */
  #sendSlabs(): number {
    const segments = this.#segments;
    const second = segments[1];
    if (second?.slab === undefined) {
      const { slab, start, end } = segments[0]!;
      this.#wanted = end - start;
      return this.#transport.send(slab!.memory.address + start, end - start, second !== undefined);
    }
    const iov = this.#iov.reset();
    for (let i = 0; i < segments.length && i < MAX_SEGMENTS; i++) {
      const { slab, start, end } = segments[i]!;
      if (slab === undefined) break;
      iov.add(slab.memory.address + start, end - start);
    }
    this.#wanted = iov.total;
    return this.#transport.sendv(iov);
  }

  /** Sends of the source, or (undefined) reads the front part of `segment`. */
  #sendSource(segment: Segment): number | undefined {
    const { start, end } = segment;
    this.#wanted = Math.min(end - start, SOURCE_PIECE);
    const sent = this.source!.send(start, this.#wanted, segment.fresh);
    if (sent !== undefined) return sent;
    const length = Math.min(end - start, FETCH);
    const slab = new Slab(this.#pool, length);
    const done = () => {
      // Nobody waits for it any more if the connection has broken meanwhile.
      if (this.broken !== 0) return slab.release();
      segment.start += length;
      if (segment.start === segment.end) this.#segments.shift();
      this.#segments.unshift(new Segment(slab, 0, length));
    };
    const failed = (_error: unknown) => {
      slab.release();
      if (this.broken === 0) this.discard(-Errno.EIO);
    };
    try {
      const pending = this.source!.fetch(start, length, slab.memory.address);
      if (pending === undefined) {
        done();
      } else {
        this.fetching = true;
        pending.then(done, failed).finally(() => this.fetching = false);
      }
    } catch (error) {
      failed(error);
    }
    return undefined;
  }

  #advance(sent: number): void {
    this.pending -= sent;
    let done = 0;
    for (const segment of this.#segments) {
      const take = Math.min(sent, segment.end - segment.start);
      segment.start += take;
      sent -= take;
      if (segment.start < segment.end) break;
      segment.slab?.release();
      done++;
    }
    if (done === this.#segments.length) this.#segments.length = 0;
    else if (done > 0) this.#segments.splice(0, done);
  }

  /** Nothing can be sent any more, for `reason` (a negative errno): forgets what is queued. */
  discard(reason: number): void {
    this.broken = reason;
    for (const segment of this.#segments) segment.slab?.release();
    this.#segments = [];
    this.pending = 0;
  }

  /** Gives memory back that holds nothing: an idle connection keeps none. */
  trim(): void {
    this.#dropLarge();
    if (this.pending > 0 || this.#current === undefined) return;
    this.#current.release();
    this.#current = undefined;
    this.#tail = 0;
  }

  /** Gives back everything; regions that are out stay valid until they are committed or dropped. */
  close(): void {
    if (this.broken === 0) this.discard(-Errno.EPIPE);
    this.trim();
  }
}

/** The first place from `tail` of the slab on whose byte `header` lies `place` bytes behind a multiple of `unit`. */
function placeIn(slab: Slab, tail: number, header: number, unit: number, place: number): number {
  if (unit === 1) return tail;
  const base = slab.memory.address;
  return alignUp(base + tail + header - place, unit) + place - header - base;
}
