/** What the steps of a check share: the image, what was found so far, and where to say it. */
import { alignUp, BlockError, MiB } from "../../../../base/mod.ts";
import { geometryOf } from "../format.ts";
import type { Header } from "../header.ts";
import type { Geometry } from "../types.ts";
import { CountBudget, CountMap } from "./counts.ts";
import { type CheckFile, type CheckOptions, type CheckResult, emptyResult } from "./types.ts";

/** Clusters behind the end of the file, beside as many as it has, that a repair may come to use. */
const NEAR = 4096;
/** More clusters than this are not checked (the original's bound); it also bounds time and memory. */
const MAX_CLUSTERS = 2 ** 31 - 1;
/** Findings beyond this are counted, but not said one by one. */
const MAX_LINES = 100_000;
/** Bytes of a table that are read at once. */
const PART = MiB;
/** Bytes of tables beyond the length of the file that are looked at. */
const OVERLAP = 64 * MiB;

/** One check. */
export class Findings {
  readonly geometry: Geometry;
  /** Length of the file when the check began, and its clusters. */
  readonly fileSize: number;
  readonly clusters: number;
  readonly result: CheckResult = emptyResult();
  /** What leads to each cluster. */
  readonly counts: CountMap;
  readonly budget: CountBudget;
  /** What leads to clusters behind the end of the file, but near it: a repair may grow the file up to them. */
  readonly beyond: CountMap;
  /** The reference count structure itself is broken: it cannot be mended in place. */
  rebuild = false;
  /** A table cannot be followed: what it leads to looks leaked, and is not. */
  lost = false;
  #lines = 0;
  /** Bytes of tables that `words` went through. */
  #words = 0;

  constructor(
    readonly file: CheckFile,
    readonly header: Header,
    readonly options: CheckOptions,
  ) {
    this.geometry = geometryOf(header);
    this.fileSize = file.size;
    this.clusters = Math.ceil(this.fileSize / this.geometry.clusterSize);
    this.budget = new CountBudget(options.memory);
    this.counts = new CountMap(this.budget);
    this.beyond = new CountMap(this.budget);
    this.result.totalClusters = Math.ceil(header.size / this.geometry.clusterSize);
    if (this.clusters > MAX_CLUSTERS) {
      this.result.checkErrors++;
      throw new BlockError("EFBIG", "File too large");
    }
  }

  /** A finding, in the original's words. */
  say(line: string): void {
    if (this.#lines++ < MAX_LINES) this.options.say?.(line);
    else if (this.#lines === MAX_LINES + 1) this.options.say?.("More findings are only counted");
  }

  /** An error of the image, met `weight` times. */
  corrupt(line: string, weight = 1): void {
    this.result.corruptions += weight;
    this.say(line);
  }

  /** An error that a repair mends at once, once however often it is met; whether it is to be (`mend`). */
  mendable(what: string, weight = 1, mend: boolean = this.options.fix === "all"): boolean {
    this.say(`${mend ? "Repairing" : "ERROR"} ${what}`);
    if (!mend) this.result.corruptions += weight;
    return mend;
  }

  /** Counts `weight` references to each cluster of [offset, offset + size); false when outside of the file. */
  reference(offset: number, size: number, weight = 1): boolean {
    if (size <= 0) return true;
    const { clusterSize, refcountMax } = this.geometry;
    if (offset + size - this.fileSize >= clusterSize) {
      const where = `offset 0x${offset.toString(16)} size 0x${size.toString(16)}`;
      this.corrupt(
        "ERROR: counting reference for region exceeding the end of the file by one cluster " +
          `or more: ${where}`,
        weight,
      );
      this.#behind(offset, size, weight);
      return false;
    }
    const last = Math.floor((offset + size - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) {
      if (this.counts.add(cluster, weight, refcountMax)) continue;
      this.corrupt(`ERROR: overflow cluster offset=0x${(cluster * clusterSize).toString(16)}`);
      this.say(
        "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create " +
          "a clean copy if the image cannot be opened for writing",
      );
    }
    return true;
  }

  /** Clusters and L2 tables: a guest could write to them. */
  #behind(offset: number, size: number, weight: number): void {
    const { geometry: { clusterSize, refcountMax }, clusters } = this;
    if (size > 2 * clusterSize) return;
    const first = Math.max(clusters, Math.floor(offset / clusterSize));
    const last = Math.min(2 * clusters + NEAR, Math.floor((offset + size - 1) / clusterSize));
    for (let cluster = first; cluster <= last; cluster++) {
      this.beyond.add(cluster, weight, refcountMax);
    }
  }

  /** Reads a table of `length` bytes; holes are not read. Undefined: all zero. */
  async table(offset: number, length: number): Promise<DataView | undefined> {
    if (length === 0 || offset >= this.fileSize) return undefined;
    if (await this.file.isHole(offset, Math.min(length, this.fileSize - offset))) return undefined;
    const bytes = new Uint8Array(length);
    await this.file.read(offset, bytes);
    return new DataView(bytes.buffer);
  }

  /**
   * Visits the entries, of 8 bytes each, of a table of any length. What all such tables hold together is bounded
   * by the length of the file, since they may not overlap.
   */
  async words(
    offset: number,
    entries: number,
    visit: (high: number, low: number, index: number) => void,
  ): Promise<void> {
    const length = Math.min(entries * 8, Math.max(0, this.fileSize - offset));
    this.#words += length;
    if (this.#words > this.fileSize + OVERLAP) {
      this.result.checkErrors++;
      this.say("ERROR: tables overlap; not all of them were checked");
      return;
    }
    for (let at = 0; at < length; at += PART) {
      const view = await this.table(offset + at, Math.min(PART, alignUp(length - at, 8)));
      if (view === undefined) continue;
      for (let i = 0; i < view.byteLength; i += 8) {
        const high = view.getUint32(i), low = view.getUint32(i + 4);
        if ((high | low) !== 0) visit(high, low, (at + i) / 8);
      }
    }
  }
}
