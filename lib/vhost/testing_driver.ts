/** For tests and the bench: the driver's side of split and packed rings, and virtio-blk requests on them. */
import type { Memory } from "../sys/mod.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** Guest memory with a simple allocator. Offsets are from its beginning. */
export class DriverMemory {
  readonly view: DataView;
  readonly bytes: Uint8Array;
  readonly length: number;
  #next = 4096;

  constructor(readonly mapping: Memory, readonly guestBase: number, public userBase: number) {
    this.view = mapping.view;
    this.bytes = mapping.bytes;
    this.length = mapping.length;
  }

  /** Room for `length` bytes, never given back. */
  allocate(length: number, align = 16): number {
    const at = Math.ceil(this.#next / align) * align;
    if (at + length > this.length) throw new Error("guest memory is full");
    this.#next = at + length;
    return at;
  }
}

/** A buffer of a request: a guest address. */
export interface DriverBuffer {
  readonly guest: number;
  readonly length: number;
  readonly writable: boolean;
}

/** A used request. */
export interface UsedBuffer {
  readonly id: number;
  readonly length: number;
}

/** How a ring is made. */
export interface DriverOptions {
  readonly size: number;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

/** A ring from the driver's side. Offsets are in guest memory. */
export interface DriverRing {
  readonly size: number;
  readonly descriptor: number;
  readonly available: number;
  readonly used: number;
  /** For SET_VRING_BASE when the back-end could not tell: where it goes on. */
  readonly base: number;
  /** Makes a request available; its id. Undefined when the ring is full. */
  add(buffers: readonly DriverBuffer[], indirect?: boolean): number | undefined;
  /** Whether the device wants to be told of what was added since the last question. */
  wantsKick(): boolean;
  /** The next used request. */
  take(): UsedBuffer | undefined;
  /** Asks for a notification at the next used request, or for none. */
  notifications(on: boolean): void;
}

/** Writes a descriptor: address, length, and the two halves at its end. */
function put(view: DataView, at: number, buffer: DriverBuffer, low: number, high: number): void {
  view.setBigUint64(at, BigInt(buffer.guest), true);
  view.setUint32(at + 8, buffer.length, true);
  view.setUint16(at + 12, low, true);
  view.setUint16(at + 14, high, true);
}

/** The driver of a split ring. */
export class SplitDriver implements DriverRing {
  readonly size: number;
  readonly descriptor: number;
  readonly available: number;
  readonly used: number;
  readonly #memory: DriverMemory;
  readonly #options: DriverOptions;
  readonly #halves: Uint16Array;
  readonly #free: number[] = [];
  readonly #chains = new Map<number, number[]>();
  readonly #tables: number[];
  availIdx = 0;
  #kicked = 0;
  usedIdx = 0;

  constructor(memory: DriverMemory, options: DriverOptions) {
    const { size } = options;
    this.#memory = memory;
    this.#options = options;
    this.size = size;
    this.descriptor = memory.allocate(16 * size);
    this.available = memory.allocate(6 + 2 * size, 2);
    this.used = memory.allocate(6 + 8 * size, 4);
    this.#halves = new Uint16Array(memory.bytes.buffer);
    for (let i = size - 1; i >= 0; i--) this.#free.push(i);
    this.#tables = Array.from({ length: size }, () => -1);
  }

  get base(): number {
    return this.#halves[(this.used + 2) / 2]!;
  }

  add(buffers: readonly DriverBuffer[], indirect = this.#options.indirect): number | undefined {
    const chain: number[] = [];
    const need = indirect ? 1 : buffers.length;
    if (this.#free.length < need) return undefined;
    for (let i = 0; i < need; i++) chain.push(this.#free.pop()!);
    const head = chain[0]!;
    if (indirect) this.#addTable(head, buffers);
    else {
      buffers.forEach((buffer, i) => {
        const last = i === buffers.length - 1;
        const flags = (buffer.writable ? WRITE : 0) | (last ? 0 : NEXT);
        put(this.#memory.view, this.descriptor + 16 * chain[i]!, buffer, flags, chain[i + 1] ?? 0);
      });
    }
    this.#chains.set(head, chain);
    this.offer(head);
    return head;
  }

  #addTable(head: number, buffers: readonly DriverBuffer[]): void {
    const memory = this.#memory;
    let table = this.#tables[head]!;
    if (table < 0) table = this.#tables[head] = memory.allocate(16 * 128);
    buffers.forEach((buffer, i) => {
      const flags = (buffer.writable ? WRITE : 0) | (i === buffers.length - 1 ? 0 : NEXT);
      put(memory.view, table + 16 * i, buffer, flags, i + 1);
    });
    const whole = { guest: memory.guestBase + table, length: 16 * buffers.length, writable: false };
    put(memory.view, this.descriptor + 16 * head, whole, INDIRECT, 0);
  }

  /** Puts a head into the available ring as it is. */
  offer(head: number): void {
    const slot = this.availIdx % this.size;
    this.#halves[this.available / 2 + 2 + slot] = head;
    this.availIdx = (this.availIdx + 1) & 0xffff;
    Atomics.store(this.#halves, this.available / 2 + 1, this.availIdx);
  }

  wantsKick(): boolean {
    const before = this.#kicked;
    this.#kicked = this.availIdx;
    if (!this.#options.eventIdx) return (Atomics.load(this.#halves, this.used / 2) & 1) === 0;
    const event = Atomics.load(this.#halves, this.used / 2 + 2 + 4 * this.size);
    return ((this.availIdx - event - 1) & 0xffff) < ((this.availIdx - before) & 0xffff);
  }

  take(): UsedBuffer | undefined {
    if (Atomics.load(this.#halves, this.used / 2 + 1) === this.usedIdx) return undefined;
    const at = this.used + 4 + 8 * (this.usedIdx % this.size);
    const id = this.#memory.view.getUint32(at, true);
    const length = this.#memory.view.getUint32(at + 4, true);
    this.usedIdx = (this.usedIdx + 1) & 0xffff;
    const chain = this.#chains.get(id);
    if (chain === undefined) throw new Error(`descriptor ${id} was used, but not available`);
    this.#chains.delete(id);
    this.#free.push(...chain);
    if (this.#options.eventIdx && this.#wanted) this.#event(this.usedIdx);
    return { id, length };
  }

  #wanted = true;

  notifications(on: boolean): void {
    this.#wanted = on;
    if (this.#options.eventIdx) this.#event(on ? this.usedIdx : (this.usedIdx - 1) & 0xffff);
    else Atomics.store(this.#halves, this.available / 2, on ? 0 : 1);
  }

  #event(index: number): void {
    Atomics.store(this.#halves, this.available / 2 + 2 + this.size, index);
  }
}

const AVAIL = 1 << 7;
const USED = 1 << 15;

/** The driver of a packed ring. */
export class PackedDriver implements DriverRing {
  readonly size: number;
  readonly descriptor: number;
  readonly available: number;
  readonly used: number;
  readonly #memory: DriverMemory;
  readonly #options: DriverOptions;
  readonly #halves: Uint16Array;
  readonly #counts = new Map<number, number>();
  readonly #ids: number[] = [];
  readonly #tables: number[];
  #free: number;
  #avail = 0;
  #availWrap = 1;
  #used = 0;
  #usedWrap = 1;
  #added = 0;

  constructor(memory: DriverMemory, options: DriverOptions) {
    const { size } = options;
    this.#memory = memory;
    this.#options = options;
    this.size = size;
    this.#free = size;
    this.descriptor = memory.allocate(16 * size);
    this.available = memory.allocate(4, 4);
    this.used = memory.allocate(4, 4);
    this.#halves = new Uint16Array(memory.bytes.buffer);
    for (let i = size - 1; i >= 0; i--) this.#ids.push(i);
    this.#tables = Array.from({ length: size }, () => -1);
  }

  get base(): number {
    const used = this.#used | this.#usedWrap << 15;
    return (used | used << 16) >>> 0;
  }

  add(buffers: readonly DriverBuffer[], indirect = this.#options.indirect): number | undefined {
    const need = indirect ? 1 : buffers.length;
    if (this.#free < need || this.#ids.length === 0) return undefined;
    const id = this.#ids.pop()!;
    const list = indirect ? [this.#table(id, buffers)] : buffers;
    const first = this.#avail;
    let firstFlags = 0;
    list.forEach((buffer, i) => {
      let flags = (buffer.writable ? WRITE : 0) | (i === list.length - 1 ? 0 : NEXT);
      if (indirect) flags = INDIRECT;
      flags |= this.#availWrap === 1 ? AVAIL : USED;
      // The head's flags are written last: they make the chain available.
      const at = this.descriptor + 16 * this.#avail;
      const old = this.#memory.view.getUint16(at + 14, true);
      put(this.#memory.view, at, buffer, id, i === 0 ? old : flags);
      if (i === 0) firstFlags = flags;
      if (++this.#avail === this.size) {
        this.#avail = 0;
        this.#availWrap ^= 1;
      }
    });
    Atomics.store(this.#halves, this.descriptor / 2 + first * 8 + 7, firstFlags);
    this.#free -= need;
    this.#counts.set(id, need);
    this.#added += need;
    return id;
  }

  #table(id: number, buffers: readonly DriverBuffer[]): DriverBuffer {
    const memory = this.#memory;
    let table = this.#tables[id]!;
    if (table < 0) table = this.#tables[id] = memory.allocate(16 * 128);
    buffers.forEach((buffer, i) => {
      put(memory.view, table + 16 * i, buffer, 0, buffer.writable ? WRITE : 0);
    });
    return { guest: memory.guestBase + table, length: 16 * buffers.length, writable: false };
  }

  wantsKick(): boolean {
    const since = this.#added;
    this.#added = 0;
    const flags = Atomics.load(this.#halves, this.used / 2 + 1);
    if (flags === 0) return true;
    if (flags === 1) return false;
    const event = Atomics.load(this.#halves, this.used / 2);
    let at = event & 0x7fff;
    if (event >>> 15 !== this.#availWrap) at -= this.size;
    const past = this.#avail - at - 1;
    return past >= 0 && past < since;
  }

  take(): UsedBuffer | undefined {
    const at = this.descriptor + 16 * this.#used;
    const flags = Atomics.load(this.#halves, at / 2 + 7);
    const expected = this.#usedWrap === 1 ? AVAIL | USED : 0;
    if ((flags & (AVAIL | USED)) !== expected) return undefined;
    const id = this.#memory.view.getUint16(at + 12, true);
    const length = this.#memory.view.getUint32(at + 8, true);
    const count = this.#counts.get(id);
    if (count === undefined) throw new Error(`buffer ${id} was used, but not available`);
    this.#counts.delete(id);
    this.#ids.push(id);
    this.#free += count;
    this.#used += count;
    if (this.#used >= this.size) {
      this.#used -= this.size;
      this.#usedWrap ^= 1;
    }
    if (this.#options.eventIdx && this.#wanted) this.#event();
    return { id, length };
  }

  #wanted = false;

  notifications(on: boolean): void {
    this.#wanted = on;
    if (on && this.#options.eventIdx) this.#event();
    else Atomics.store(this.#halves, this.available / 2 + 1, on ? 0 : 1);
  }

  #event(): void {
    const event = this.#used | this.#usedWrap << 15;
    Atomics.store(this.#halves, this.available / 2, event);
    Atomics.store(this.#halves, this.available / 2 + 1, 2);
  }
}
