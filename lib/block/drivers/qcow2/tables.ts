/** New L2 tables: for guest ranges that have none, and in place of one that snapshots use, too. */
import { BlockError, IoVec } from "../../../base/mod.ts";
import type { Image } from "./image.ts";
import { mustWait } from "./waiting.ts";

/** Makes L2 tables writable. */
export class L2Tables {
  /** Those that are being made, by L1 index. */
  readonly #making = new Map<number, Promise<void>>();

  constructor(private readonly image: Image) {}

  /** Whether the table for L1 `index` is there and nobody else's. */
  writable(index: number): boolean {
    const { l1 } = this.image;
    return index < l1.length && l1.copied(index) && l1.target(index) !== 0;
  }

  /** Makes it so. */
  make(index: number): Promise<void> {
    const making = this.#making.get(index);
    if (making !== undefined) return making;
    const made = this.#make(index).finally(() => this.#making.delete(index));
    this.#making.set(index, made);
    return made;
  }

  async #make(index: number): Promise<void> {
    const { image } = this;
    const { l1, geometry, allocator, file, overlap } = image;
    const { clusterSize } = geometry;
    if (index >= l1.length) {
      throw new BlockError("EIO", "the L1 table is too short", { node: image.nodeName });
    }
    const old = l1.target(index);
    if (old % clusterSize !== 0) image.map.slice(index * geometry.l2Coverage); // tells and throws
    await image.markDirty();
    let host = allocator.claim(1);
    while (mustWait(host)) {
      await host;
      host = allocator.claim(1);
    }
    try {
      if (old !== 0) {
        await copyTable(image, old, host);
      } else {
        // Fresh or not: with room on the disk from now on, so that what it will hold can be written though the disk is full.
        await file.writeZeroes(host, clusterSize, 0);
      }
    } catch (error) {
      image.releases.undo(host, clusterSize);
      throw error;
    }
    const { cache } = image.map;
    const slices = clusterSize / cache.sliceSize;
    for (let i = 0; i < slices; i++) cache.move(index * slices + i, host + i * cache.sliceSize);
    l1.set(index, host, true);
    overlap.add(host, clusterSize, "active L2 table");
    if (old === 0) return;
    overlap.retire(old, clusterSize, "active L2 table");
    image.release(old, clusterSize, "other");
  }
}

/** The L2 table at `from` is at `to`, too. */
async function copyTable(
  { context: { buffers }, file, geometry: { clusterSize } }: Image,
  from: number,
  to: number,
): Promise<void> {
  const buffer = buffers.acquire(clusterSize);
  try {
    const bytes = IoVec.of(buffer.address, clusterSize);
    await file.read(from, bytes, 0);
    await file.write(to, bytes, 0);
  } finally {
    buffers.release(buffer);
  }
}
