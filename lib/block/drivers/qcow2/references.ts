/**
 * What whole L1 tables refer to: for snapshots, whose creation and deletion change the counts of everything that
 * a table leads to, and with them which clusters of the active table are its own.
 */
import { assert, BlockError } from "../../../base/mod.ts";
import type { Slot } from "./cache.ts";
import {
  Bounds,
  compressedLength,
  compressedLimit,
  compressedOffset,
  EntryHigh,
  entryOffset,
  highWord,
} from "./format.ts";
import type { Image } from "./image.ts";
import { hex } from "./map.ts";
import { readBytes } from "./metadata.ts";

/** Qcow2Image.changeReferences. The caller runs alone. */
export async function changeReferences(
  image: Image,
  l1: BigUint64Array,
  delta: 1 | 0 | -1,
  active: boolean,
): Promise<void> {
  const { clusterSize } = image.geometry;
  for (let index = 0; index < l1.length; index++) {
    const entry = l1[index]!;
    const table = Number(entry & 0x00fffffffffffe00n);
    if (table === 0) continue;
    if (table % clusterSize !== 0 || table >= Bounds.maxHostOffset) {
      image.corrupt(`L2 table offset ${hex(table)} unaligned (L1 index: ${hex(index)})`);
    }
    // With the active table it is the cached view that counts; it is written first.
    if (delta !== 0) {
      await changeTable(image, table, delta);
      await change(image, table, clusterSize, delta);
    }
    if (active) await markTable(image, index, table);
  }
}

/** Changes the counts of what one L2 table leads to. */
async function changeTable(image: Image, table: number, delta: 1 | -1): Promise<void> {
  const { context, file, geometry } = image;
  const { clusterSize, clusterBits, l2EntrySize } = geometry;
  const bytes = await readBytes(context, file, table, clusterSize);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < clusterSize; at += l2EntrySize) {
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    if ((high & EntryHigh.compressed) !== 0) {
      const offset = compressedOffset(high, low, clusterBits);
      if (offset >= compressedLimit(clusterBits)) {
        image.corrupt(`Compressed cluster offset ${hex(offset)} (L2 offset: ${hex(table)})`);
      }
      await change(image, offset, compressedLength(high, low, clusterBits), delta);
      continue;
    }
    const host = entryOffset(high, low);
    if (host === 0 || geometry.externalData) continue;
    if (host % clusterSize !== 0 || host >= Bounds.maxHostOffset) {
      image.corrupt(
        `Cluster allocation offset ${hex(host)} unaligned (L2 offset: ${hex(table)}, ` +
          `L2 index: ${hex(at / l2EntrySize)})`,
      );
    }
    await change(image, host, clusterSize, delta);
  }
}

async function change(image: Image, offset: number, length: number, delta: 1 | -1): Promise<void> {
  if (delta === 1) await addReference(image, offset, length);
  else await image.releases.now(offset, length, "snapshot");
}

/** One more reference for every cluster that [offset, offset + length) touches. */
export async function addReference(image: Image, offset: number, length: number): Promise<void> {
  const { refcounts, geometry, nodeName } = image;
  const { clusterSize, refcountMax, refcountBlockEntries } = geometry;
  const end = Math.ceil((offset + length) / clusterSize);
  for (let cluster = Math.floor(offset / clusterSize); cluster < end; cluster++) {
    const slot = await refcounts.fetch(cluster);
    const count = slot === undefined ? 0 : refcounts.read(slot, cluster % refcountBlockEntries);
    if (slot === undefined || count === 0) {
      image.corrupt(
        `Cluster at offset ${hex(cluster * clusterSize)} is in use and has no reference`,
      );
    }
    if (count >= refcountMax) {
      throw new BlockError("EINVAL", "Could not update refcounts: Invalid argument", {
        node: nodeName,
        offset: cluster * clusterSize,
      });
    }
    refcounts.set(slot, cluster, count + 1);
  }
}

/** Sets the copied bits of an active L2 table and of what leads to it, as the counts say. */
async function markTable(image: Image, index: number, table: number): Promise<void> {
  const { l1, map, refcounts, geometry } = image;
  const { clusterSize, l2Coverage, externalData } = geometry;
  const { view } = map.cache;
  for (let guest = index * l2Coverage; guest < (index + 1) * l2Coverage; guest += clusterSize) {
    let slot = await slice(image, guest);
    let at = map.entryAt(slot, guest);
    const high = view.getUint32(at);
    if ((high & EntryHigh.compressed) !== 0) continue;
    const host = map.host(at);
    if (host === 0 || externalData) continue;
    const own = await refcounts.get(host / clusterSize) === 1;
    if (own === high >= EntryHigh.copied) continue;
    // Waiting may have cost the slice its place.
    slot = await slice(image, guest);
    at = map.entryAt(slot, guest);
    view.setUint32(at, (highWord(map.host(at)) | (own ? EntryHigh.copied : 0)) >>> 0);
    map.changed(slot, at);
  }
  const own = await refcounts.get(table / clusterSize) === 1;
  if (l1.copied(index) !== own) l1.set(index, table, own);
}

async function slice(image: Image, guest: number): Promise<Slot> {
  const slot = await image.map.fetch(guest);
  assert(slot !== undefined, "the table of an L1 entry is gone");
  return slot;
}
