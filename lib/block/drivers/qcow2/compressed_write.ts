/**
 * Writing compressed clusters: streams lie one behind the other, byte by byte, and may share host clusters; each
 * host cluster counts the streams that touch it. Source: the QCOW2 specification, "Compressed Clusters Descriptor".
 */
import { BlockError, IoVec } from "../../../base/mod.ts";
import { zeroFill } from "../../mod.ts";
import { compressedHigh, compressedLimit, EntryHigh, highWord, lowWord } from "./format.ts";
import type { Image } from "./image.ts";
import { mustWait } from "./waiting.ts";

/** Byte-granular space: the unused end of the cluster that the last stream ended in. */
export class CompressedSpace {
  /** The next stream begins here, if it fits; 0: nowhere. */
  #next = 0;

  constructor(private readonly image: Image) {}

  /** The clusters are being given back: no stream may join them. */
  avoid(offset: number, length: number): void {
    if (this.#next > offset && this.#next < offset + length) this.#next = 0;
  }

  /** Room for `length` bytes, at most a cluster; or a promise after which to ask again. */
  claim(length: number): number | Promise<void> {
    const { allocator, refcounts, geometry } = this.image;
    const { clusterSize, refcountMax } = geometry;
    const used = this.#next % clusterSize;
    const current = Math.floor(this.#next / clusterSize);
    // The cluster is in use by at least one stream, and takes one more if its count has room.
    const slot = used === 0 ? undefined : refcounts.block(current);
    if (mustWait(slot)) return slot;
    const index = current % geometry.refcountBlockEntries;
    const count = slot === undefined ? 0 : refcounts.read(slot, index);
    const joins = slot !== undefined && count > 0 && count < refcountMax;
    if (joins && used + length <= clusterSize) {
      refcounts.write(slot, index, count + 1);
      return this.#take(this.#next, length);
    }
    const host = allocator.claim(1);
    if (mustWait(host)) {
      // A small cache that is mostly dirty has no room for both blocks, and loads one after the other for ever.
      this.#next = 0;
      return host;
    }
    if (host + clusterSize > compressedLimit(geometry.clusterBits)) {
      this.image.releases.undo(host, clusterSize);
      throw new BlockError("EFBIG", "no room for compressed clusters at low offsets", {
        node: this.image.nodeName,
      });
    }
    if (!joins || host !== (current + 1) * clusterSize) return this.#take(host, length);
    // The claim may have loaded nothing: the block is still the one that was looked at.
    const again = refcounts.block(current);
    if (again === undefined || mustWait(again)) return this.#take(host, length);
    refcounts.write(again, index, count + 1);
    return this.#take(this.#next, length);
  }

  #take(at: number, length: number): number {
    this.#next = at + length;
    return at;
  }
}

/** Writes the cluster at `offset`; the last one of the disk may be short. Anything else is EINVAL. */
export async function writeCompressed(image: Image, offset: number, iov: IoVec): Promise<void> {
  const { clusterSize, externalData } = image.geometry;
  const end = offset + iov.total;
  if (externalData || image.cipher !== undefined) {
    throw new BlockError("ENOTSUP", "compressed clusters cannot be written to this image", {
      node: image.nodeName,
    });
  }
  if (offset % clusterSize !== 0 || (iov.total !== clusterSize && end !== image.size)) {
    throw new BlockError("EINVAL", "compressed writes are of whole clusters", {
      node: image.nodeName,
      offset,
    });
  }
  // Only here: later on, whoever closed the gate waits for this request.
  if (image.planning.gate !== undefined) await image.planning.gate;
  const { buffers } = image.context;
  const target = buffers.acquire(clusterSize);
  const padding = iov.total < clusterSize ? buffers.acquire(clusterSize - iov.total) : undefined;
  try {
    const whole = iov.slice(0, iov.total);
    if (padding !== undefined) {
      whole.add(padding.address, clusterSize - iov.total);
      zeroFill(image.context.sys, whole, iov.total);
    }
    const length = await image.codec.encode(image, whole, target.address);
    if (length === 0) await place(image, offset, 0, whole);
    else await place(image, offset, length, IoVec.of(target.address, length));
  } finally {
    buffers.release(target);
    if (padding !== undefined) buffers.release(padding);
  }
}

/** Waits until nobody else changes the cluster's entry, and its table is writable. */
async function enter(image: Image, offset: number) {
  const { tables, inFlight, geometry } = image;
  const cluster = offset / geometry.clusterSize;
  for (;;) {
    const table = Math.floor(offset / geometry.l2Coverage);
    const wait = image.markDirty() ??
      (tables.writable(table) ? inFlight.wait(cluster) : tables.make(table));
    if (wait === undefined) return inFlight.begin(cluster, 1);
    await wait;
  }
}

/** `length` bytes of a stream; 0: a cluster of plain data. */
async function place(image: Image, offset: number, length: number, iov: IoVec): Promise<void> {
  const { allocator, compressedSpace, file, inFlight, map, geometry, overlap } = image;
  const busy = await enter(image, offset);
  let host = -1;
  try {
    const claim = () => length === 0 ? allocator.claim(1) : compressedSpace.claim(length);
    let claimed = claim();
    while (mustWait(claimed)) {
      await claimed;
      claimed = claim();
    }
    host = claimed;
    overlap.check(host, iov.total, "data");
    image.codec.forget(host, iov.total);
    await file.write(host, iov, 0);
    await map.fetch(offset, (slot) => {
      const at = map.entryAt(slot!, offset);
      image.releases.checkEntry(at);
      image.releases.addEntry(at, "other");
      const { view } = map.cache;
      const high = length === 0
        ? highWord(host) | EntryHigh.copied
        : compressedHigh(host, length, geometry.clusterBits);
      view.setUint32(at, high >>> 0);
      view.setUint32(at + 4, lowWord(host));
      if (geometry.extendedL2) {
        view.setUint32(at + 8, 0);
        view.setUint32(at + 12, length === 0 ? 0xffffffff : 0);
      }
      map.changed(slot!, at);
    });
    image.commits.written();
  } catch (error) {
    if (host >= 0) image.releases.undo(host, iov.total);
    throw error;
  } finally {
    inFlight.end(busy);
  }
}
