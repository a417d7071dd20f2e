/**
 * Packed virtqueues (virtio 1.2, 2.8): one ring of descriptors that the driver makes available and we overwrite
 * with used ones, each with a wrap counter's bit; two structures say when to notify. A request is shown as used at
 * once, by the store of its flags.
 */
import type { DirtyLog } from "./dirty.ts";
import type { KeptDescriptor, PackedInflight, Position } from "./inflight_packed.ts";
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

const AVAIL = 1 << 7;
const USED = 1 << 15;
/** Flags of event suppression: notify always, never, or at a descriptor. */
const EVENTS_ENABLE = 0;
const EVENTS_DISABLE = 1;
const EVENTS_DESC = 2;
const WRAP_BIT = 1 << 15;

/** Bytes of the parts of a packed ring of `size` descriptors. */
export function packedSizes(size: number): { descriptor: number; available: number; used: number } {
  return { descriptor: DESC_SIZE * size, available: 4, used: 4 };
}

/** A packed ring. */
export class PackedRing implements Ring {
  readonly #memory: GuestMemory;
  readonly #size: number;
  /** The ring as words and halves; the driver's and our event suppression: offset and wrap, flags. */
  readonly #words: Uint32Array;
  readonly #halves: Uint16Array;
  readonly #driver: Uint16Array;
  readonly #device: Uint16Array;
  readonly #eventIdx: boolean;
  readonly #indirect: boolean;
  readonly #inflight: PackedInflight | undefined;
  readonly #log: DirtyLog | undefined;
  readonly #logGuest: number;
  /** The next available, and the next used descriptor. */
  readonly #avail: Position = { index: 0, wrap: 1 };
  readonly #used: Position = { index: 0, wrap: 1 };
  /** Descriptors used since the driver was last notified or asked not to be. */
  #unsignalled = 0;
  #inFlight = 0;
  /** Left over from the last back-end; until `recover`. */
  #kept: { entry: number; descriptors: readonly KeptDescriptor[] }[] = [];

  /** `base`: index and wrap counter of the next available (low half) and used (high half) descriptor. */
  constructor(parts: RingParts, base: number) {
    const { sys, size } = parts;
    const lengths = packedSizes(size);
    this.#memory = parts.memory;
    this.#size = size;
    const ring = sys.viewAt(parts.descriptor, lengths.descriptor).buffer;
    this.#words = new Uint32Array(ring);
    this.#halves = new Uint16Array(ring);
    this.#driver = new Uint16Array(sys.viewAt(parts.available, lengths.available).buffer);
    this.#device = new Uint16Array(sys.viewAt(parts.used, lengths.used).buffer);
    this.#eventIdx = parts.eventIdx;
    this.#indirect = parts.indirect;
    this.#inflight = parts.inflight?.kind === "packed" ? parts.inflight : undefined;
    this.#log = parts.log;
    this.#logGuest = parts.logGuest;
    this.#avail.index = base & 0x7fff;
    this.#avail.wrap = base >>> 15 & 1;
    this.#used.index = base >>> 16 & 0x7fff;
    this.#used.wrap = base >>> 31;
    if (this.#avail.index >= size || this.#used.index >= size) {
      throw new RingError(`a base beyond the ring of ${size}`);
    }
    this.#attach();
  }

  /** Continues where the region says that the last back-end ended. */
  #attach(): void {
    const used = { ...this.#used };
    const kept = this.#inflight?.attach(used, (at) => {
      const flags = this.#halves[at.index * 8 + 7]!;
      const expected = at.wrap === 1 ? AVAIL | USED : 0;
      return (flags & (AVAIL | USED)) === expected;
    });
    if (kept === undefined) return;
    this.#kept = kept;
    let taken = 0;
    for (const { descriptors } of kept) taken += descriptors.length;
    if (taken > this.#size) throw new RingError("an in-flight log of more than the ring has");
    Object.assign(this.#used, used);
    Object.assign(this.#avail, used);
    advance(this.#avail, taken, this.#size);
  }

  get base(): number {
    const avail = this.#avail.index | this.#avail.wrap << 15;
    const used = this.#used.index | this.#used.wrap << 15;
    return (avail | used << 16) >>> 0;
  }

  get drained(): boolean {
    return this.#inFlight === 0 && !this.available();
  }

  available(): boolean {
    const { index, wrap } = this.#avail;
    const flags = Atomics.load(this.#halves, index * 8 + 7);
    return (flags & (AVAIL | USED)) === (wrap === 1 ? AVAIL : USED);
  }

  take(request: BlkRequest): void {
    request.reset(0);
    const size = this.#size;
    const inflight = this.#inflight;
    inflight?.begin();
    let { index } = this.#avail;
    let count = 0;
    for (;;) {
      const word = index * 4;
      const low = this.#words[word]!;
      const high = this.#words[word + 1]!;
      const length = this.#words[word + 2]!;
      const tail = this.#words[word + 3]!;
      const id = tail & 0xffff;
      const flags = tail >>> 16;
      count++;
      if (inflight !== undefined && !inflight.add(low, high, length, id, flags)) {
        throw new RingError("an in-flight log that is full");
      }
      this.#add(request, low, high, length, flags);
      if (++index === size) index = 0;
      if ((flags & DESC_NEXT) === 0) {
        request.head = id;
        break;
      }
      if (count === size || count === MAX_CHAIN) {
        throw new RingError("a descriptor chain that is too long");
      }
    }
    request.count = count;
    if (inflight !== undefined) request.entry = inflight.end();
    request.finish(this.#memory);
    advance(this.#avail, count, size);
    this.#inFlight++;
  }

  #add(request: BlkRequest, low: number, high: number, length: number, flags: number): void {
    if ((flags & DESC_INDIRECT) !== 0) {
      if (!this.#indirect || (flags & DESC_NEXT) !== 0) {
        throw new RingError("an indirect descriptor that is not allowed");
      }
      walkTable(this.#memory, low, high, length, false, request);
    } else if (!request.add(this.#memory, low, high, length, (flags & DESC_WRITE) !== 0)) {
      throw new RingError("a readable descriptor behind a writable one");
    }
  }

  push(request: BlkRequest): void {
    const { index, wrap } = this.#used;
    advance(this.#used, request.count, this.#size);
    this.#inflight?.using(request.entry, this.#used);
    this.#words[index * 4 + 2] = request.written;
    this.#halves[index * 8 + 6] = request.head;
    let flags = wrap === 1 ? AVAIL | USED : 0;
    if (request.written > 0) flags |= DESC_WRITE;
    Atomics.store(this.#halves, index * 8 + 7, flags);
    this.#inflight?.used(request.entry);
    if (this.#log !== undefined) this.#log.mark(this.#logGuest + index * DESC_SIZE, DESC_SIZE);
    this.#unsignalled += request.count;
    this.#inFlight--;
  }

  publish(): boolean {
    const since = this.#unsignalled;
    if (since === 0) return false;
    this.#unsignalled = 0;
    // A store must not pass this load: what was used is shown before the driver's wish is read.
    const flags = Atomics.load(this.#driver, 1) & 3;
    if (flags === EVENTS_ENABLE) return true;
    if (flags !== EVENTS_DESC || !this.#eventIdx) return flags !== EVENTS_DISABLE;
    const event = Atomics.load(this.#driver, 0);
    const { index, wrap } = this.#used;
    let at = event & 0x7fff;
    if (event >>> 15 !== wrap) at -= this.#size;
    // `since` descriptors were used up to `index`: was the one at `at` among them?
    return index - at - 1 >= 0 && index - at - 1 < since;
  }

  suspend(): void {
    Atomics.store(this.#device, 1, EVENTS_DISABLE);
  }

  resume(): boolean {
    if (this.#eventIdx) {
      const { index, wrap } = this.#avail;
      Atomics.store(this.#device, 0, index | (wrap === 1 ? WRAP_BIT : 0));
      Atomics.store(this.#device, 1, EVENTS_DESC);
    } else {
      Atomics.store(this.#device, 1, EVENTS_ENABLE);
    }
    return this.available();
  }

  recover(make: () => BlkRequest): BlkRequest[] {
    const kept = this.#kept;
    this.#kept = [];
    return kept.map(({ entry, descriptors }) => {
      const request = make();
      request.reset(0);
      for (const { low, high, length, flags } of descriptors) {
        this.#add(request, low, high, length, flags);
      }
      request.head = descriptors.at(-1)?.id ?? 0;
      request.count = descriptors.length;
      request.entry = entry;
      request.finish(this.#memory);
      this.#inFlight++;
      return request;
    });
  }
}

function advance(position: Position, count: number, size: number): void {
  position.index += count;
  if (position.index >= size) {
    position.index -= size;
    position.wrap ^= 1;
  }
}
