/**
 * Reference counts of host clusters: the refcount table in memory, its blocks in a cache. Who changes counts and
 * why is not known here. Source: the QCOW2 specification, "Host cluster management".
 */
import { assert } from "../../../base/mod.ts";
import { type Slot, TableCache } from "./cache.ts";
import { Bounds, highWord, lowWord } from "./format.ts";
import type { Image } from "./image.ts";
import { hex } from "./map.ts";
import { WordTable } from "./metadata.ts";
import { mustWait, whenThere } from "./waiting.ts";

/** The counts of one image file. */
export class Refcounts {
  /** Keys are indices of the refcount table. */
  readonly cache: TableCache;
  readonly #image: Image;
  readonly #bits: number;
  readonly #entries: number;
  readonly #view: DataView;
  readonly #dirty = new Set<number>();

  constructor(
    image: Image,
    public table: WordTable,
    /** Where the table lies in the image file. */
    public tableOffset: number,
    capacity: number,
    relieve: () => Promise<void>,
  ) {
    const { geometry } = image;
    this.#image = image;
    this.#bits = geometry.refcountBits;
    this.#entries = geometry.refcountBlockEntries;
    this.cache = new TableCache({
      context: image.context,
      file: image.file,
      sliceSize: geometry.clusterSize,
      capacity,
      relieve,
    });
    this.#view = this.cache.view;
  }

  /** Where block `index` lies; 0: there is none, all its counts are 0. */
  target(index: number): number {
    if (index >= this.table.length) return 0;
    const host = this.table.target(index);
    if (host % this.#image.geometry.clusterSize !== 0 || host >= Bounds.maxHostOffset) {
      this.#image.corrupt(`Refblock offset ${hex(host)} unaligned (reftable index: ${hex(index)})`);
    }
    return host;
  }

  /** The block with the count of `cluster`; undefined: none; or a promise after which to ask again. */
  block(cluster: number): Slot | undefined | Promise<void> {
    const index = Math.floor(cluster / this.#entries);
    const slot = this.cache.peek(index);
    if (slot !== undefined) return slot;
    const host = this.target(index);
    return host === 0 ? undefined : this.cache.get(index, host);
  }

  /** As `block`, waiting; `act` is called with the block in the turn in which it is there. */
  fetch<R>(cluster: number, act: (slot: Slot | undefined) => R): Promise<R> {
    return whenThere(() => this.block(cluster), act);
  }

  /** Count number `index` of a block; those too large to be exact are the largest number. */
  read(slot: Slot, index: number): number {
    const { base } = slot;
    switch (this.#bits) {
      case 16:
        return this.#view.getUint16(base + index * 2);
      case 8:
        return this.#view.getUint8(base + index);
      case 32:
        return this.#view.getUint32(base + index * 4);
      case 64: {
        const high = this.#view.getUint32(base + index * 8);
        const low = this.#view.getUint32(base + index * 8 + 4);
        return high < 2 ** 21 ? high * 2 ** 32 + low : Number.MAX_SAFE_INTEGER;
      }
      default: {
        const bit = index * this.#bits;
        const byte = this.#view.getUint8(base + Math.floor(bit / 8));
        return (byte >> (bit % 8)) & ((1 << this.#bits) - 1);
      }
    }
  }

  /** Sets count number `index` of a block. */
  write(slot: Slot, index: number, count: number): void {
    assert(count >= 0 && count <= this.#image.geometry.refcountMax, "a count out of range");
    const bit = index * this.#bits;
    const byte = Math.floor(bit / 8);
    const at = slot.base + byte;
    switch (this.#bits) {
      case 16:
        this.#view.setUint16(at, count);
        break;
      case 8:
        this.#view.setUint8(at, count);
        break;
      case 32:
        this.#view.setUint32(at, count);
        break;
      case 64:
        this.#view.setUint32(at, highWord(count));
        this.#view.setUint32(at + 4, lowWord(count));
        break;
      default: {
        const mask = ((1 << this.#bits) - 1) << (bit % 8);
        const others = this.#view.getUint8(at) & ~mask;
        this.#view.setUint8(at, others | (count << (bit % 8)));
      }
    }
    this.cache.dirty(slot, byte, byte + Math.max(1, this.#bits / 8));
  }

  /** The count of `cluster`; or a promise after which to ask again. */
  peek(cluster: number): number | Promise<void> {
    const slot = this.block(cluster);
    if (slot === undefined) return 0;
    return mustWait(slot) ? slot : this.read(slot, cluster % this.#entries);
  }

  /** As `peek`, waiting. */
  get(cluster: number): Promise<number> {
    return whenThere(() => this.peek(cluster), (count) => count);
  }

  /** Sets the count of `cluster`, which has a block (given in this turn). */
  set(slot: Slot, cluster: number, count: number): void {
    this.write(slot, cluster % this.#entries, count);
  }

  /** A new block, at `host`. Its own count is the caller's business. */
  addBlock(index: number, host: number): void {
    this.table.high[index] = highWord(host);
    this.table.low[index] = lowWord(host);
    this.#dirty.add(index);
  }

  get hasDirtyTable(): boolean {
    return this.#dirty.size > 0;
  }

  /** Takes the changed table entries for writing. */
  stageTable(): { readonly writes: readonly TableWrite[]; back(): void } {
    const indices = [...this.#dirty];
    const offset = this.tableOffset;
    this.#dirty.clear();
    return {
      writes: indices.map((index) => ({
        offset: offset + index * 8,
        bytes: this.table.bytes(index, index + 1),
      })),
      back: () => {
        if (this.tableOffset === offset) { for (const index of indices) this.#dirty.add(index); }
      },
    };
  }

  /** Another table takes its place; it is on disk already. */
  replaceTable(table: WordTable, offset: number): void {
    this.table = table;
    this.tableOffset = offset;
    this.#dirty.clear();
  }
}

/** Bytes of a table to be written. */
export interface TableWrite {
  readonly offset: number;
  readonly bytes: Uint8Array;
}
