/**
 * Finding room in the image file: clusters whose count is zero (and whose pages nobody may still hold, see sent.ts),
 * first those that were given back, then the lowest that were never looked at. Claiming is synchronous once the blocks are at hand; new refcount blocks and a larger
 * refcount table are made one after the other.
 */
import { assert, BlockError } from "../../../base/mod.ts";
import type { Slot } from "./cache.ts";
import { Bounds } from "./format.ts";
import type { Image } from "./image.ts";
import { writeBytes } from "./metadata.ts";
import { mustWait, whenThere } from "./waiting.ts";

/** So many ranges of free clusters are remembered; beyond that they are searched for. */
const MANY_FREED = 4096;

/** Neighbouring clusters, by number. */
interface Freed {
  first: number;
  count: number;
}

/** The allocator of one image file. */
export class Allocator {
  /** All clusters below are in use, or in `#freed`. */
  #hint = 0;
  /** Clusters that were given back, the longest ago first; each may be in use again by now. */
  #freed: Freed[] = [];
  /** Somebody changes what a claim relies on, and waits meanwhile. */
  #busy: Promise<void> | undefined;
  /** Clusters that the last successful `claim` gave. */
  granted = 0;
  /** No byte from here on was ever written: it reads as zeroes. */
  #untouched: number;
  /** The same, at first. */
  readonly #first: number;
  readonly #image: Image;
  readonly #entries: number;
  readonly #clusterSize: number;

  constructor(image: Image) {
    this.#image = image;
    this.#entries = image.geometry.refcountBlockEntries;
    this.#clusterSize = image.geometry.clusterSize;
    this.#untouched = Math.ceil(image.file.size / this.#clusterSize);
    this.#first = this.#untouched;
  }

  /** Whether anything was allocated behind what there was. */
  get grown(): boolean {
    return this.#untouched > this.#first;
  }

  /** End of what was allocated so far, or of the file, in bytes. */
  get end(): number {
    return this.#untouched * this.#clusterSize;
  }

  /**
   * Takes up to `count` neighbouring clusters (`granted`) and returns their offset, or a promise after which to
   * ask again. `fresh` afterwards says whether they read as zeroes. Throws BlockError EFBIG.
   */
  claim(count: number): number | Promise<void> {
    if (this.#busy !== undefined) return this.#busy;
    const { refcounts, pace } = this.#image;
    const again = this.#claimFreed(count);
    if (again !== undefined) return again;
    for (;;) {
      this.#checkEnd(this.#hint + 1);
      const slot = refcounts.block(this.#hint);
      if (mustWait(slot)) return slot;
      if (slot === undefined) return this.#lock(() => this.#addBlock(this.#hint));
      const start = this.#hint % this.#entries;
      const found = this.#firstFree(slot, this.#hint);
      this.#hint += found - start;
      if (found < this.#entries) return this.#take(slot, this.#hint, count);
      // All counted there are in use: in a large image that is full there are many such blocks, one after the other.
      if (pace.tired) return pace.rest();
    }
  }

  /** As `claim`, from clusters that were given back; undefined: there are none. */
  #claimFreed(count: number): number | Promise<void> | undefined {
    for (;;) {
      const freed = this.#freed[0];
      if (freed === undefined) return undefined;
      const slot = this.#image.refcounts.block(freed.first);
      if (mustWait(slot)) return slot;
      const free = slot !== undefined && this.#isFree(slot, freed.first);
      const host = free ? this.#take(slot, freed.first, Math.min(count, freed.count)) : undefined;
      const taken = free ? this.granted : 1;
      freed.first += taken;
      freed.count -= taken;
      if (freed.count === 0) this.#freed.shift();
      if (host !== undefined) return host;
    }
  }

  /** Whether `cluster`, counted in `slot`, may be taken. */
  #isFree(slot: Slot, cluster: number): boolean {
    const { refcounts, sent, held } = this.#image;
    if (refcounts.read(slot, cluster % this.#entries) !== 0) return false;
    if (!sent.has(cluster)) return true;
    held.add(cluster);
    return false;
  }

  /** Index in `slot` of the first cluster from `cluster` on that is free. */
  #firstFree(slot: Slot, cluster: number): number {
    let index = cluster % this.#entries;
    while (index < this.#entries && !this.#isFree(slot, cluster)) {
      index++;
      cluster++;
    }
    return index;
  }

  /** Takes up to `count` clusters from `cluster` on, which is free and counted in `slot`. */
  #take(slot: Slot, cluster: number, count: number): number {
    const { refcounts } = this.#image;
    const index = cluster % this.#entries;
    const most = Math.min(count, this.#entries - index);
    let taken = 0;
    while (taken < most && this.#isFree(slot, cluster + taken)) taken++;
    this.#image.overlap.checkAllocation(cluster, taken);
    for (let i = 0; i < taken; i++) refcounts.write(slot, index + i, 1);
    if (cluster === this.#hint) this.#hint += taken;
    this.#note(cluster, taken);
    this.granted = taken;
    const { allocate } = this.#image.traces;
    if (allocate.enabled) {
      allocate.emit(`host_offset ${cluster * this.#clusterSize} nb_clusters ${taken}`);
    }
    return cluster * this.#clusterSize;
  }

  /** Whether the clusters of the last claim read as zeroes: nothing was ever written there. */
  fresh = false;
  #note(cluster: number, count: number): void {
    this.fresh = cluster >= this.#untouched;
    if (cluster + count > this.#untouched) this.#untouched = cluster + count;
    this.#image.transition?.took(cluster, count);
  }

  #checkEnd(clusters: number): void {
    if (clusters * this.#clusterSize < Bounds.maxHostOffset) return;
    throw new BlockError("EFBIG", "the image file cannot grow any further", {
      node: this.#image.nodeName,
    });
  }

  /** The count of `cluster` went down to zero. */
  freed(cluster: number): void {
    if (cluster >= this.#hint) return;
    const last = this.#freed.at(-1);
    if (last !== undefined && last.first + last.count === cluster) {
      last.count++;
    } else if (this.#freed.length < MANY_FREED) {
      this.#freed.push({ first: cluster, count: 1 });
    } else {
      for (const { first } of this.#freed) this.#hint = Math.min(this.#hint, first);
      this.#hint = Math.min(this.#hint, cluster);
      this.#freed = [];
    }
  }

  /** Contiguous clusters for `length` bytes, wherever they fit. */
  allocate(length: number): Promise<number> {
    const count = Math.ceil(length / this.#clusterSize);
    assert(count > 0, "an empty allocation");
    if (count === 1) return whenThere(() => this.claim(1), (host) => host);
    return this.#exclusively(() => this.#allocateRun(count));
  }

  async #allocateRun(count: number): Promise<number> {
    const { refcounts, overlap } = this.#image;
    for (;;) {
      const start = await this.#findRun(count);
      const missing = this.#missingBlocks(start, count);
      if (missing.length > 0) {
        await this.#addBlocks(start, missing);
        continue;
      }
      overlap.checkAllocation(start, count);
      for (let i = 0; i < count; i++) {
        await this.#withBlock(start + i, (slot) => refcounts.set(slot, start + i, 1));
      }
      this.#note(start, count);
      return start * this.#clusterSize;
    }
  }

  /** The first of `count` neighbouring clusters that are free; those that no block counts are. */
  async #findRun(count: number): Promise<number> {
    const { refcounts, pace } = this.#image;
    let start = this.#hint;
    for (let end = start; end < start + count;) {
      this.#checkEnd(start + count);
      const slot = refcounts.block(end);
      if (mustWait(slot)) {
        await slot;
        continue;
      }
      const blockEnd = (Math.floor(end / this.#entries) + 1) * this.#entries;
      const last = Math.min(start + count, blockEnd);
      if (slot === undefined) end = last;
      else for (; end < last; end++) if (!this.#isFree(slot, end)) start = end + 1;
      if (pace.tired) await pace.rest();
    }
    return start;
  }

  /** Indices of the blocks that are to count these clusters and do not exist. */
  #missingBlocks(start: number, count: number): number[] {
    const missing: number[] = [];
    const last = Math.floor((start + count - 1) / this.#entries);
    for (let index = Math.floor(start / this.#entries); index <= last; index++) {
      if (this.#image.refcounts.target(index) === 0) missing.push(index);
    }
    return missing;
  }

  /**
   * Makes blocks for a run from `start` on, side by side in its first clusters; as many of them as one block can
   * count. Nothing on disk leads to the others before that one is there: whatever a cut leaves, each is counted.
   */
  async #addBlocks(start: number, missing: readonly number[]): Promise<void> {
    const { refcounts, commits, transition } = this.#image;
    const needed = missing.at(-1)! + 1;
    if (needed > refcounts.table.length) {
      if (transition === undefined) return await this.#growTable(needed + missing.length);
      transition.widen(needed);
    }
    const own = Math.floor(start / this.#entries);
    const end = Math.min(start + missing.length, (own + 1) * this.#entries);
    let next = start;
    if (missing[0] === own) await this.#putBlock(own, next++);
    if (next === end) return;
    const count = (value: number) =>
      this.#withBlock(start, (slot) => {
        for (let i = next; i < end; i++) refcounts.set(slot, i, value);
      });
    await count(1);
    this.#note(next, end - next);
    try {
      await commits.commit(true);
      for (; next < end; next++) await this.#putBlock(missing[next - start]!, next, false);
    } finally {
      if (next < end) await count(0);
    }
  }

  /** Acts on the block with the count of `cluster`, made if there is none. The caller holds the lock. */
  async #withBlock<R>(cluster: number, act: (slot: Slot) => R): Promise<R> {
    const { refcounts } = this.#image;
    for (;;) {
      const slot = refcounts.block(cluster);
      if (mustWait(slot)) await slot;
      else if (slot !== undefined) return act(slot);
      else await this.#addBlock(cluster);
    }
  }

  /** Makes the block for `cluster`, in the cluster itself. */
  async #addBlock(cluster: number): Promise<void> {
    const { refcounts } = this.#image;
    const index = Math.floor(cluster / this.#entries);
    if (refcounts.target(index) !== 0) return;
    if (index >= refcounts.table.length) {
      const { transition } = this.#image;
      if (transition === undefined) return await this.#growTable(index + 1);
      transition.widen(index + 1);
    }
    await this.#putBlock(index, cluster);
  }

  /** Makes block `index` in a free cluster: one that it counts itself, or (`own`: false) that is counted already. */
  async #putBlock(index: number, cluster: number, own = true): Promise<void> {
    const { refcounts, overlap, file } = this.#image;
    this.#checkEnd(cluster + 1);
    overlap.checkAllocation(cluster, 1);
    const host = cluster * this.#clusterSize;
    // Takes room on the disk: its counts can be written later though the disk is full.
    await file.writeZeroes(host, this.#clusterSize, 0);
    for (;;) {
      const slot = refcounts.cache.create(index, host);
      if (mustWait(slot)) {
        await slot;
        continue;
      }
      if (own) refcounts.set(slot, cluster, 1);
      break;
    }
    refcounts.addBlock(index, host);
    if (own) this.#note(cluster, 1);
    overlap.add(host, this.#clusterSize, "refcount block");
  }

  /**
   * A larger refcount table, behind all that the present one covers, with the blocks that count it and themselves:
   * written at once and in order, since the header leads there.
   */
  async #growTable(atLeast: number): Promise<void> {
    const { refcounts, overlap, context, file, geometry } = this.#image;
    const { clusterSize } = geometry;
    const old = { offset: refcounts.tableOffset, length: refcounts.table.length };
    const start = old.length * this.#entries;
    let length = Math.max(atLeast, Math.ceil(old.length * 1.5));
    let tableClusters = 0;
    let blocks = 0;
    for (;;) {
      tableClusters = Math.ceil((length * 8) / clusterSize);
      length = (tableClusters * clusterSize) / 8;
      blocks = Math.ceil(tableClusters / this.#entries);
      while (blocks * this.#entries < tableClusters + blocks) blocks++;
      if (old.length + blocks <= length) break;
      length = old.length + blocks;
    }
    if (length * 8 > Bounds.maxRefcountTableBytes) this.#checkEnd(Infinity);
    this.#checkEnd(start + tableClusters + blocks);
    overlap.checkAllocation(start, tableClusters + blocks);
    // Blocks that the present table leads to only in memory must be there before the new one leads to them.
    await this.#image.commit();
    const table = refcounts.table.resized(length);
    const offset = start * clusterSize;
    const first = offset + tableClusters * clusterSize;
    const counts = countsOf(blocks * clusterSize, geometry.refcountBits, tableClusters + blocks);
    await writeBytes(context, file, first, counts);
    for (let i = 0; i < blocks; i++) {
      table.setEntry(old.length + i, BigInt(first + i * clusterSize));
    }
    await file.flush();
    await writeBytes(context, file, offset, table.bytes());
    await file.flush();
    await this.#image.updateHeader({
      refcountTableOffset: offset,
      refcountTableClusters: tableClusters,
    });
    refcounts.replaceTable(table, offset);
    this.#note(start, tableClusters + blocks);
    overlap.retire(old.offset, old.length * 8, "refcount table");
    overlap.add(offset, length * 8, "refcount table");
    overlap.add(first, blocks * clusterSize, "refcount block");
    this.#image.release(old.offset, old.length * 8, "other");
  }

  // --- one at a time ---

  /** Runs `task` alone; `#busy` is for those that try again when it is done, whatever became of it. */
  #lock(task: () => Promise<void>): Promise<void> {
    assert(this.#busy === undefined, "two at a time");
    const done = task().finally(() => void (this.#busy = undefined));
    this.#busy = done.catch(() => {});
    return done;
  }

  async #exclusively<T>(task: () => Promise<T>): Promise<T> {
    while (this.#busy !== undefined) await this.#busy;
    let result: T | undefined;
    await this.#lock(async () => {
      result = await task();
    });
    return result!;
  }
}

/** Bytes of refcount blocks whose first `ones` counts are 1. */
function countsOf(length: number, bits: number, ones: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < ones; i++) {
    if (bits >= 8) bytes[(i + 1) * (bits / 8) - 1] = 1;
    else bytes[Math.floor((i * bits) / 8)]! |= 1 << ((i * bits) % 8);
  }
  return bytes;
}
