/**
 * Changes of reference counts, copied flags and tables that show all at once: what is on disk stays as it is, and is
 * in order, until one write of the header leads to new tables. For snapshots, which change counts and flags of
 * everything that a table leads to: each count must fit its flag, and no order of writes in place would keep it so.
 *
 * While a transition is under way
 *
 * - counts change in new places of their blocks; in place they only go up, for clusters that nothing leads to yet;
 * - flags change in new places of their L2 tables;
 * - the L1 table and the refcount table change in memory; a commit writes neither (`held`);
 * - nothing that was in use is given back: no new structure may come to lie where the old state has one.
 *
 * The header's fields that lead to the new state lie in its first 72 bytes, in one sector. A cut before leaks the new
 * structures, one afterwards the old ones.
 */
import { assert, BlockError, type MaybePromise } from "../../../base/mod.ts";
import { Bounds, EntryHigh, highWord } from "./format.ts";
import { ClusterSet } from "./cluster_set.ts";
import type { Range } from "./discard.ts";
import type { Header } from "./header.ts";
import type { Image } from "./image.ts";
import { hex } from "./map.ts";
import type { WordTable } from "./metadata.ts";
import { eachReference } from "./references.ts";
import type { MetadataKind, StateChange } from "./types.ts";
import { mustWait } from "./waiting.ts";

/** So many clusters are counted between two looks at the clock. */
const STRIDE = 1024;

/** Carries `task` out as one transition; its result changes the header as well. The caller runs alone. */
export async function transit(
  image: Image,
  task: (change: StateChange) => Promise<Partial<Header>>,
): Promise<void> {
  await image.commits.all();
  const transition = new Transition(image);
  image.transition = transition;
  try {
    await transition.finish(await task(transition));
  } catch (error) {
    await transition.undo();
    throw error;
  }
  await transition.clear();
}

/** One of them. */
export class Transition implements StateChange {
  readonly #image: Image;
  /** The tables as they are on disk. */
  readonly #l1: WordTable;
  readonly #counts: WordTable;
  /** Releases that were due before. */
  readonly #due: readonly Range[];
  /** Blocks and L2 tables, by index, that nothing on disk leads to. */
  readonly #blocks = new Set<number>();
  readonly #tables = new Set<number>();
  /** Where the blocks were. */
  readonly #left: number[] = [];
  /** Clusters that were taken meanwhile, as [first, count], and clusters whose last reference went. */
  readonly #taken: (readonly [number, number])[] = [];
  readonly #dropped = new ClusterSet();
  /** Clusters that had no reference to lose. */
  #uncounted = 0;

  constructor(image: Image) {
    this.#image = image;
    const { l1, refcounts, releases } = image;
    this.#l1 = l1.table.resized(l1.length);
    this.#counts = refcounts.table.resized(refcounts.table.length);
    this.#due = releases.take();
  }

  /** Clusters were allocated. */
  took(first: number, count: number): void {
    this.#taken.push([first, count]);
  }

  // --- counts ---

  add(l1: WordTable): Promise<void> {
    const one = (cluster: number) => this.#addOne(cluster);
    return eachReference(this.#image, l1, (offset, length) => this.#each(offset, length, one));
  }
  drop(l1: WordTable): Promise<void> {
    const one = (cluster: number) => this.#dropOne(cluster);
    return eachReference(this.#image, l1, (offset, length) => this.#each(offset, length, one));
  }
  dropRange(offset: number, length: number): MaybePromise<void> {
    return this.#each(offset, length, (cluster) => this.#dropOne(cluster));
  }

  /** `act` for each cluster that the range touches; it says what to wait for before it is asked again. */
  #each(
    offset: number,
    length: number,
    act: (cluster: number) => Promise<void> | undefined,
  ): MaybePromise<void> {
    const { clusterSize } = this.#image.geometry;
    const end = Math.ceil((offset + length) / clusterSize);
    return this.#from(Math.floor(offset / clusterSize), end, act);
  }
  #from(
    first: number,
    end: number,
    act: (cluster: number) => Promise<void> | undefined,
  ): MaybePromise<void> {
    const { pace } = this.#image;
    for (let cluster = first; cluster < end; cluster++) {
      const rest = cluster % STRIDE === STRIDE - 1 && cluster > first && pace.tired;
      const wait = rest ? pace.rest() : act(cluster);
      if (wait !== undefined) return wait.then(() => this.#from(cluster, end, act));
    }
    return undefined;
  }

  #addOne(cluster: number): Promise<void> | undefined {
    const { refcounts, geometry, nodeName } = this.#image;
    const { clusterSize, refcountBlockEntries, refcountMax } = geometry;
    const slot = refcounts.block(cluster);
    if (mustWait(slot)) return slot;
    const count = slot === undefined ? 0 : refcounts.read(slot, cluster % refcountBlockEntries);
    if (slot === undefined || count === 0) {
      const at = hex(cluster * clusterSize);
      this.#image.corrupt(`Cluster at offset ${at} is in use and has no reference`);
    }
    if (count >= refcountMax) {
      const offset = cluster * clusterSize;
      throw new BlockError("EINVAL", "Invalid argument", { node: nodeName, offset });
    }
    const index = Math.floor(cluster / refcountBlockEntries);
    if (!this.#blocks.has(index)) return this.#moveBlock(index);
    refcounts.set(slot, cluster, count + 1);
    return undefined;
  }

  #dropOne(cluster: number): Promise<void> | undefined {
    const { refcounts, geometry: { refcountBlockEntries } } = this.#image;
    const slot = refcounts.block(cluster);
    if (mustWait(slot)) return slot;
    const count = slot === undefined ? 0 : refcounts.read(slot, cluster % refcountBlockEntries);
    if (slot === undefined || count <= 1) {
      // The state on disk still needs it.
      if (count === 1) this.#dropped.add(cluster);
      else this.#uncounted++;
      return undefined;
    }
    const index = Math.floor(cluster / refcountBlockEntries);
    if (!this.#blocks.has(index)) return this.#moveBlock(index);
    refcounts.set(slot, cluster, count - 1);
    return undefined;
  }

  /** Block `index` gets a new place. */
  async #moveBlock(index: number): Promise<void> {
    const { refcounts, overlap, geometry, commits } = this.#image;
    const { clusterSize, refcountBlockEntries } = geometry;
    // What is being written of it goes to its old place, from a copy.
    this.#blocks.add(index);
    const old = refcounts.target(index);
    if (index >= this.#counts.length || this.#counts.isZero(index)) return; // new by itself
    const host = await this.#claim();
    await refcounts.fetch(index * refcountBlockEntries, (slot) => {
      assert(slot !== undefined, "a block is gone");
      refcounts.cache.move(index, host);
      refcounts.cache.dirty(slot, 0, clusterSize);
      refcounts.addBlock(index, host);
    });
    overlap.add(host, clusterSize, "refcount block");
    this.#left.push(old);
    // Many of them would fill the cache.
    if (refcounts.cache.unstable * 2 > refcounts.cache.capacity) await commits.commit(true);
  }

  async #claim(): Promise<number> {
    const { allocator } = this.#image;
    for (;;) {
      const host = allocator.claim(1);
      if (!mustWait(host)) return host;
      await host;
    }
  }

  // --- the active tables ---

  async ownTables(): Promise<void> {
    const { l1, pace } = this.#image;
    for (let index = 0; index < l1.length; index++) {
      if (l1.copied(index) && l1.target(index) !== 0) await this.#moveTable(index);
      if (pace.tired) await pace.rest();
    }
  }

  async #moveTable(index: number): Promise<void> {
    this.#tables.add(index);
    await this.#image.tables.make(index);
  }

  setL1(entries: WordTable): Promise<void> {
    this.#image.map.cache.drop();
    return this.#replaceTables(entries);
  }

  /** `table` is the active L1 table, at once; overlap checks learn of its tables. */
  async #replaceTables(table: WordTable): Promise<void> {
    const { l1, overlap, pace, geometry: { clusterSize } } = this.#image;
    const before = l1.table;
    l1.replace(table, l1.offset);
    for (const [change, tables] of [["retire", before], ["add", table]] as const) {
      for (let i = 0; i < tables.length; i++) {
        const target = tables.target(i);
        if (target !== 0) overlap[change](target, clusterSize, "active L2 table");
        if (i % STRIDE === STRIDE - 1 && pace.tired) await pace.rest();
      }
    }
  }

  async mark(): Promise<void> {
    const { l1, refcounts, pace, geometry: { clusterSize } } = this.#image;
    for (let index = 0; index < l1.length; index++) {
      if (pace.tired) await pace.rest();
      const table = l1.target(index);
      if (table === 0) continue;
      if (table % clusterSize !== 0 || table >= Bounds.maxHostOffset) {
        this.#image.corrupt(`L2 table offset ${hex(table)} unaligned (L1 index: ${hex(index)})`);
      }
      await this.#markTable(index);
      const now = l1.target(index);
      const own = await refcounts.get(now / clusterSize) === 1;
      if (l1.copied(index) !== own) l1.set(index, now, own);
    }
  }

  async #markTable(index: number): Promise<void> {
    const { pace, geometry: { l2Coverage } } = this.#image;
    const cursor = { guest: index * l2Coverage };
    while (cursor.guest < (index + 1) * l2Coverage) {
      const wait = this.#markSlice(index, cursor);
      if (wait !== undefined) await wait;
      if (pace.tired) await pace.rest();
    }
  }

  /** Marks the entries from the cursor on to the end of their slice; or says what to wait for. */
  #markSlice(index: number, cursor: { guest: number }): Promise<void> | undefined {
    const { map, refcounts, geometry: { clusterSize } } = this.#image;
    const { view } = map.cache;
    const slot = map.slice(cursor.guest);
    if (mustWait(slot)) return slot;
    assert(slot !== undefined, "the table of an L1 entry is gone");
    const end = map.sliceEnd(slot);
    for (; cursor.guest < end; cursor.guest += clusterSize) {
      const at = map.entryAt(slot, cursor.guest);
      const high = view.getUint32(at);
      const host = (high & EntryHigh.compressed) !== 0 ? 0 : map.host(at);
      if (host === 0) continue;
      const count = refcounts.peek(Math.floor(host / clusterSize));
      if (mustWait(count)) return count;
      const own = count === 1;
      if (own === high >= EntryHigh.copied) continue;
      if (!this.#tables.has(index)) return this.#moveTable(index);
      view.setUint32(at, (highWord(host) | (own ? EntryHigh.copied : 0)) >>> 0);
      map.changed(slot, at);
    }
    return undefined;
  }

  // --- from one state to the other ---

  /** Writes everything new, and leads to it. */
  async finish(change: Partial<Header>): Promise<void> {
    const image = this.#image;
    const { l1, refcounts, commits, overlap, geometry: { clusterSize } } = image;
    const old = {
      l1: { offset: l1.offset, length: this.#l1.length * 8 },
      table: { offset: refcounts.tableOffset, length: this.#counts.length * 8 },
    };
    const l1Bytes = l1.length * 8;
    const l1Offset = l1Bytes === 0 ? 0 : await image.allocate(l1Bytes);
    const tableOffset = await this.#placeTable();
    const tableBytes = refcounts.table.length * 8;
    await commits.commit(true);
    await image.writeTable(l1Offset, l1.table, "active L1 table");
    await image.writeTable(tableOffset, refcounts.table, "refcount table");
    await this.#lead({
      ...change,
      l1Offset,
      l1Size: l1.length,
      refcountTableOffset: tableOffset,
      refcountTableClusters: tableBytes / clusterSize,
    });
    l1.replace(l1.table, l1Offset);
    refcounts.replaceTable(refcounts.table, tableOffset);
    overlap.add(l1Offset, l1Bytes, "active L1 table");
    overlap.add(tableOffset, tableBytes, "refcount table");
    image.transition = undefined;
    image.releases.back(this.#due);
    const leave = (offset: number, length: number, kind: MetadataKind) => {
      overlap.retire(offset, length, kind);
      if (length > 0) image.release(offset, length, "other");
    };
    leave(old.l1.offset, old.l1.length, "active L1 table");
    leave(old.table.offset, old.table.length, "refcount table");
    for (const offset of this.#left) leave(offset, clusterSize, "refcount block");
  }

  /** The header leads to the new state. */
  async #lead(change: Partial<Header>): Promise<void> {
    try {
      await this.#image.updateHeader(change);
    } catch (error) {
      // Where it may be there all the same nothing of the new is given back.
      if (this.#image.headerDoubtful) this.#taken.length = 0;
      throw error;
    }
  }

  /** Room for the refcount table, which may become longer for it. */
  async #placeTable(): Promise<number> {
    const image = this.#image;
    for (;;) {
      const { length } = image.refcounts.table;
      const offset = await image.allocate(length * 8);
      if (image.refcounts.table.length === length) return offset;
      image.release(offset, length * 8, "other");
    }
  }

  /** The refcount table reaches up to `entries` from now on. */
  widen(entries: number): void {
    const { refcounts, geometry: { clusterSize } } = this.#image;
    const perCluster = clusterSize / 8;
    const length = Math.ceil(Math.max(entries, refcounts.table.length * 1.5) / perCluster);
    if (length * clusterSize > Bounds.maxRefcountTableBytes) {
      throw new BlockError("EFBIG", "the image file cannot grow any further", {
        node: this.#image.nodeName,
      });
    }
    refcounts.table = refcounts.table.resized(length * perCluster);
  }

  /** Gives back what has lost its last reference; what cannot be is a leak. */
  async clear(): Promise<void> {
    const { releases, geometry: { clusterSize } } = this.#image;
    for (const { first, count } of this.#dropped.take()) {
      try {
        await releases.now(first * clusterSize, count * clusterSize, "snapshot");
      } catch (error) {
        this.#warn(error);
      }
    }
    if (this.#uncounted > 0) this.#warn(`${this.#uncounted} were free already`);
    try {
      await this.#image.commit();
    } catch (error) {
      // The header leads to the new state, and the caller must know that it does; what failed is dirty still.
      this.#warn(error);
    }
  }

  /** Something failed: back to what is on disk. What cannot be given back of the new is a leak. */
  async undo(): Promise<void> {
    const image = this.#image;
    const { refcounts, map, releases, commits } = image;
    if (image.transition !== this) return;
    await commits.ended();
    map.cache.reset();
    refcounts.cache.reset();
    const replaced = this.#replaceTables(this.#l1);
    refcounts.replaceTable(this.#counts, refcounts.tableOffset);
    await replaced;
    releases.take();
    releases.back(this.#due);
    image.transition = undefined;
    try {
      for (const [first, count] of this.#taken) await this.#giveBack(first, count);
    } catch (error) {
      this.#warn(error);
    }
  }

  async #giveBack(first: number, count: number): Promise<void> {
    const { refcounts, releases, allocator, overlap, pace, geometry } = this.#image;
    const { clusterSize } = geometry;
    for (let cluster = first; cluster < first + count; cluster++) {
      if (pace.tired) await pace.rest();
      overlap.remove(cluster * clusterSize, clusterSize);
      if (await refcounts.get(cluster) === 0) allocator.freed(cluster);
      else await releases.now(cluster * clusterSize, clusterSize, "never");
    }
  }

  #warn(error: unknown): void {
    const { context: { log }, nodeName } = this.#image;
    log.warn(`node '${nodeName}': clusters could not be freed: ${String(error)}`);
  }
}
