/**
 * The log of requests in flight (vhost-user, "Inflight I/O tracking"): memory that outlives us, kept by the
 * front-end. Whoever serves the ring next finds in it which requests were taken but not answered, and runs just
 * those again. It may hold anything: nothing in it is believed unchecked.
 *
 * The order matters, since we may be killed between any two stores: a request is marked before it runs; it is on
 * the list of its batch before the used index shows it; its mark goes after that; and `used_idx` last. If
 * `used_idx` differs from the ring's, the marks of the last batch are to be cleared.
 */
import { alignUp, viewOf } from "../base/mod.ts";
import { PackedInflight } from "./inflight_packed.ts";

/** Bytes before the entries; bytes of an entry. */
const HEADER = 16;
const ENTRY = 16;
/** Offsets in the header. */
const VERSION_AT = 8;
const SIZE_AT = 10;
const BATCH_AT = 12;
const USED_AT = 14;
/** Offsets in an entry. */
const NEXT_AT = 6;
const COUNTER_AT = 8;
const VERSION = 1;
/** Regions of queues begin on cache lines. */
const ALIGN = 64;

/** One queue's region. */
export type InflightRegion = SplitInflight | PackedInflight;

/** Bytes of the region of one queue with `size` descriptors. */
export function inflightSize(size: number, packed: boolean): number {
  return alignUp(packed ? PackedInflight.bytes(size) : HEADER + ENTRY * size, ALIGN);
}

/** The region of a queue in `bytes`. */
export function inflightRegion(bytes: Uint8Array, size: number, packed: boolean): InflightRegion {
  return packed ? new PackedInflight(bytes, size) : new SplitInflight(bytes, size);
}

/** Region of a split ring: as QueueRegionSplit and DescStateSplit lay it out. */
export class SplitInflight {
  readonly kind = "split";
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #size: number;
  /** Number of the next request, in two halves. */
  #low = 0;
  #high = 0;
  /** Heads staged since the last publish. */
  readonly #batch: number[] = [];

  /** `bytes`: the region; `size`: descriptors of the ring. */
  constructor(bytes: Uint8Array, size: number) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
    this.#size = size;
  }

  #at(head: number): number {
    return HEADER + ENTRY * head;
  }

  /**
   * Begins to use the region with a ring whose used index is `usedIdx`. How many requests it says are in flight;
   * undefined if it says nothing, being new.
   */
  attach(usedIdx: number): number | undefined {
    const view = this.#view;
    const size = this.#size;
    if (view.getUint16(VERSION_AT, true) !== VERSION || view.getUint16(SIZE_AT, true) !== size) {
      this.#bytes.fill(0);
      view.setUint16(SIZE_AT, size, true);
      view.setUint16(USED_AT, usedIdx, true);
      view.setUint16(VERSION_AT, VERSION, true);
      return undefined;
    }
    let batch = (usedIdx - view.getUint16(USED_AT, true)) & 0xffff;
    if (batch <= size) {
      for (let head = view.getUint16(BATCH_AT, true); batch > 0 && head < size; batch--) {
        const at = this.#at(head);
        view.setUint8(at, 0);
        head = view.getUint16(at + NEXT_AT, true);
      }
    }
    view.setUint16(USED_AT, usedIdx, true);
    return this.pending().length;
  }

  /** Heads of the requests in flight, in the order in which they were taken; later ones get higher numbers. */
  pending(): number[] {
    const found: { head: number; counter: bigint }[] = [];
    let next = 0n;
    for (let head = 0; head < this.#size; head++) {
      const at = this.#at(head);
      if (this.#view.getUint8(at) === 0) continue;
      const counter = this.#view.getBigUint64(at + COUNTER_AT, true);
      found.push({ head, counter });
      if (counter >= next) next = counter + 1n;
    }
    this.#low = Number(next & 0xffff_ffffn);
    this.#high = Number(next >> 32n & 0xffff_ffffn);
    found.sort((a, b) => (a.counter < b.counter ? -1 : a.counter > b.counter ? 1 : 0));
    return found.map(({ head }) => head);
  }

  /** A request was taken from the available ring. */
  take(head: number): void {
    const at = this.#at(head);
    this.#view.setUint32(at + COUNTER_AT, this.#low, true);
    this.#view.setUint32(at + COUNTER_AT + 4, this.#high, true);
    if (++this.#low > 0xffff_ffff) {
      this.#low = 0;
      this.#high++;
    }
    Atomics.store(this.#bytes, at, 1);
  }

  /** It was put into the used ring, whose index does not show it yet. */
  stage(head: number): void {
    const view = this.#view;
    view.setUint16(this.#at(head) + NEXT_AT, view.getUint16(BATCH_AT, true), true);
    view.setUint16(BATCH_AT, head, true);
    this.#batch.push(head);
  }

  /** The used index, now `index`, shows all that was staged. */
  published(index: number): void {
    const batch = this.#batch;
    for (let i = 0; i < batch.length; i++) Atomics.store(this.#bytes, this.#at(batch[i]!), 0);
    batch.length = 0;
    this.#view.setUint16(USED_AT, index, true);
  }

  /** The front-end knows the ring's state from now on: the region says nothing any more. */
  retire(): void {
    this.#view.setUint16(VERSION_AT, 0, true);
  }
}
