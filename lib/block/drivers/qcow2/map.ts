/**
 * From guest offsets to entries of L2 tables, and what these say: `locate`. On a hit of the cache nothing is
 * allocated and nothing waits. Source: the QCOW2 specification, "Cluster mapping", "Extended L2 Entries".
 */
import { type IoVec, type MaybePromise } from "../../../base/mod.ts";
import type { Placement } from "../../mod.ts";
import { type Slot, TableCache } from "./cache.ts";
import {
  Bounds,
  compressedLength,
  compressedLimit,
  compressedOffset,
  EntryHigh,
  EntryLow,
  entryOffset,
} from "./format.ts";
import type { Image } from "./image.ts";
import { mustWait, whenThere } from "./waiting.ts";

/** What a guest cluster (or subcluster) is. */
export const Kind = {
  /** Nothing in this layer. */
  unallocated: 0,
  /** Reads as zeroes; without, or with, a place of its own. */
  zero: 1,
  zeroAllocated: 2,
  data: 3,
  compressed: 4,
} as const;

/** The map of an image's active layer. */
export class ClusterMap {
  readonly cache: TableCache;
  /** Entries and guest bytes of one slice. */
  readonly sliceEntries: number;
  readonly sliceCoverage: number;
  readonly #image: Image;
  readonly #clusterSize: number;
  readonly #entrySize: number;
  readonly #extended: boolean;
  readonly #view: DataView;
  /** The slice that was looked at last, if its key is still the one wanted. */
  #last: Slot | undefined;

  constructor(image: Image, capacity: number, relieve: () => Promise<void>) {
    const { geometry, options } = image;
    this.#image = image;
    this.#clusterSize = geometry.clusterSize;
    this.#entrySize = geometry.l2EntrySize;
    this.#extended = geometry.extendedL2;
    this.sliceEntries = options.l2CacheEntrySize / geometry.l2EntrySize;
    this.sliceCoverage = this.sliceEntries * geometry.clusterSize;
    this.cache = new TableCache({
      context: image.context,
      file: image.file,
      sliceSize: options.l2CacheEntrySize,
      capacity,
      relieve,
    });
    this.#view = this.cache.view;
  }

  /**
   * The slice with the entry of the cluster at `guest`; undefined if there is no L2 table; or a promise after
   * which to ask again.
   */
  slice(guest: number): Slot | undefined | Promise<void> {
    const key = Math.floor(guest / this.sliceCoverage);
    const last = this.#last;
    if (last !== undefined && last.key === key && last.loading === undefined) {
      last.used = 3;
      return last;
    }
    const slot = this.cache.peek(key);
    if (slot !== undefined) return this.#last = slot;
    return this.#fetch(guest, key);
  }

  /** As `slice`, waiting; `act` is called with the slice in the turn in which it is there. */
  fetch<R>(guest: number, act: (slot: Slot | undefined) => R): Promise<R> {
    return whenThere(() => this.slice(guest), act);
  }

  #fetch(guest: number, key: number): Slot | undefined | Promise<void> {
    const { l1, geometry } = this.#image;
    const index = Math.floor(guest / geometry.l2Coverage);
    const table = index < l1.length ? l1.target(index) : 0;
    if (table === 0) return undefined;
    if (table % geometry.clusterSize !== 0 || table >= Bounds.maxHostOffset) {
      this.#image.corrupt(
        `L2 table offset ${hex(table)} unaligned (L1 index: ${hex(index)})`,
      );
    }
    const inTable = key % (geometry.clusterSize / this.cache.sliceSize);
    return this.cache.get(key, table + inTable * this.cache.sliceSize);
  }

  /** Offset in `cache.view` of the entry for `guest` in its slice. */
  entryAt(slot: Slot, guest: number): number {
    const index = Math.floor((guest - slot.key * this.sliceCoverage) / this.#clusterSize);
    return slot.base + index * this.#entrySize;
  }
  /** End of the guest range that the slice maps. */
  sliceEnd(slot: Slot): number {
    return (slot.key + 1) * this.sliceCoverage;
  }
  /** The entry at `at` of the view was changed. */
  changed(slot: Slot, at: number): void {
    const from = at - slot.base;
    this.cache.dirty(slot, from, from + this.#entrySize);
  }

  /** What the words of an entry say; with extended entries for subcluster `sub`. */
  kind(at: number, sub: number): number {
    const high = this.#view.getUint32(at);
    const low = this.#view.getUint32(at + 4);
    if ((high & EntryHigh.compressed) !== 0) return Kind.compressed;
    const placed = (high & EntryHigh.offset) !== 0 || (low & EntryLow.offset) !== 0 ||
      (this.#image.geometry.externalData && high >= EntryHigh.copied);
    if (!this.#extended) {
      if ((low & EntryLow.zero) !== 0) return placed ? Kind.zeroAllocated : Kind.zero;
      return placed ? Kind.data : Kind.unallocated;
    }
    const bit = 1 << sub;
    if ((this.#view.getUint32(at + 8) & bit) !== 0) {
      return placed ? Kind.zeroAllocated : Kind.zero;
    }
    return (this.#view.getUint32(at + 12) & bit) !== 0 ? Kind.data : Kind.unallocated;
  }

  /** FormatInstance.locate. */
  locate(start: number, length: number, out: Placement): MaybePromise<void> {
    const slot = this.slice(start);
    if (slot === undefined) return this.#placeNothing(start, length, out);
    if (mustWait(slot)) return this.#locateLater(slot, start, length, out);
    return this.#place(slot, start, length, out);
  }

  async #locateLater(
    wait: Promise<void>,
    start: number,
    length: number,
    out: Placement,
  ): Promise<void> {
    let slot: Slot | undefined | Promise<void> = wait;
    while (mustWait(slot)) {
      await slot;
      slot = this.slice(start);
    }
    if (slot === undefined) this.#placeNothing(start, length, out);
    else this.#place(slot, start, length, out);
  }

  /** There is no L2 table. */
  #placeNothing(start: number, length: number, out: Placement): void {
    const coverage = this.#image.geometry.l2Coverage;
    out.unallocated(this.#image.backing, Math.min(length, coverage - (start % coverage)));
  }

  #place(slot: Slot, start: number, length: number, out: Placement): void {
    if (this.#extended) return this.#placeExtended(slot, start, length, out);
    const size = this.#clusterSize;
    const within = start - slot.key * this.sliceCoverage;
    const index = Math.floor(within / size);
    const inside = within - index * size;
    const at = slot.base + index * 8;
    const high = this.#view.getUint32(at);
    const low = this.#view.getUint32(at + 4);
    const host = (high & EntryHigh.offset) * 2 ** 32 + ((low & EntryLow.offset) >>> 0);
    if ((high & EntryHigh.compressed) !== 0) return this.#placeCompressed(at, start, inside, out);
    const left = size - inside;
    if ((low & EntryLow.zero) !== 0) {
      this.checkZero(at, slot);
      if (host !== 0) this.checkHost(slot, at, host, start - inside);
      out.zero(left >= length ? length : left + this.#same(at, slot, length - left, Kind.zero));
    } else if (host === 0 && !(high >= EntryHigh.copied && this.#image.geometry.externalData)) {
      const same = left >= length ? 0 : this.#same(at, slot, length - left, Kind.unallocated);
      out.unallocated(this.#image.backing, left >= length ? length : left + same);
    } else {
      if (
        (low & (size - 1)) !== 0 || host >= Bounds.maxHostOffset ||
        this.#image.geometry.externalData
      ) {
        this.checkHost(slot, at, host, start - inside);
      }
      const run = left >= length ? length : left + this.#contiguous(at, slot, length - left, host);
      this.#placeData(host + inside, start, run, out);
    }
  }

  #placeData(host: number, guest: number, length: number, out: Placement): void {
    const { data, cipher } = this.#image;
    if (cipher === undefined) return out.inChild(data, host, length);
    const decode = async (iov: IoVec) => {
      await data.read(host, iov, 0);
      await cipher.decrypt(iov, guest, host);
    };
    out.encoded(decode, length);
  }

  #placeCompressed(at: number, start: number, inside: number, out: Placement): void {
    const cluster = this.compressed(at);
    const { codec } = this.#image;
    if (this.#image.geometry.externalData || Number.isNaN(cluster.offset)) {
      this.#image.corrupt(
        `Compressed cluster entry found in image with external data file (guest offset: ${
          hex(start)
        })`,
      );
    }
    out.encoded(
      (iov) => codec.decode(this.#image, cluster, inside, iov),
      this.#clusterSize - inside,
    );
  }

  /** The compressed cluster that the entry at `at` names; offset NaN: beyond what can be. */
  compressed(at: number): { readonly offset: number; readonly length: number } {
    const high = this.#view.getUint32(at);
    const low = this.#view.getUint32(at + 4);
    const { clusterBits } = this.#image.geometry;
    const offset = compressedOffset(high, low, clusterBits);
    return {
      offset: offset < compressedLimit(clusterBits) ? offset : NaN,
      length: compressedLength(high, low, clusterBits),
    };
  }

  /** Bytes, at most `most`, of the clusters behind the entry at `at` that are zero, or unallocated, too. */
  #same(at: number, slot: Slot, most: number, kind: number): number {
    const end = slot.base + this.cache.sliceSize;
    let bytes = 0;
    for (let next = at + 8; next < end && bytes < most; next += 8) {
      const found = this.kind(next, 0);
      if (found !== kind && !(kind === Kind.zero && found === Kind.zeroAllocated)) break;
      bytes += this.#clusterSize;
    }
    return Math.min(bytes, most);
  }

  /** Bytes, at most `most`, of the data clusters behind the entry at `at` that follow `host` directly. */
  #contiguous(at: number, slot: Slot, most: number, host: number): number {
    const end = slot.base + this.cache.sliceSize;
    const size = this.#clusterSize;
    let bytes = 0;
    for (let next = at + 8; next < end && bytes < most; next += 8) {
      const high = this.#view.getUint32(next);
      const low = this.#view.getUint32(next + 4);
      const expected = host + size + bytes;
      if ((high & EntryHigh.compressed) !== 0 || (low & EntryLow.zero) !== 0) break;
      if (entryOffset(high, low) !== expected) break;
      bytes += size;
    }
    return Math.min(bytes, most);
  }

  #placeExtended(slot: Slot, start: number, length: number, out: Placement): void {
    const { subclusterSize } = this.#image.geometry;
    const size = this.#clusterSize;
    const inside = start % size;
    const at = this.entryAt(slot, start);
    const sub = Math.floor(inside / subclusterSize);
    const kind = this.kind(at, sub);
    if (kind === Kind.compressed) return this.#placeCompressed(at, start, inside, out);
    this.checkExtended(slot, at);
    const host = this.host(at);
    if (kind === Kind.data) this.checkHost(slot, at, host, start - inside);
    let end = (sub + this.#alike(at, sub, kind)) * subclusterSize;
    // On to the clusters behind, while they go on in the same way.
    const sliceEnd = slot.base + this.cache.sliceSize;
    let next = at + 16;
    for (let base = size; end === base && end - inside < length && next < sliceEnd; base += size) {
      const found = this.kind(next, 0);
      const zeroes = kind === Kind.zero || kind === Kind.zeroAllocated;
      const same = zeroes ? found === Kind.zero || found === Kind.zeroAllocated : found === kind;
      if (!same || (kind === Kind.data && this.host(next) !== host + base)) break;
      this.checkExtended(slot, next);
      end += this.#alike(next, 0, found) * subclusterSize;
      next += 16;
    }
    const run = Math.min(length, end - inside);
    if (kind === Kind.data) this.#placeData(host + inside, start, run, out);
    else if (kind === Kind.unallocated) out.unallocated(this.#image.backing, run);
    else out.zero(run);
  }

  /** Subclusters from `sub` on that are of its kind. */
  #alike(at: number, sub: number, kind: number): number {
    const zero = this.#view.getUint32(at + 8);
    const allocated = this.#view.getUint32(at + 12);
    const mask = kind === Kind.data
      ? allocated
      : kind === Kind.unallocated
      ? ~(zero | allocated)
      : zero;
    const others = ~(mask >>> sub);
    return Math.min(32 - sub, others === 0 ? 32 : 31 - Math.clz32(others & -others));
  }

  /** Host offset in a standard entry. */
  host(at: number): number {
    return entryOffset(this.#view.getUint32(at), this.#view.getUint32(at + 4));
  }

  // --- broken entries ---

  #where(slot: Slot, at: number): string {
    const { clusterSize, l2EntrySize } = this.#image.geometry;
    const table = slot.host - (slot.host % clusterSize);
    const index = (slot.host - table + (at - slot.base)) / l2EntrySize;
    return `(L2 offset: ${hex(table)}, L2 index: ${hex(index)})`;
  }

  /** Zero flags are known from version 3 on. */
  checkZero(at: number, slot: Slot): void {
    if (this.#image.geometry.version >= 3) return;
    this.#image.corrupt(
      `Zero cluster entry found in pre-v3 image ${this.#where(slot, at)}`,
    );
  }

  /** Both bits of a subcluster, or data without a place. */
  checkExtended(slot: Slot, at: number): void {
    const zero = this.#view.getUint32(at + 8);
    const allocated = this.#view.getUint32(at + 12);
    const placed = this.host(at) !== 0 ||
      (this.#image.geometry.externalData && this.#view.getUint32(at) >= EntryHigh.copied);
    if ((zero & allocated) === 0 && (allocated === 0 || placed)) return;
    if ((this.#view.getUint32(at) & EntryHigh.compressed) !== 0) return;
    this.#image.corrupt(`Invalid cluster entry found ${this.#where(slot, at)}`);
  }

  /** The place of the data cluster at `guest` makes sense. */
  checkHost(slot: Slot, at: number, host: number, guest: number): void {
    if (host % this.#clusterSize !== 0 || host >= Bounds.maxHostOffset) {
      this.#image.corrupt(
        `Cluster allocation offset ${hex(host)} unaligned ${this.#where(slot, at)}`,
      );
    }
    if (this.#image.geometry.externalData && host !== guest) {
      this.#image.corrupt(
        `External data file host cluster offset ${
          hex(host)
        } does not match guest cluster offset: ` +
          `${hex(guest)}, ${this.#where(slot, at)}`,
      );
    }
  }
}

/** As C's %#x. */
export function hex(value: number): string {
  return value === 0 ? "0" : `0x${value.toString(16)}`;
}
