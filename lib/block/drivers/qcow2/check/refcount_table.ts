/** The reference count structure as it is on disk: entries of any width, blocks read through a small cache. */
import { BlockError, MiB } from "../../../../base/mod.ts";
import type { Header } from "../header.ts";
import type { Geometry } from "../types.ts";
import type { CheckFile } from "./types.ts";

const HIGH = 2 ** 32;
/** Bytes of blocks that are kept. */
const CACHE_BYTES = 16 * MiB;

/** Count `index` of a block; counts of 64 bits are rounded beyond 2^53. Bit 0 is the least significant one. */
export function getCount(block: DataView, index: number, order: number): number {
  switch (order) {
    case 4:
      return block.getUint16(index * 2);
    case 3:
      return block.getUint8(index);
    case 5:
      return block.getUint32(index * 4);
    case 6:
      return block.getUint32(index * 8) * HIGH + block.getUint32(index * 8 + 4);
    default: {
      const bits = 1 << order;
      const perByte = 8 / bits;
      const shift = (index % perByte) * bits;
      return (block.getUint8(Math.floor(index / perByte)) >> shift) & ((1 << bits) - 1);
    }
  }
}

/** Writes count `index` of a block; it must fit. */
export function setCount(block: DataView, index: number, order: number, count: number): void {
  switch (order) {
    case 4:
      return block.setUint16(index * 2, count);
    case 3:
      return block.setUint8(index, count);
    case 5:
      return block.setUint32(index * 4, count);
    case 6:
      block.setUint32(index * 8, Math.floor(count / HIGH));
      return block.setUint32(index * 8 + 4, count % HIGH);
    default: {
      const bits = 1 << order;
      const perByte = 8 / bits;
      const shift = (index % perByte) * bits;
      const at = Math.floor(index / perByte);
      const mask = ((1 << bits) - 1) << shift;
      block.setUint8(at, (block.getUint8(at) & ~mask) | (count << shift));
    }
  }
}

/** An entry of the table. Offsets beyond 2^53 are rounded: they are outside of any file. */
export interface TableEntry {
  readonly offset: number;
  readonly reserved: boolean;
  readonly aligned: boolean;
}

const NO_ENTRY: TableEntry = { offset: 0, reserved: false, aligned: true };

/** The table of one image, read once; its blocks as needed. */
export class RefcountTable {
  /** Entries of the table, whatever they hold. */
  readonly length: number;
  readonly #blocks = new Map<number, DataView>();
  readonly #kept: number;

  private constructor(
    private readonly file: CheckFile,
    private readonly geometry: Geometry,
    private readonly order: number,
    private readonly table: DataView,
  ) {
    this.length = table.byteLength / 8;
    this.#kept = Math.max(4, Math.floor(CACHE_BYTES / geometry.clusterSize));
  }

  /** Reads the table, whose size the header's limits bound. */
  static async read(file: CheckFile, header: Header, geometry: Geometry): Promise<RefcountTable> {
    const bytes = new Uint8Array(header.refcountTableClusters * geometry.clusterSize);
    await file.read(header.refcountTableOffset, bytes);
    const view = new DataView(bytes.buffer);
    return new RefcountTable(file, geometry, header.refcountOrder, view);
  }

  /** Entry `index`; behind the table there are none. */
  entry(index: number): TableEntry {
    if (index >= this.length) return NO_ENTRY;
    const high = this.table.getUint32(index * 8);
    const low = this.table.getUint32(index * 8 + 4);
    const offset = high * HIGH + ((low & 0xfffffe00) >>> 0);
    const aligned = ((low & 0xfffffe00) >>> 0) % this.geometry.clusterSize === 0;
    return { offset, reserved: (low & 0x1ff) !== 0, aligned };
  }

  /** Block `index`, undefined where the table has none. Throws BlockError EIO where the entry is broken. */
  async block(index: number): Promise<DataView | undefined> {
    const { offset, aligned } = this.entry(index);
    if (offset === 0) return undefined;
    if (!aligned || offset >= 2 ** 63) throw new BlockError("EIO", "Input/output error");
    const kept = this.#blocks.get(index);
    if (kept !== undefined) return kept;
    const bytes = new Uint8Array(this.geometry.clusterSize);
    // Counts of a block behind the end of the file are as good as none.
    if (offset < this.file.size) await this.file.read(offset, bytes);
    const view = new DataView(bytes.buffer);
    if (this.#blocks.size >= this.#kept) {
      this.#blocks.delete(this.#blocks.keys().next().value!);
    }
    this.#blocks.set(index, view);
    return view;
  }

  /** The count on disk of a cluster. Throws BlockError EIO where the entry is broken. */
  async count(cluster: number): Promise<number> {
    const entries = this.geometry.refcountBlockEntries;
    const index = Math.floor(cluster / entries);
    const view = this.#blocks.get(index) ?? await this.block(index);
    return view === undefined ? 0 : getCount(view, cluster % entries, this.order);
  }

  /** Writes a block back, as changed through `block`. */
  async writeBlock(index: number, block: DataView): Promise<void> {
    const bytes = new Uint8Array(block.buffer, block.byteOffset, block.byteLength);
    await this.file.write(this.entry(index).offset, bytes);
  }
}
