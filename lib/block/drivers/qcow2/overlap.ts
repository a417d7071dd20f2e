/**
 * Which clusters of the image file hold metadata, so that no write goes where it must not: option overlap-check.
 * One look-up for each cluster written, so that all kinds can be looked after at no cost worth mentioning.
 */
import type { Image } from "./image.ts";
import type { MetadataKind } from "./types.ts";

/** As the original's messages call them. */
const NAMES: Partial<Record<MetadataKind, string>> = { header: "qcow2_header" };

/** Metadata by cluster. */
export class OverlapMap {
  readonly #kinds = new Map<number, MetadataKind>();
  readonly #clusterSize: number;

  constructor(private readonly image: Image) {
    this.#clusterSize = image.geometry.clusterSize;
  }

  /** What is known from the header and both tables in memory. */
  fill(): void {
    const { header, l1, refcounts, geometry } = this.image;
    this.#kinds.clear();
    this.add(0, geometry.clusterSize, "header");
    for (let i = 0; i < l1.length; i++) {
      if (!l1.table.isZero(i)) this.add(l1.target(i), 1, "active L2 table");
    }
    const { table } = refcounts;
    for (let i = 0; i < table.length; i++) {
      if (!table.isZero(i)) {
        const host = Number(table.entry(i) & ~0x1ffn);
        this.add(host, 1, "refcount block");
      }
    }
    this.add(l1.offset, l1.length * 8, "active L1 table");
    this.add(refcounts.tableOffset, table.length * 8, "refcount table");
    if (header.snapshotCount > 0) this.add(header.snapshotsOffset, 1, "snapshot table");
    const { bitmaps } = header;
    if (bitmaps !== undefined) {
      this.add(bitmaps.directoryOffset, bitmaps.directorySize, "bitmap directory");
    }
  }

  /** The clusters of [offset, offset + length) hold `kind` from now on. */
  add(offset: number, length: number, kind: MetadataKind): void {
    if (kind === "data") return;
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let at = Math.floor(offset / this.#clusterSize); at < end; at++) this.#kinds.set(at, kind);
  }

  /** They hold nothing, or data. */
  remove(offset: number, length: number): void {
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let at = Math.floor(offset / this.#clusterSize); at < end; at++) this.#kinds.delete(at);
  }

  /** Throws (and marks the image corrupt) if a write of `kind` would hit something else that is looked after. */
  check(offset: number, length: number, kind: MetadataKind): void {
    const end = offset + length;
    for (let at = Math.floor(offset / this.#clusterSize); at * this.#clusterSize < end; at++) {
      const found = this.#kinds.get(at);
      if (found !== undefined && found !== kind) this.#refuse(found, offset, length, kind);
    }
  }

  #refuse(found: MetadataKind, offset: number, length: number, kind: MetadataKind): void {
    if (!this.image.options.overlapCheck.has(found)) return;
    const what = kind === "data" ? "data" : "metadata";
    this.image.corrupt(
      `Preventing invalid write on ${what} (overlaps with ${NAMES[found] ?? found})`,
      offset,
      length,
    );
  }

  /** Throws if clusters that are about to be taken hold metadata: their counts are wrong. */
  checkAllocation(cluster: number, count: number): void {
    for (let at = cluster; at < cluster + count; at++) {
      const found = this.#kinds.get(at);
      if (found === undefined) continue;
      this.image.corrupt(
        `Preventing invalid allocation of a cluster at offset ${at * this.#clusterSize} ` +
          `(overlaps with ${NAMES[found] ?? found})`,
        at * this.#clusterSize,
        this.#clusterSize,
      );
    }
  }
}
