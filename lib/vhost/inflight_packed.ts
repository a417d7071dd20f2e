/**
 * The in-flight region of a packed ring: QueueRegionPacked and DescStatePacked of the vhost-user document. Since
 * used descriptors overwrite available ones, the region keeps the descriptors themselves.
 *
 * At rest `free_head`, `used_idx` and `used_wrap_counter` equal their `old_` twins. An update writes the former,
 * does its work, then the twins: if we are killed in between, the next back-end rolls it back or completes it.
 */
import { viewOf } from "../base/mod.ts";

/** Bytes before the entries; bytes of an entry. */
const HEADER = 32;
const ENTRY = 32;
const VERSION = 1;
/** Offsets in the header. */
const VERSION_AT = 8;
const SIZE_AT = 10;
const FREE_AT = 12;
const OLD_FREE_AT = 14;
const USED_AT = 16;
const OLD_USED_AT = 18;
const WRAP_AT = 20;
const OLD_WRAP_AT = 21;
/** Offsets in an entry. */
const NEXT_AT = 2;
const LAST_AT = 4;
const NUM_AT = 6;
const COUNTER_AT = 8;
const ID_AT = 16;
const FLAGS_AT = 18;
const LENGTH_AT = 20;
const ADDRESS_AT = 24;

/** A position in a packed ring: a descriptor's index, and the wrap counter (0 or 1). */
export interface Position {
  index: number;
  wrap: number;
}

/** A descriptor that the region keeps. */
export interface KeptDescriptor {
  low: number;
  high: number;
  length: number;
  id: number;
  flags: number;
}

/** A request in flight: its entry and descriptors. */
export interface KeptRequest {
  readonly entry: number;
  readonly descriptors: readonly KeptDescriptor[];
}

/** Region of a packed ring. */
export class PackedInflight {
  readonly kind = "packed";
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #size: number;
  #counter = 0;
  /** The chain that is being taken: its entry, and how many descriptors it has so far. */
  #entry = 0;
  #last = 0;
  #num = 0;
  #free = 0;

  /** `bytes`: the region; `size`: descriptors of the ring. */
  constructor(bytes: Uint8Array, size: number) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#size = size;
  }

  /** Bytes of a region for `size` descriptors. */
  static bytes(size: number): number {
    return HEADER + ENTRY * size;
  }

  #at(entry: number): number {
    return HEADER + ENTRY * entry;
  }

  /**
   * Begins to use the region. `used` says where the front-end thinks the next used descriptor goes; what the region
   * says replaces it, unless it is new. `isUsed` tells whether the ring's descriptor there was used.
   */
  attach(used: Position, isUsed: (at: Position) => boolean): KeptRequest[] | undefined {
    const view = this.#view;
    const size = this.#size;
    if (view.getUint16(VERSION_AT, true) !== VERSION || view.getUint16(SIZE_AT, true) !== size) {
      this.#format(used);
      return undefined;
    }
    const old = { index: view.getUint16(OLD_USED_AT, true), wrap: view.getUint8(OLD_WRAP_AT) & 1 };
    if (old.index >= size) {
      this.#format(used);
      return undefined;
    }
    if (view.getUint16(USED_AT, true) !== old.index && isUsed(old)) this.#commit();
    view.setUint16(FREE_AT, view.getUint16(OLD_FREE_AT, true), true);
    view.setUint16(USED_AT, view.getUint16(OLD_USED_AT, true), true);
    view.setUint8(WRAP_AT, view.getUint8(OLD_WRAP_AT));
    used.index = view.getUint16(USED_AT, true) % size;
    used.wrap = view.getUint8(WRAP_AT) & 1;
    this.#clearFree();
    return this.#kept();
  }

  #format(used: Position): void {
    const view = this.#view;
    this.#bytes.fill(0);
    view.setUint16(SIZE_AT, this.#size, true);
    for (let i = 0; i < this.#size; i++) view.setUint16(this.#at(i) + NEXT_AT, i + 1, true);
    view.setUint16(USED_AT, used.index, true);
    view.setUint16(OLD_USED_AT, used.index, true);
    view.setUint8(WRAP_AT, used.wrap);
    view.setUint8(OLD_WRAP_AT, used.wrap);
    view.setUint16(VERSION_AT, VERSION, true);
  }

  #commit(): void {
    const view = this.#view;
    view.setUint16(OLD_FREE_AT, view.getUint16(FREE_AT, true), true);
    view.setUint16(OLD_USED_AT, view.getUint16(USED_AT, true), true);
    view.setUint8(OLD_WRAP_AT, view.getUint8(WRAP_AT));
  }

  /** What is on the list of free entries is not in flight. */
  #clearFree(): void {
    let entry = this.#view.getUint16(FREE_AT, true);
    for (let i = 0; i < this.#size && entry < this.#size; i++) {
      this.#view.setUint8(this.#at(entry), 0);
      entry = this.#view.getUint16(this.#at(entry) + NEXT_AT, true);
    }
  }

  /** Requests in flight in the order in which they were taken. */
  #kept(): KeptRequest[] {
    const view = this.#view;
    const found: { counter: bigint; request: KeptRequest }[] = [];
    for (let entry = 0; entry < this.#size; entry++) {
      const at = this.#at(entry);
      if (view.getUint8(at) === 0) continue;
      const descriptors: KeptDescriptor[] = [];
      const num = view.getUint16(at + NUM_AT, true);
      for (let i = entry; descriptors.length < num && i < this.#size;) {
        descriptors.push(this.#descriptor(i));
        i = view.getUint16(this.#at(i) + NEXT_AT, true);
      }
      const counter = view.getBigUint64(at + COUNTER_AT, true);
      found.push({ counter, request: { entry, descriptors } });
      this.#counter = Math.max(this.#counter, Number(counter & 0xffff_ffff_ffffn) + 1);
    }
    found.sort((a, b) => (a.counter < b.counter ? -1 : a.counter > b.counter ? 1 : 0));
    return found.map(({ request }) => request);
  }

  #descriptor(entry: number): KeptDescriptor {
    const at = this.#at(entry);
    return {
      low: this.#view.getUint32(at + ADDRESS_AT, true),
      high: this.#view.getUint32(at + ADDRESS_AT + 4, true),
      length: this.#view.getUint32(at + LENGTH_AT, true),
      id: this.#view.getUint16(at + ID_AT, true),
      flags: this.#view.getUint16(at + FLAGS_AT, true),
    };
  }

  /** A chain is being taken. */
  begin(): void {
    this.#entry = this.#free = this.#view.getUint16(FREE_AT, true);
    this.#num = 0;
  }

  /** Its next descriptor. False: there is no free entry (the region was tampered with). */
  add(low: number, high: number, length: number, id: number, flags: number): boolean {
    const entry = this.#free;
    if (entry >= this.#size) return false;
    const view = this.#view;
    const at = this.#at(entry);
    view.setUint32(at + ADDRESS_AT, low, true);
    view.setUint32(at + ADDRESS_AT + 4, high, true);
    view.setUint32(at + LENGTH_AT, length, true);
    view.setUint16(at + ID_AT, id, true);
    view.setUint16(at + FLAGS_AT, flags, true);
    this.#last = entry;
    this.#free = view.getUint16(at + NEXT_AT, true);
    this.#num++;
    return true;
  }

  /** The chain is complete: it is in flight from now on. Its entry. */
  end(): number {
    const view = this.#view;
    const at = this.#at(this.#entry);
    view.setUint16(at + LAST_AT, this.#last, true);
    view.setUint16(at + NUM_AT, this.#num, true);
    view.setUint32(at + COUNTER_AT, this.#counter >>> 0, true);
    view.setUint32(at + COUNTER_AT + 4, Math.floor(this.#counter / 0x1_0000_0000), true);
    this.#counter++;
    Atomics.store(this.#bytes, at, 1);
    view.setUint16(FREE_AT, this.#free, true);
    view.setUint16(OLD_FREE_AT, this.#free, true);
    return this.#entry;
  }

  /** A request is about to be shown as used; the next used descriptor will be at `next`. */
  using(entry: number, next: Position): void {
    const view = this.#view;
    const last = view.getUint16(this.#at(entry) + LAST_AT, true) % this.#size;
    view.setUint16(this.#at(last) + NEXT_AT, view.getUint16(FREE_AT, true), true);
    view.setUint16(FREE_AT, entry, true);
    view.setUint8(WRAP_AT, next.wrap);
    view.setUint16(USED_AT, next.index, true);
  }

  /** The ring shows it. */
  used(entry: number): void {
    Atomics.store(this.#bytes, this.#at(entry), 0);
    this.#commit();
  }

  /** The front-end knows the ring's state from now on: the region says nothing any more. */
  retire(): void {
    this.#view.setUint16(VERSION_AT, 0, true);
  }
}
