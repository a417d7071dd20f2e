/**
 * Split virtqueues (virtio 1.2, 2.7). Indices that the driver or we publish go through Atomics: what was written
 * before a store is seen by whoever sees the store. Each field that the driver can change is read once.
 */
import type { DirtyLog } from "./dirty.ts";
import type { SplitInflight } from "./inflight.ts";
import type { GuestMemory } from "./memory.ts";
import type { BlkRequest } from "./request.ts";
import {
  DESC_INDIRECT,
  DESC_NEXT,
  DESC_SIZE,
  DESC_WRITE,
  MAX_CHAIN,
  type Ring,
  RingError,
  type RingParts,
  walkTable,
} from "./ring.ts";

const AVAIL_NO_INTERRUPT = 1;
const USED_NO_NOTIFY = 1;

/** Bytes of the parts of a split ring of `size` descriptors. */
export function splitSizes(size: number): { descriptor: number; available: number; used: number } {
  return { descriptor: DESC_SIZE * size, available: 6 + 2 * size, used: 6 + 8 * size };
}

/** A split ring. */
export class SplitRing implements Ring {
  readonly #memory: GuestMemory;
  readonly #size: number;
  readonly #mask: number;
  /** Descriptor table and used ring as words; available and used ring as halves. */
  readonly #table: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint32Array;
  readonly #usedHalves: Uint16Array;
  readonly #eventIdx: boolean;
  readonly #indirect: boolean;
  readonly #inflight: SplitInflight | undefined;
  readonly #log: DirtyLog | undefined;
  readonly #logGuest: number;
  /** What the driver made available, last we looked. */
  #availIdx: number;
  /** The next one to be taken. */
  #lastAvail: number;
  /** Staged, published, and when the driver was last notified or asked not to be. */
  #usedIdx: number;
  #published: number;
  #signalled: number;

  /** `base`: index of the next available entry. */
  constructor(parts: RingParts, base: number) {
    const { sys, size } = parts;
    const lengths = splitSizes(size);
    this.#memory = parts.memory;
    this.#size = size;
    this.#mask = size - 1;
    this.#table = new Uint32Array(sys.viewAt(parts.descriptor, lengths.descriptor).buffer);
    this.#avail = new Uint16Array(sys.viewAt(parts.available, lengths.available).buffer);
    const used = sys.viewAt(parts.used, lengths.used + 2).buffer;
    this.#used = new Uint32Array(used);
    this.#usedHalves = new Uint16Array(used);
    this.#eventIdx = parts.eventIdx;
    this.#indirect = parts.indirect;
    this.#inflight = parts.inflight?.kind === "split" ? parts.inflight : undefined;
    this.#log = parts.log;
    this.#logGuest = parts.logGuest;
    this.#usedIdx = this.#published = this.#signalled = Atomics.load(this.#usedHalves, 1);
    const pending = this.#inflight?.attach(this.#usedIdx);
    this.#lastAvail = (pending === undefined ? base : this.#usedIdx + pending) & 0xffff;
    this.#availIdx = this.#lastAvail;
  }

  get base(): number {
    return this.#lastAvail;
  }

  get drained(): boolean {
    return this.#lastAvail === this.#availIdx && this.#usedIdx === this.#lastAvail;
  }

  available(): boolean {
    if (this.#lastAvail !== this.#availIdx) return true;
    const index = Atomics.load(this.#avail, 1);
    if (index === this.#lastAvail) return false;
    const ready = (index - this.#lastAvail) & 0xffff;
    if (ready > this.#size) {
      throw new RingError(`the available index jumped from ${this.#lastAvail} to ${index}`);
    }
    this.#availIdx = index;
    return true;
  }

  take(request: BlkRequest): void {
    const head = this.#avail[2 + (this.#lastAvail & this.#mask)]!;
    if (head >= this.#size) throw new RingError(`descriptor ${head} in a ring of ${this.#size}`);
    this.#inflight?.take(head);
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff;
    this.#walk(head, request);
  }

  #walk(head: number, request: BlkRequest): void {
    request.reset(head);
    const table = this.#table;
    const size = this.#size;
    let left = Math.min(size, MAX_CHAIN);
    for (let i = head;;) {
      const word = i * 4;
      const low = table[word]!;
      const high = table[word + 1]!;
      const length = table[word + 2]!;
      const tail = table[word + 3]!;
      if ((tail & DESC_INDIRECT) !== 0) {
        if (!this.#indirect || (tail & DESC_NEXT) !== 0) {
          throw new RingError("an indirect descriptor that is not allowed");
        }
        walkTable(this.#memory, low, high, length, true, request);
        break;
      }
      if (!request.add(this.#memory, low, high, length, (tail & DESC_WRITE) !== 0)) {
        throw new RingError("a readable descriptor behind a writable one");
      }
      if ((tail & DESC_NEXT) === 0) break;
      i = tail >>> 16;
      if (i >= size) throw new RingError(`descriptor ${i} in a ring of ${size}`);
      if (--left === 0) throw new RingError("a descriptor chain that loops or is too long");
    }
    request.finish(this.#memory);
  }

  push(request: BlkRequest): void {
    const slot = this.#usedIdx & this.#mask;
    this.#used[1 + 2 * slot] = request.head;
    this.#used[2 + 2 * slot] = request.written;
    if (this.#log !== undefined) this.#log.mark(this.#logGuest + 4 + 8 * slot, 8);
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
    this.#inflight?.stage(request.head);
  }

  publish(): boolean {
    const index = this.#usedIdx;
    if (index !== this.#published) {
      Atomics.store(this.#usedHalves, 1, index);
      this.#published = index;
      if (this.#log !== undefined) this.#log.mark(this.#logGuest, 4);
      this.#inflight?.published(index);
    }
    const before = this.#signalled;
    if (index === before) return false;
    this.#signalled = index;
    if (!this.#eventIdx) return (Atomics.load(this.#avail, 0) & AVAIL_NO_INTERRUPT) === 0;
    const event = Atomics.load(this.#avail, 2 + this.#size);
    return ((index - event - 1) & 0xffff) < ((index - before) & 0xffff);
  }

  suspend(): void {
    // With event indices an old one is enough: it is only reached again after the index has wrapped.
    if (!this.#eventIdx) Atomics.store(this.#usedHalves, 0, USED_NO_NOTIFY);
  }

  resume(): boolean {
    if (this.#eventIdx) {
      Atomics.store(this.#usedHalves, 2 + 4 * this.#size, this.#lastAvail);
      if (this.#log !== undefined) this.#log.mark(this.#logGuest + 4 + 8 * this.#size, 2);
    } else {
      Atomics.store(this.#usedHalves, 0, 0);
      if (this.#log !== undefined) this.#log.mark(this.#logGuest, 2);
    }
    return this.available();
  }

  recover(make: () => BlkRequest): BlkRequest[] {
    const heads = this.#inflight?.pending() ?? [];
    return heads.map((head) => {
      const request = make();
      this.#walk(head, request);
      return request;
    });
  }
}
