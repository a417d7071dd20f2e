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

/** Qcow2Image.changeReferences. The caller runs alone. References that cannot all be added are taken back. */
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
      try {
        await changeTable(image, table, delta);
        await change(image, table, clusterSize, delta);
      } catch (error) {
        if (delta === 1) await takeBack(image, l1.subarray(0, index), active);
        throw error;
      }
    }
    if (active) await markTable(image, index, table);
  }
}

async function takeBack(image: Image, l1: BigUint64Array, active: boolean): Promise<void> {
  await changeReferences(image, l1, -1, false);
  if (active) await changeReferences(image, l1, 0, true);
}

/** Changes the counts of what one L2 table leads to: all of them, or (adding) none. */
async function changeTable(image: Image, table: number, delta: 1 | -1): Promise<void> {
  const { context, file, geometry } = image;
  const { clusterSize, l2EntrySize } = geometry;
  const bytes = await readBytes(context, file, table, clusterSize);
  const view = new DataView(bytes.buffer, bytes.byteOffset, clusterSize);
  for (let at = 0; at < clusterSize; at += l2EntrySize) {
    try {
      await changeEntry(image, view, at, table, delta);
    } catch (error) {
      for (let done = 0; delta === 1 && done < at; done += l2EntrySize) {
        await changeEntry(image, view, done, table, -1);
      }
      throw error;
    }
  }
}

/** Changes the counts of what the entry at `at` leads to. */
async function changeEntry(
  image: Image,
  view: DataView,
  at: number,
  table: number,
  delta: 1 | -1,
): Promise<void> {
  const { clusterSize, clusterBits, l2EntrySize, externalData } = image.geometry;
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  if ((high & EntryHigh.compressed) !== 0) {
    const offset = compressedOffset(high, low, clusterBits);
    if (offset >= compressedLimit(clusterBits)) {
      image.corrupt(`Compressed cluster offset ${hex(offset)} (L2 offset: ${hex(table)})`);
    }
    return await change(image, offset, compressedLength(high, low, clusterBits), delta);
  }
  const host = entryOffset(high, low);
  if (host === 0 || externalData) return;
  if (host % clusterSize !== 0 || host >= Bounds.maxHostOffset) {
    image.corrupt(
      `Cluster allocation offset ${hex(host)} unaligned (L2 offset: ${hex(table)}, ` +
        `L2 index: ${hex(at / l2EntrySize)})`,
    );
  }
  await change(image, host, clusterSize, delta);
}

async function change(image: Image, offset: number, length: number, delta: 1 | -1): Promise<void> {
  if (delta === 1) await addReference(image, offset, length);
  else await image.releases.now(offset, length, "snapshot");
}

/** One more reference for every cluster that [offset, offset + length) touches, or for none. */
export async function addReference(image: Image, offset: number, length: number): Promise<void> {
  const { refcounts, geometry, nodeName } = image;
  const { clusterSize, refcountMax, refcountBlockEntries } = geometry;
  const end = Math.ceil((offset + length) / clusterSize);
  for (let cluster = Math.floor(offset / clusterSize); cluster < end; cluster++) {
    const count = await refcounts.fetch(cluster, (slot) => {
      if (slot === undefined) return 0;
      const now = refcounts.read(slot, cluster % refcountBlockEntries);
      if (now > 0 && now < refcountMax) refcounts.set(slot, cluster, now + 1);
      return now;
    });
    if (count === 0) {
      image.corrupt(
        `Cluster at offset ${hex(cluster * clusterSize)} is in use and has no reference`,
      );
    }
    if (count >= refcountMax) {
      if (cluster * clusterSize > offset) {
        await image.releases.now(offset, cluster * clusterSize - offset, "never");
      }
      throw new BlockError("EINVAL", "Invalid argument", {
        node: nodeName,
        offset: cluster * clusterSize,
      });
    }
  }
}

/** Sets the copied bits of an active L2 table and of what leads to it, as the counts say. */
async function markTable(image: Image, index: number, table: number): Promise<void> {
  const { l1, map, refcounts, geometry } = image;
  const { clusterSize, l2Coverage, externalData } = geometry;
  const { view } = map.cache;
  for (let guest = index * l2Coverage; guest < (index + 1) * l2Coverage; guest += clusterSize) {
    const entry = await onSlice(image, guest, (slot) => {
      const at = map.entryAt(slot, guest);
      const high = view.getUint32(at);
      const host = (high & EntryHigh.compressed) !== 0 ? 0 : map.host(at);
      return { host, copied: high >= EntryHigh.copied };
    });
    if (entry.host === 0 || externalData) continue;
    const own = await refcounts.get(entry.host / clusterSize) === 1;
    if (own === entry.copied) continue;
    await onSlice(image, guest, (slot) => {
      const at = map.entryAt(slot, guest);
      view.setUint32(at, (highWord(map.host(at)) | (own ? EntryHigh.copied : 0)) >>> 0);
      map.changed(slot, at);
    });
  }
  const own = await refcounts.get(table / clusterSize) === 1;
  if (l1.copied(index) !== own) l1.set(index, table, own);
}

/** Acts on the slice with the entry for `guest`, in the turn in which it is there. */
function onSlice<R>(image: Image, guest: number, act: (slot: Slot) => R): Promise<R> {
  return image.map.fetch(guest, (slot) => {
    assert(slot !== undefined, "the table of an L1 entry is gone");
    return act(slot);
  });
}
