/** Changing the length of the virtual disk. The caller has stopped all writers. */
import { alignUp, assert, BlockError, CommandError } from "../../../base/mod.ts";
import type { TruncateOptions } from "../../mod.ts";
import type { Slot } from "./cache.ts";
import { Bounds, EntryHigh, EntryLow, highWord, lowWord, SUBCLUSTERS } from "./format.ts";
import type { Image } from "./image.ts";
import { switchL1 } from "./l1_move.ts";
import { Kind } from "./map.ts";
import { zeroGuest } from "./self_io.ts";
import { mustWait } from "./waiting.ts";

/** Makes the disk `size` bytes long. */
export async function resize(image: Image, size: number, options: TruncateOptions): Promise<void> {
  // Its snapshots do not say how long their disks were.
  if (image.geometry.version < 3 && image.header.snapshotCount > 0) {
    throw new CommandError("Can't resize a v2 image which has snapshots");
  }
  const old = image.size;
  if (size < old) {
    if (options.preallocation !== "off") {
      throw new CommandError("Preallocation can't be used for shrinking an image");
    }
    await shrink(image, size, old);
    return;
  }
  if (options.preallocation !== "off") checkPreallocation(image);
  try {
    await grow(image, size, old, options);
  } catch (error) {
    image.allow(old);
    throw error;
  }
}

// --- smaller ---

async function shrink(image: Image, size: number, old: number): Promise<void> {
  const { clusterSize, l2Coverage, externalData } = image.geometry;
  // What may want room, first: nothing has changed if there is none.
  await ownTables(image, alignUp(size, clusterSize), alignUp(old, clusterSize));
  // Smaller for readers first: what is dropped below must not be led to again by a cut.
  await image.setSize(size);
  await clearEntries(image, alignUp(size, clusterSize), alignUp(old, clusterSize));
  dropTables(image, Math.ceil(size / l2Coverage));
  await image.commit();
  if (externalData) await image.data.truncate(size, { exact: false, preallocation: "off" });
}

/** The L2 tables that there are for [from, to) can be written to, and are stored as such. */
async function ownTables(image: Image, from: number, to: number): Promise<void> {
  const { l1, tables, geometry: { l2Coverage } } = image;
  for (let index = Math.floor(from / l2Coverage); index * l2Coverage < to; index++) {
    if (l1.target(index) !== 0 && !tables.writable(index)) await tables.make(index);
  }
  await image.commit();
}

/** The entries for [from, to), whole clusters, lead nowhere any more. */
async function clearEntries(image: Image, from: number, to: number): Promise<void> {
  const { l1, map, tables, geometry: { clusterSize, l2Coverage } } = image;
  for (let guest = from; guest < to;) {
    const index = Math.floor(guest / l2Coverage);
    if (l1.target(index) === 0) {
      guest = (index + 1) * l2Coverage;
      continue;
    }
    if (!tables.writable(index)) await tables.make(index);
    const slot = map.slice(guest);
    if (mustWait(slot)) {
      await slot;
      continue;
    }
    const end = Math.min(to, map.sliceEnd(slot!));
    for (; guest < end; guest += clusterSize) {
      clearEntry(image, slot!, map.entryAt(slot!, guest));
    }
  }
}

/** The entry leads nowhere any more, not even to zeroes. */
function clearEntry(image: Image, slot: Slot, at: number): void {
  const { map, releases, geometry: { l2EntrySize } } = image;
  const { view } = map.cache;
  let used = 0;
  for (let i = 0; i < l2EntrySize; i += 4) used |= view.getUint32(at + i);
  if (used === 0) return;
  releases.checkEntry(at);
  releases.addEntry(at, "other");
  for (let i = 0; i < l2EntrySize; i += 4) view.setUint32(at + i, 0);
  map.changed(slot, at);
  image.commits.written();
}

/** L2 tables from L1 index `from` on map nothing any more. */
function dropTables(image: Image, from: number): void {
  const { l1, geometry, map, overlap } = image;
  const slices = geometry.clusterSize / map.cache.sliceSize;
  for (let index = from; index < l1.length; index++) {
    const table = l1.target(index);
    if (table === 0) continue;
    l1.set(index, 0, false);
    for (let i = 0; i < slices; i++) map.cache.discard(index * slices + i);
    overlap.retire(table, geometry.clusterSize, "active L2 table");
    image.release(table, geometry.clusterSize, "other");
  }
}

// --- larger ---

async function grow(
  image: Image,
  size: number,
  old: number,
  options: TruncateOptions,
): Promise<void> {
  const { clusterSize } = image.geometry;
  await growL1(image, size);
  await dropBehind(image, size, old);
  // The disk may have been longer once: a cut, or an error, may have left what it had there.
  await clearEntries(image, alignUp(old, clusterSize), alignUp(size, clusterSize));
  await zeroNew(image, size, old);
  if (options.preallocation !== "off") await preallocate(image, old, size, options);
  await image.commit();
  if (image.geometry.externalData && size > image.data.size) {
    const preallocation = options.preallocation === "metadata" ? "off" : options.preallocation;
    await image.data.truncate(size, { exact: false, preallocation, goOn: options.goOn });
  }
  await image.setSize(size);
}

/**
 * What a data file holds behind the end of the disk is no guest's, and would show in what a raw one is on its own.
 * But a raw file in which a new image is made is what that image is to hold.
 */
async function dropBehind(image: Image, size: number, old: number): Promise<void> {
  const { data, geometry: { dataFileRaw, externalData } } = image;
  if (!externalData || data.size <= old || adopts(image, old)) return;
  try {
    await data.truncate(old, { exact: false, preallocation: "off" });
  } catch (error) {
    if (!(error instanceof BlockError) || error.errno !== "ENOTSUP") throw error;
  }
  // Devices, and windows on files, keep their length.
  const rest = Math.min(size, data.size) - old;
  if (dataFileRaw && rest > 0) await data.writeZeroes(old, rest, 0);
}

/** The data file was there before the image. */
function adopts({ geometry: { dataFileRaw } }: Image, old: number): boolean {
  return dataFileRaw && old === 0;
}

/** An L1 table that reaches up to `size`, at a new place if it must be longer. */
async function growL1(image: Image, size: number): Promise<void> {
  const { l1, geometry } = image;
  const needed = Math.ceil(size / geometry.l2Coverage);
  if (needed <= l1.length) return;
  if (needed * 8 > Bounds.maxL1Bytes) {
    throw new BlockError("EFBIG", "the image would need too large an L1 table", {
      node: image.nodeName,
    });
  }
  await switchL1(image, l1.table.resized(needed));
}

/** New bytes read as zeroes, whatever is left in the last cluster or lies in a longer backing file. */
async function zeroNew(image: Image, size: number, old: number): Promise<void> {
  const { clusterSize } = image.geometry;
  const contents = await holdsData(image, old);
  image.allow(size);
  const behind = image.backing === undefined ? 0 : alignUp(image.backing.size, clusterSize);
  const end = Math.min(size, Math.max(contents ? alignUp(old, clusterSize) : old, behind));
  if (end > old) await zeroGuest(image, old, end - old);
}

/** Whether the rest of the cluster from `guest` on has contents of its own. */
async function holdsData(image: Image, guest: number): Promise<boolean> {
  if (guest % image.geometry.clusterSize === 0) return false;
  return await image.map.fetch(guest, (slot) => slot !== undefined && dataIn(image, slot, guest));
}
function dataIn(image: Image, slot: Slot, guest: number): boolean {
  const { subclusterSize, clusterSize, extendedL2 } = image.geometry;
  const at = image.map.entryAt(slot, guest);
  const first = extendedL2 ? Math.floor((guest % clusterSize) / subclusterSize) : 0;
  for (let sub = first; sub < (extendedL2 ? SUBCLUSTERS : 1); sub++) {
    const kind = image.map.kind(at, sub);
    if (kind === Kind.data || kind === Kind.compressed) return true;
  }
  return false;
}

/** What was never written is no zeroes once it is decrypted: a flag must say that it is. */
function checkPreallocation({ cipher, geometry, nodeName }: Image): void {
  if (cipher === undefined || (geometry.version >= 3 && !geometry.dataFileRaw)) return;
  throw new BlockError("ENOTSUP", "Operation not supported", { node: nodeName });
}

/** Gives the clusters of [from, to) places, which read as zeroes. */
async function preallocate(
  image: Image,
  from: number,
  to: number,
  { preallocation: mode, goOn }: TruncateOptions,
): Promise<void> {
  const { allocator, file, geometry, map, tables } = image;
  const { clusterSize, externalData, l2Coverage } = geometry;
  const preallocation = mode === "metadata" ? "off" : mode;
  for (let guest = alignUp(from, clusterSize); guest < to;) {
    goOn?.();
    const index = Math.floor(guest / l2Coverage);
    if (!tables.writable(index)) await tables.make(index);
    const slot = map.slice(guest);
    if (mustWait(slot)) {
      await slot;
      continue;
    }
    assert(slot !== undefined, "the table was made");
    const at = map.entryAt(slot, guest);
    if (map.kind(at, 0) !== Kind.unallocated || map.host(at) !== 0) {
      guest += clusterSize;
      continue;
    }
    const most = Math.ceil((Math.min(to, map.sliceEnd(slot)) - guest) / clusterSize);
    const host = externalData ? guest : allocator.claim(most);
    if (mustWait(host)) {
      await host;
      continue;
    }
    const count = externalData ? most : allocator.granted;
    if (externalData ? !adopts(image, from) && guest < image.data.size : !allocator.fresh) {
      await image.data.writeZeroes(host, count * clusterSize, 0);
    } else if (!externalData) {
      // At once: no table on disk may lead beyond the end, and those written behind it would leave it a hole.
      const end = host + count * clusterSize;
      if (end > file.size) await file.truncate(end, { exact: false, preallocation, goOn });
    }
    await place(image, guest, host, count);
    guest += count * clusterSize;
  }
  if (!externalData && allocator.end > file.size) {
    await file.truncate(allocator.end, { exact: false, preallocation, goOn });
  }
}

/** Leads `count` guest clusters of one slice to neighbouring host clusters. */
async function place(image: Image, guest: number, host: number, count: number): Promise<void> {
  await image.map.fetch(guest, (slot) => placeIn(image, slot!, guest, host, count));
}
function placeIn(image: Image, slot: Slot, guest: number, host: number, count: number): void {
  const { map, geometry } = image;
  const flagged = image.cipher !== undefined;
  const { view } = map.cache;
  let at = map.entryAt(slot, guest);
  for (let i = 0; i < count; i++, at += geometry.l2EntrySize) {
    const target = host + i * geometry.clusterSize;
    view.setUint32(at, (highWord(target) | EntryHigh.copied) >>> 0);
    view.setUint32(at + 4, lowWord(target) | (flagged && !geometry.extendedL2 ? EntryLow.zero : 0));
    // Subclusters stay unallocated, so that a backing file shows through until they are written.
    if (geometry.dataFileRaw && geometry.extendedL2) view.setUint32(at + 12, 0xffffffff);
    map.changed(slot, at);
  }
  image.commits.written();
}
