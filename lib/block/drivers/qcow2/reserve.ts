/**
 * Plans for writes of data. Clusters that are this image's own are overwritten in place, planned at once; others
 * get new clusters, as many together as there are neighbours, with copies of what surrounds the data only where
 * it is not known to read as zeroes. Entries change when the data is there (`Run`), so a failed write changes
 * nothing.
 *
 * An attempt either plans, without waiting, or says what to wait for: between looking and planning nothing else
 * runs.
 */
import { alignDown, alignUp, type MaybePromise } from "../../../base/mod.ts";
import type { WritePlan } from "../../mod.ts";
import type { Slot } from "./cache.ts";
import { EntryPlanner } from "./entry_planner.ts";
import { EntryHigh, EntryLow, highWord, lowWord, subclusterMask } from "./format.ts";
import type { Image } from "./image.ts";
import type { Busy } from "./inflight.ts";
import { hex } from "./map.ts";
import { mustWait } from "./waiting.ts";

/** Neighbouring guest clusters that a plan gives places, neighbours too. */
interface Run {
  readonly cluster: number;
  readonly count: number;
  readonly host: number;
  /** The clusters were claimed for this run. */
  readonly claimed: boolean;
  /** Guest range that has data afterwards; the rest of the clusters keeps its state (subclusters only). */
  readonly from: number;
  readonly to: number;
  readonly busy: Busy;
}

/** Plans data. */
export class DataPlanner extends EntryPlanner {
  readonly #external: boolean;
  readonly #encrypted: boolean;

  constructor(image: Image) {
    super(image);
    this.#external = image.geometry.externalData;
    this.#encrypted = image.cipher !== undefined;
  }

  /** Plans the front part of the range; or says what to wait for. */
  attempt(start: number, length: number, plan: WritePlan): Promise<void> | undefined {
    const { map, tables, inFlight, geometry } = this.image;
    const table = Math.floor(start / geometry.l2Coverage);
    if (!tables.writable(table)) return tables.make(table);
    const slot = map.slice(start);
    if (mustWait(slot)) return slot;
    if (slot === undefined) return tables.make(table);
    const cluster = Math.floor(start / this.clusterSize);
    if (inFlight.active > 0) {
      const busy = inFlight.wait(cluster);
      if (busy !== undefined) return busy;
    }
    const at = map.entryAt(slot, start);
    const inside = start - cluster * this.clusterSize;
    if (!this.#isOwn(at)) return this.#planNew(slot, at, start, inside, length, plan);
    const host = map.host(at);
    if (host % this.clusterSize !== 0) {
      const guest = hex(start);
      this.image.corrupt(`Data cluster offset ${hex(host)} unaligned (guest offset: ${guest})`);
    }
    map.checkHost(slot, at, host, start - inside);
    return this.#planOwn(slot, at, host, start, inside, length, plan);
  }

  /** Whether the entry's cluster is this image's alone, and not compressed. An offset of 0 leads nowhere. */
  #isOwn(at: number): boolean {
    const high = this.view.getUint32(at);
    if (high < EntryHigh.copied || (high & EntryHigh.compressed) !== 0) return false;
    return this.#external || this.image.map.host(at) !== 0;
  }

  /** The cluster is this image's own. */
  #planOwn(
    slot: Slot,
    at: number,
    host: number,
    start: number,
    inside: number,
    length: number,
    plan: WritePlan,
  ): Promise<void> | undefined {
    const size = this.clusterSize;
    const { overlap, data, map } = this.image;
    const first = Math.min(length, size - inside);
    if (this.extended) map.checkExtended(slot, at);
    if (!this.#isData(at, inside, first)) {
      return this.#planInPlace(at, host, start, inside, first, plan);
    }
    let run = first;
    const end = slot.base + map.cache.sliceSize;
    const most = this.#clearTo(start, inside, length);
    for (let next = at + this.entrySize; run < most && next < end; next += this.entrySize) {
      if (!this.#follows(next, host + inside + run)) break;
      const more = Math.min(most - run, size);
      if (!this.#isData(next, 0, more)) break;
      run += more;
    }
    if (!this.#external) overlap.check(host + inside, run, "data");
    plan.inChild(data, host + inside, run);
    return undefined;
  }

  /** How much of the range comes before a cluster that is busy: at least the first cluster. */
  #clearTo(start: number, inside: number, length: number): number {
    const { inFlight } = this.image;
    if (inFlight.active === 0) return length;
    const count = Math.ceil((inside + length) / this.clusterSize);
    const clear = inFlight.clear(Math.floor(start / this.clusterSize), count);
    return Math.min(length, clear * this.clusterSize - inside);
  }

  /** Whether the entry is this image's own and lies at `host`. */
  #follows(at: number, host: number): boolean {
    return this.#isOwn(at) && this.image.map.host(at) === host;
  }

  /** Whether [inside, inside + length) of the cluster is data already: no entry changes by a write. */
  #isData(at: number, inside: number, length: number): boolean {
    if (!this.extended) return (this.view.getUint32(at + 4) & EntryLow.zero) === 0;
    const mask = subclusterMask(this.subSize, inside, inside + length);
    return (this.view.getUint32(at + 12) & mask) >>> 0 === mask;
  }

  /** The cluster has its place, but (a part of) it is not data yet: preallocated, zeroed, or subclusters. */
  #planInPlace(
    at: number,
    host: number,
    start: number,
    inside: number,
    length: number,
    plan: WritePlan,
  ): Promise<void> | undefined {
    const { data, overlap } = this.image;
    const dirty = this.image.markDirty();
    if (dirty !== undefined) return dirty;
    if (!this.#external) overlap.check(host, this.clusterSize, "data");
    const guest = start - inside;
    const end = inside + length;
    // Subclusters at the ends that are data stay as they are; others are filled.
    const from = this.#isData(at, inside, 1) ? inside : alignDown(inside, this.subSize);
    const to = this.#isData(at, end - 1, 1) ? end : alignUp(end, this.subSize);
    if (inside > from) plan.copy(guest + from, data, host + from, inside - from);
    plan.inChild(data, host + inside, length);
    if (to > end) plan.copy(guest + end, data, host + end, to - end);
    const cluster = guest / this.clusterSize;
    this.#follow(plan, {
      cluster,
      count: 1,
      host,
      claimed: false,
      from: guest + from,
      to: guest + to,
      busy: this.image.inFlight.begin(cluster, 1),
    });
    return undefined;
  }

  /** The cluster needs a new place, and its neighbours with it. */
  #planNew(
    slot: Slot,
    at: number,
    start: number,
    inside: number,
    length: number,
    plan: WritePlan,
  ): Promise<void> | undefined {
    const { data, map, releases } = this.image;
    const size = this.clusterSize;
    if (this.extended) map.checkExtended(slot, at);
    const dirty = this.image.markDirty();
    if (dirty !== undefined) return dirty;
    const wanted = this.#countNew(slot, at, start, inside, length);
    for (let i = 0; i < wanted; i++) releases.checkEntry(at + i * this.entrySize);
    const guest = start - inside;
    const host = this.#claim(guest, wanted);
    if (mustWait(host)) return host;
    const { granted: count, fresh } = this.#granted;
    const take = Math.min(length, count * size - inside);
    const lastAt = at + (count - 1) * this.entrySize;
    const from = this.#hasContents(at) ? guest : alignDown(start, this.subSize);
    const end = start + take;
    const to = this.#hasContents(lastAt) ? guest + count * size : alignUp(end, this.subSize);
    if (start > from && !(fresh && this.#isZeroBeside(at, start - 1))) {
      plan.copy(from, data, host + (from - guest), start - from);
    }
    plan.inChild(data, host + inside, take);
    if (to > end && !(fresh && this.#isZeroBeside(lastAt, end))) {
      plan.copy(end, data, host + (end - guest), to - end);
    }
    const cluster = guest / size;
    this.#follow(plan, {
      cluster,
      count,
      host,
      claimed: true,
      from,
      to,
      busy: this.image.inFlight.begin(cluster, count),
    });
    return undefined;
  }

  /** Neighbouring clusters of the range that need new places. */
  #countNew(slot: Slot, at: number, start: number, inside: number, length: number): number {
    const most = Math.ceil(this.#clearTo(start, inside, length) + inside) / this.clusterSize;
    const left = (slot.base + this.image.map.cache.sliceSize - at) / this.entrySize;
    const count = Math.min(Math.ceil(most), left);
    for (let i = 1; i < count; i++) {
      if (this.#isOwn(at + i * this.entrySize)) return i;
    }
    return count;
  }

  /** Outcome of the last claim. */
  readonly #granted = { granted: 0, fresh: false };

  /** Clusters for `count` guest clusters from `guest` on: in the image file, or where they must be. */
  #claim(guest: number, count: number): number | Promise<void> {
    const { allocator } = this.image;
    if (this.#external) {
      this.#granted.granted = count;
      this.#granted.fresh = !this.#encrypted && this.image.dataEnd <= guest;
      this.image.noteData(guest + count * this.clusterSize);
      return guest;
    }
    const host = allocator.claim(count);
    this.#granted.granted = allocator.granted;
    // What was never written is no zeroes once it is decrypted.
    this.#granted.fresh = !this.#encrypted && allocator.fresh;
    return host;
  }

  /** Whether the cluster has contents of its own that a new one must take over as a whole. */
  #hasContents(at: number): boolean {
    const high = this.view.getUint32(at);
    if ((high & EntryHigh.compressed) !== 0) return true;
    return this.extended ? this.view.getUint32(at + 12) !== 0 : true;
  }

  /** Whether what lies beside the data reads as zeroes. */
  #isZeroBeside(at: number, guest: number): boolean {
    return !(this.extended && this.#hasContents(at)) && this.readsZero(at, guest);
  }

  // --- when the data is there, or not ---

  #follow(plan: WritePlan, run: Run): void {
    plan.onCommit(() => this.#commit(run));
    plan.onAbandon(() => this.#abandon(run));
  }

  #commit(run: Run): MaybePromise<void> {
    let slot: Slot | undefined | Promise<void>;
    try {
      slot = this.image.map.slice(run.cluster * this.clusterSize);
    } catch (error) {
      this.#abandon(run);
      throw error;
    }
    if (mustWait(slot)) {
      return slot.then(() => this.#commit(run), (error) => {
        this.#abandon(run);
        throw error;
      });
    }
    let at = this.image.map.entryAt(slot!, run.cluster * this.clusterSize);
    for (let i = 0; i < run.count; i++, at += this.entrySize) {
      this.#setEntry(run, i, at);
      this.image.map.changed(slot!, at);
    }
    this.image.inFlight.end(run.busy);
    this.image.commits.written();
  }

  #setEntry(run: Run, i: number, at: number): void {
    const size = this.clusterSize;
    const view = this.view;
    const compressed = (view.getUint32(at) & EntryHigh.compressed) !== 0;
    if (run.claimed) this.image.releases.addEntry(at, "other");
    const host = run.host + i * size;
    if (this.extended) {
      const guest = (run.cluster + i) * size;
      const from = Math.max(run.from - guest, 0);
      const mask = subclusterMask(this.subSize, from, Math.min(run.to - guest, size));
      const zero = compressed ? 0 : view.getUint32(at + 8);
      const allocated = run.claimed ? 0 : view.getUint32(at + 12);
      view.setUint32(at + 8, (zero & ~mask) >>> 0);
      view.setUint32(at + 12, (allocated | mask) >>> 0);
    }
    view.setUint32(at, (highWord(host) | EntryHigh.copied) >>> 0);
    view.setUint32(at + 4, lowWord(host));
  }

  #abandon(run: Run): void {
    const { releases, inFlight } = this.image;
    if (run.claimed && !this.#external) releases.undo(run.host, run.count * this.clusterSize);
    inFlight.end(run.busy);
  }
}
