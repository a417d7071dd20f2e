/**
 * Which clusters of the image file hold metadata, so that no write goes where it must not: option overlap-check.
 * One look-up for each cluster written, so that all kinds can be looked after at no cost worth mentioning.
 */
import { entryOffset } from "./format.ts";
import type { Image } from "./image.ts";
import type { WordTable } from "./metadata.ts";
import type { MetadataKind } from "./types.ts";

/** As the original's messages call them. */
const NAMES: Partial<Record<MetadataKind, string>> = { header: "qcow2_header" };

/** Tables with more entries than this are kept apart: a Map of them would need many times their size. */
const MANY = 65536;

/** Clusters of one kind, many: sorted numbers. */
class ManyClusters {
  readonly #sorted: Float64Array;
  /** Those that do not hold the kind any more. */
  readonly #gone = new Set<number>();

  constructor(clusters: Float64Array, readonly kind: MetadataKind) {
    this.#sorted = clusters.sort();
  }
  has(cluster: number): boolean {
    let low = 0;
    let high = this.#sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#sorted[middle]! < cluster) low = middle + 1;
      else high = middle;
    }
    return this.#sorted[low] === cluster && !this.#gone.has(cluster);
  }
  remove(cluster: number): void {
    if (this.has(cluster)) this.#gone.add(cluster);
  }
}

/** Metadata by cluster. */
export class OverlapMap {
  readonly #kinds = new Map<number, MetadataKind>();
  #many: ManyClusters[] = [];
  readonly #clusterSize: number;

  constructor(private readonly image: Image) {
    this.#clusterSize = image.geometry.clusterSize;
  }

  /** What is known from the header and both tables in memory: first what is known best (see `add`). */
  fill(): void {
    const { header, l1, refcounts, geometry } = this.image;
    this.#kinds.clear();
    this.#many = [];
    this.add(0, geometry.clusterSize, "header");
    this.add(refcounts.tableOffset, refcounts.table.length * 8, "refcount table");
    this.add(l1.offset, l1.length * 8, "active L1 table");
    this.#addTargets(refcounts.table, "refcount block");
    this.#addTargets(l1.table, "active L2 table");
    if (header.snapshotCount > 0) this.add(header.snapshotsOffset, 1, "snapshot table");
    const { bitmaps } = header;
    if (bitmaps !== undefined) {
      this.add(bitmaps.directoryOffset, bitmaps.directorySize, "bitmap directory");
    }
  }

  /** Everything that a table leads to. */
  #addTargets(table: WordTable, kind: MetadataKind): void {
    let count = 0;
    for (let i = 0; i < table.length; i++) if (!table.isZero(i)) count++;
    const clusters = new Float64Array(count);
    for (let i = 0, next = 0; i < table.length; i++) {
      if (table.isZero(i)) continue;
      const host = entryOffset(table.high[i]!, table.low[i]!);
      clusters[next++] = Math.floor(host / this.#clusterSize);
    }
    if (count > MANY) this.#many.push(new ManyClusters(clusters, kind));
    else for (const cluster of clusters) this.#put(cluster, kind);
  }

  #kindOf(cluster: number): MetadataKind | undefined {
    const kind = this.#kinds.get(cluster);
    if (kind !== undefined || this.#many.length === 0) return kind;
    return this.#many.find((many) => many.has(cluster))?.kind;
  }

  /**
   * The clusters of [offset, offset + length) hold `kind` from now on. What is known to be something else already
   * stays that: in a damaged image one table may lead to another.
   */
  add(offset: number, length: number, kind: MetadataKind): void {
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let at = Math.floor(offset / this.#clusterSize); at < end; at++) this.#put(at, kind);
  }
  #put(cluster: number, kind: MetadataKind): void {
    const found = this.#kindOf(cluster);
    if (found === undefined || isInactive(found)) this.#kinds.set(cluster, kind);
  }

  /** A structure is not in use any more, and is to be given back. An L2 table may be a snapshot's until then. */
  retire(offset: number, length: number, kind: MetadataKind): void {
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let at = Math.floor(offset / this.#clusterSize); at < end; at++) {
      if (this.#kindOf(at) !== kind) continue;
      this.#forget(at);
      if (kind === "active L2 table") this.#kinds.set(at, "inactive L2 table");
    }
  }

  /** The clusters are free. */
  remove(offset: number, length: number): void {
    const end = Math.ceil((offset + length) / this.#clusterSize);
    for (let at = Math.floor(offset / this.#clusterSize); at < end; at++) this.#forget(at);
  }
  #forget(cluster: number): void {
    this.#kinds.delete(cluster);
    for (const many of this.#many) many.remove(cluster);
  }

  /** Throws (and marks the image corrupt) if a write of `kind` would hit something else that is looked after. */
  check(offset: number, length: number, kind: MetadataKind): void {
    const end = offset + length;
    for (let at = Math.floor(offset / this.#clusterSize); at * this.#clusterSize < end; at++) {
      const found = this.#kindOf(at);
      if (found !== undefined && found !== kind) this.#refuse(found, offset, length);
    }
  }

  #refuse(found: MetadataKind, offset: number, length: number): void {
    if (!this.image.options.overlapCheck.has(found)) return;
    // So QEMU says it, whatever was to be written.
    this.image.corrupt(
      `Preventing invalid write on metadata (overlaps with ${NAMES[found] ?? found})`,
      offset,
      length,
    );
  }

  /** Throws if clusters that are about to be taken hold metadata: their counts are wrong. */
  checkAllocation(cluster: number, count: number): void {
    for (let at = cluster; at < cluster + count; at++) {
      const found = this.#kindOf(at);
      if (found !== undefined) this.#refuseCluster("allocation", at, found);
    }
  }

  /** Throws if an entry calls clusters data that hold metadata: they would be given back with the data. */
  checkData(offset: number, length: number): void {
    const end = offset + length;
    for (let at = Math.floor(offset / this.#clusterSize); at * this.#clusterSize < end; at++) {
      const found = this.#kindOf(at);
      if (found !== undefined) this.#refuseCluster("release", at, found);
    }
  }

  /** Whether the cluster holds metadata in use, which is not given back while it does. */
  inUse(cluster: number): boolean {
    const found = this.#kindOf(cluster);
    return found !== undefined && !isInactive(found);
  }

  /** Throws if a cluster that is about to lose its last reference holds metadata in use. */
  checkRelease(cluster: number): void {
    if (this.inUse(cluster)) this.#refuseCluster("release", cluster, this.#kindOf(cluster)!);
  }

  #refuseCluster(what: "allocation" | "release", cluster: number, found: MetadataKind): never {
    const offset = cluster * this.#clusterSize;
    return this.image.corrupt(
      `Preventing invalid ${what} of a cluster at offset ${offset} ` +
        `(overlaps with ${NAMES[found] ?? found})`,
      offset,
      this.#clusterSize,
    );
  }
}

/** Whether it is a snapshot's, or may be nobody's. */
function isInactive(kind: MetadataKind): boolean {
  return kind === "inactive L1 table" || kind === "inactive L2 table";
}
