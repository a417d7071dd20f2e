/**
 * Persistent dirty bitmaps in an image.
 *
 * While an image is open for writing its bitmaps are marked as in use, durably and before the first write: what is
 * there of them is out of date until they are stored, when the image is closed. Storing makes new tables and a new
 * directory and then switches over by the header; a cut leaves the old directory, whose entries are in use. Only
 * setting that mark changes a directory in place, under a cleared autoclear bit.
 *
 * Source: the QCOW2 specification, "Bitmaps".
 */
import { BlockError, CommandError } from "../../../base/mod.ts";
import { DirtyBitmap, makeBits, MAX_BITMAP_NAME } from "../../bitmaps/mod.ts";
import type { BitmapStore } from "../../mod.ts";
import {
  brokenTable,
  type DirectoryEntry,
  entryLength,
  MAX_BITMAP_BYTES,
  parseDirectory,
  parseTableEntry,
  serialiseDirectory,
  tableEntries,
} from "./bitmap_directory.ts";
import { MAX_DIRECTORY } from "./extensions.ts";
import { Autoclear, Bounds, EntryLow } from "./format.ts";
import { WordTable } from "./metadata.ts";
import type { Qcow2Image } from "./types.ts";

/** Entries of a table that are read at once. */
const TABLE_STEP = 8192;

/** The directory as it is on disk; empty where there is none. Throws BlockError. */
export async function readDirectory(image: Qcow2Image): Promise<DirectoryEntry[]> {
  const { bitmaps } = image.header;
  if (bitmaps === undefined) return [];
  const bytes = await image.readMetadata(bitmaps.directoryOffset, bitmaps.directorySize);
  return parseDirectory(bytes, bitmaps.count, image.size, image.geometry.clusterSize);
}

/** As in QEMU bitmaps keep their places in the directory; new ones follow, the newest first. */
function* inOrder(
  directory: readonly DirectoryEntry[],
  bitmaps: readonly DirtyBitmap[],
): Iterable<[DirtyBitmap, DirectoryEntry | undefined]> {
  const left = new Map(bitmaps.map((bitmap) => [bitmap.name, bitmap]));
  for (const entry of directory) {
    const bitmap = left.get(entry.name);
    if (bitmap !== undefined) yield [bitmap, entry];
    left.delete(entry.name);
  }
  for (const bitmap of [...left.values()].reverse()) yield [bitmap, undefined];
}

/** The bitmaps of one image. */
export class Qcow2Bitmaps implements BitmapStore {
  readonly #image: Qcow2Image;
  /** As on disk, since the last load or store. */
  #entries: DirectoryEntry[] = [];

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  async load(): Promise<DirtyBitmap[]> {
    this.#entries = await readDirectory(this.#image);
    const loaded: DirtyBitmap[] = [];
    for (const entry of this.#entries) loaded.push(await this.#read(entry));
    return loaded;
  }

  async resume(): Promise<void> {
    this.#entries = await readDirectory(this.#image);
  }

  async #read(entry: DirectoryEntry): Promise<DirtyBitmap> {
    const { name, granularity, auto, inUse } = entry;
    const size = inUse ? 0 : this.#image.size;
    const bits = makeBits(name, size, granularity);
    const bitmap = new DirtyBitmap(bits, { name, persistent: true, recording: auto && !inUse });
    bitmap.inconsistent = inUse;
    if (inUse) return bitmap;
    const { clusterSize } = this.#image.geometry;
    for await (const { index, offset, ones } of this.#table(entry)) {
      if (offset !== 0) {
        bits.load(index * clusterSize, await this.#image.readMetadata(offset, clusterSize));
      } else if (ones) {
        const covered = clusterSize * 8 * granularity;
        bits.set(index * covered, Math.min(covered, size - index * covered));
      }
    }
    return bitmap;
  }

  /** Entries of a bitmap's table: where the bits are, or that all are alike. Throws BlockError EINVAL. */
  async *#table(
    bitmap: DirectoryEntry,
  ): AsyncIterable<{ index: number; offset: number; ones: boolean }> {
    const { clusterSize } = this.#image.geometry;
    const { tableOffset, tableSize } = bitmap;
    for (let from = 0; from < tableSize; from += TABLE_STEP) {
      const count = Math.min(TABLE_STEP, tableSize - from);
      const table = WordTable.parse(
        await this.#image.readMetadata(tableOffset + from * 8, count * 8),
      );
      for (let i = 0; i < count; i++) {
        const entry = parseTableEntry(table.high[i]!, table.low[i]!, bitmap, clusterSize);
        if (entry.offset >= Bounds.maxHostOffset) throw brokenTable(bitmap);
        yield { index: from + i, ...entry };
      }
    }
  }

  checkNew(name: string, granularity: number, others: readonly DirtyBitmap[]): void {
    const { header, size, nodeName, readOnly } = this.#image;
    const refuse = (why: string) =>
      new CommandError(`Can't make bitmap '${name}' persistent in '${nodeName}': ${why}`);
    if (header.version < 3) throw refuse("Cannot store dirty bitmaps in qcow2 v2 files");
    if (readOnly) throw refuse("No write access");
    if (new TextEncoder().encode(name).length > MAX_BITMAP_NAME) {
      throw refuse(`Name length exceeds maximum (${MAX_BITMAP_NAME} characters)`);
    }
    if (size === 0) throw refuse("The image is empty");
    if (tooLarge(size, granularity)) throw refuse(TOO_LARGE);
    const kept = others.filter((other) => other.persistent);
    if (kept.length >= Bounds.maxBitmaps) {
      throw refuse("Maximum number of persistent bitmaps is already reached");
    }
    const directory = kept.reduce((sum, other) => sum + entryLength(other.name), 0);
    if (directory + entryLength(name) > MAX_DIRECTORY) {
      throw refuse("Not enough space in the bitmap directory");
    }
  }

  checkSize(size: number, bitmaps: readonly DirtyBitmap[]): void {
    for (const { name, granularity } of bitmaps) {
      if (tooLarge(size, granularity)) {
        throw new CommandError(`Bitmap '${name}' doesn't satisfy the constraints: ${TOO_LARGE}`);
      }
    }
  }

  async store(bitmaps: readonly DirtyBitmap[]): Promise<void> {
    if (bitmaps.length === 0 && this.#entries.length === 0) return;
    await this.#image.exclusive(async () => {
      const old = this.#entries;
      const next: DirectoryEntry[] = [];
      const written: DirectoryEntry[] = [];
      try {
        for (const [bitmap, before] of inOrder(old, bitmaps)) {
          if (bitmap.inconsistent) {
            if (before !== undefined) next.push(before);
            continue;
          }
          const entry = await this.#write(bitmap, before);
          written.push(entry);
          next.push(entry);
        }
        await this.#switch(next);
      } catch (error) {
        // Should the header lead to them all the same, they are given back after it is written as it was.
        for (const entry of written) await this.#free(entry);
        throw error;
      }
      for (const entry of old) if (!next.includes(entry)) await this.#free(entry);
    });
  }

  async remove(name: string): Promise<void> {
    const entry = this.#entries.find((one) => one.name === name);
    if (entry === undefined) return;
    await this.#image.exclusive(async () => {
      await this.#switch(this.#entries.filter((one) => one !== entry));
      await this.#free(entry);
    });
  }

  async claim(): Promise<void> {
    const { bitmaps, autoclearFeatures } = this.#image.header;
    if (bitmaps === undefined || this.#entries.every(({ inUse }) => inUse)) return;
    const entries = this.#entries.map((entry) => ({ ...entry, inUse: true }));
    await this.#image.updateHeader({ autoclearFeatures: autoclearFeatures & ~Autoclear.bitmaps });
    await this.#image.writeMetadata(
      bitmaps.directoryOffset,
      serialiseDirectory(entries),
      "bitmap directory",
    );
    await this.#image.updateHeader({ autoclearFeatures: autoclearFeatures | Autoclear.bitmaps });
    this.#entries = entries;
  }

  /** Writes a bitmap's bits and table to clusters of their own. `before`: as it is in the directory now. */
  async #write(bitmap: DirtyBitmap, before: DirectoryEntry | undefined): Promise<DirectoryEntry> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    const { bits, name, granularity } = bitmap;
    const tableSize = tableEntries(bits.size, granularity, clusterSize);
    // A table has at least one entry: readers refuse others.
    if (tableSize === 0) {
      throw new CommandError(`bitmap '${name}' is of an image that is empty now`);
    }
    const table = WordTable.empty(tableSize);
    const { bytes } = bits;
    const allocated: [number, number][] = [];
    const allocate = async (length: number) => {
      const offset = await image.allocate(length);
      allocated.push([offset, length]);
      return offset;
    };
    try {
      for (let i = 0; i < tableSize; i++) {
        const alike = bits.uniform(i * clusterSize, clusterSize);
        if (alike !== undefined) {
          if (alike !== 0) table.low[i] = EntryLow.zero;
          continue;
        }
        const part = bytes.subarray(i * clusterSize, (i + 1) * clusterSize);
        const offset = await allocate(clusterSize);
        table.setEntry(i, BigInt(offset));
        await image.writeMetadata(offset, padded(part, clusterSize), "bitmap data");
      }
      const tableOffset = await allocate(tableSize * 8);
      await image.writeMetadata(tableOffset, table.bytes(), "bitmap table");
      const nameBytes = before?.nameBytes ?? new TextEncoder().encode(name);
      const auto = bitmap.recording;
      return { name, nameBytes, granularity, inUse: false, auto, tableOffset, tableSize };
    } catch (error) {
      for (const [offset, length] of allocated) image.release(offset, length, "other");
      throw failed(`Failed to write bitmap '${name}' to file`, error);
    }
  }

  /**
   * Gives back a bitmap's clusters, which the directory on disk no longer leads to. Those of a broken table are left: it
   * may tell of clusters that are not the bitmap's.
   */
  async #free(entry: DirectoryEntry): Promise<void> {
    const image = this.#image;
    const { context: { log }, geometry: { clusterSize }, nodeName } = image;
    const data: number[] = [];
    try {
      for await (const { offset } of this.#table(entry)) if (offset !== 0) data.push(offset);
    } catch (error) {
      log.warn(`node '${nodeName}': clusters of bitmap '${entry.name}' are lost: ${String(error)}`);
      return;
    }
    for (const offset of data) image.release(offset, clusterSize, "other");
    image.release(entry.tableOffset, entry.tableSize * 8, "other");
  }

  /** Makes `entries` the directory: from one moment to the next, by the header. */
  async #switch(entries: DirectoryEntry[]): Promise<void> {
    const image = this.#image;
    const old = image.header.bitmaps;
    const bytes = serialiseDirectory(entries);
    const features = image.header.autoclearFeatures;
    if (entries.length === 0) {
      await image.commit();
      const autoclearFeatures = features & ~Autoclear.bitmaps;
      await image.updateHeader({ bitmaps: undefined, autoclearFeatures });
    } else {
      const directoryOffset = await image.allocate(bytes.length);
      try {
        await image.writeMetadata(directoryOffset, bytes, "bitmap directory");
        await image.commit();
        await image.updateHeader({
          bitmaps: { count: entries.length, directorySize: bytes.length, directoryOffset },
          autoclearFeatures: features | Autoclear.bitmaps,
        });
      } catch (error) {
        image.release(directoryOffset, bytes.length, "other");
        throw failed("Failed to update bitmap extension", error);
      }
      image.protect(directoryOffset, bytes.length, "bitmap directory");
    }
    if (old !== undefined) {
      image.unprotect(old.directoryOffset, old.directorySize, "bitmap directory");
      image.release(old.directoryOffset, old.directorySize, "other");
    }
    this.#entries = entries;
  }
}

/** An error, with what could not be done because of it. */
function failed(what: string, error: unknown): unknown {
  if (!(error instanceof BlockError)) return error;
  return new BlockError(error.errno, `${what}: ${error.message}`, { cause: error });
}

/** Why a bitmap cannot be stored. */
const TOO_LARGE = "Too much space will be occupied by the bitmap. Use larger granularity";

/** Whether the bits of an image of `size` bytes are more than can be stored. */
function tooLarge(size: number, granularity: number): boolean {
  return Math.ceil(Math.ceil(size / granularity) / 8) > MAX_BITMAP_BYTES;
}

/** `bytes` with zeroes up to `length`. */
function padded(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length === length) return bytes;
  const whole = new Uint8Array(length);
  whole.set(bytes);
  return whole;
}
