/** What whole L1 tables refer to: for snapshots, whose tables share clusters with the active one. */
import { IoVec, type MaybePromise } from "../../../base/mod.ts";
import {
  Bounds,
  compressedLength,
  compressedLimit,
  compressedOffset,
  EntryHigh,
  entryOffset,
} from "./format.ts";
import type { Image } from "./image.ts";
import { hex } from "./map.ts";
import type { WordTable } from "./metadata.ts";

/** So many entries are visited between two looks at the clock; so many without a table. */
const STRIDE = 64;
const STRIDE_L1 = 4096;

/** Something that a table leads to. */
type Visit = (offset: number, length: number) => MaybePromise<void>;

/**
 * Visits everything that the L2 tables of `l1` (flags are cleared) lead to, as they are on disk, and the tables: each
 * range as often as something leads there, at the image's pace: there may be thousands of tables. The image is marked
 * corrupt, and EIO thrown, where an entry is broken.
 */
export async function eachReference(
  image: Image,
  l1: WordTable,
  visit: Visit,
): Promise<void> {
  const { pace, geometry: { clusterSize } } = image;
  for (let index = 0; index < l1.length; index++) {
    if (index % STRIDE_L1 === 0 && pace.tired) await pace.rest();
    const table = l1.target(index);
    if (table === 0) continue;
    if (table % clusterSize !== 0 || table >= Bounds.maxHostOffset) {
      image.corrupt(`L2 table offset ${hex(table)} unaligned (L1 index: ${hex(index)})`);
    }
    await eachInTable(image, table, visit);
    await visit(table, clusterSize);
  }
}

async function eachInTable(
  image: Image,
  table: number,
  visit: Visit,
): Promise<void> {
  const { context: { buffers }, file, pace, geometry: { clusterSize, l2EntrySize } } = image;
  const buffer = buffers.acquire(clusterSize);
  try {
    const reading = file.read(table, IoVec.of(buffer.address, clusterSize), 0);
    if (reading !== undefined) await reading;
    for (let at = 0; at < clusterSize; at += l2EntrySize) {
      const busy = visitEntry(image, buffer.view, at, table, visit);
      if (busy !== undefined) await busy;
      if (at % (l2EntrySize * STRIDE) === 0 && pace.tired) await pace.rest();
    }
  } finally {
    buffers.release(buffer);
  }
}

/** Visits what the entry at `at` leads to. */
function visitEntry(
  image: Image,
  view: DataView,
  at: number,
  table: number,
  visit: Visit,
): MaybePromise<void> {
  const { clusterSize, clusterBits, l2EntrySize, externalData } = image.geometry;
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if ((high & EntryHigh.compressed) !== 0) {
    const offset = compressedOffset(high, low, clusterBits);
    if (offset >= compressedLimit(clusterBits)) {
      image.corrupt(`Compressed cluster offset ${hex(offset)} (L2 offset: ${hex(table)})`);
    }
    const length = compressedLength(high, low, clusterBits);
    image.overlap.checkData(offset, length);
    return visit(offset, length);
  }
  const host = entryOffset(high, low);
  if (host === 0 || externalData) return undefined;
  if (host % clusterSize !== 0 || host >= Bounds.maxHostOffset) {
    image.corrupt(
      `Cluster allocation offset ${hex(host)} unaligned (L2 offset: ${hex(table)}, ` +
        `L2 index: ${hex(at / l2EntrySize)})`,
    );
  }
  image.overlap.checkData(host, clusterSize);
  return visit(host, clusterSize);
}
