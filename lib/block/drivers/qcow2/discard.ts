/**
 * Giving clusters back, late: their counts go down only when the metadata that dropped them is stable, and when
 * the requests that may still use them have ended. Until then nobody gets them, and nothing is punched. Those whose
 * pages clients may hold are not used before these are out of the page cache (sent.ts).
 */
import { alignDown, alignUp } from "../../../base/mod.ts";
import type { Slot } from "./cache.ts";
import { EntryHigh } from "./format.ts";
import type { Image } from "./image.ts";
import { hex } from "./map.ts";
import { AT_ONCE } from "./sent.ts";

/** Why clusters are given back: which of the options pass-discard-* decides about the file below. */
export type DiscardReason = "request" | "snapshot" | "other" | "never";

/** Clusters, in bytes of the image file. */
export interface Range {
  readonly offset: number;
  length: number;
  readonly reason: DiscardReason;
}

/** So many clusters are looked at, or given back, between two looks at the clock. */
const STRIDE = 1024;
/** More ranges than this, and a commit is due. */
const MANY = 1024;

/** The clusters on their way back. */
export class Releases {
  #pending: Range[] = [];
  readonly #applying = new Set<Promise<void>>();

  constructor(
    private readonly image: Image,
    private readonly settled: () => Promise<void> | undefined,
  ) {}

  get pending(): boolean {
    return this.#pending.length > 0;
  }

  /** One reference less to each cluster of the range, after the next commit. */
  add(offset: number, length: number, reason: DiscardReason): void {
    const range = this.#leaving(offset, length, reason);
    const last = this.#pending.at(-1);
    if (
      last !== undefined && last.offset + last.length === range.offset && last.reason === reason
    ) {
      last.length += range.length;
      return;
    }
    this.#pending.push(range);
    if (this.#pending.length >= MANY) this.image.commits.background();
  }

  /** Throws, and marks the image corrupt, if the entry at `at` of the map's view leads to metadata. */
  checkEntry(at: number): void {
    this.#ofEntry(at, (offset, length) => this.image.overlap.checkData(offset, length));
  }
  /** As `add`, of what the entry at `at` of the map's view leads to. */
  addEntry(at: number, reason: DiscardReason): void {
    this.#ofEntry(at, (offset, length) => this.add(offset, length, reason));
  }
  #ofEntry(at: number, act: (offset: number, length: number) => void): void {
    const { map, geometry: { externalData, clusterSize } } = this.image;
    if ((map.cache.view.getUint32(at) & EntryHigh.compressed) !== 0) {
      const { offset, length } = map.compressed(at);
      if (!Number.isNaN(offset)) act(offset, length);
      return;
    }
    const host = map.host(at);
    if (host === 0 || externalData) return;
    if (host % clusterSize === 0) act(host, clusterSize);
    else this.image.suspect(`Cannot free unaligned cluster ${hex(host)}`);
  }

  /** What the commit that begins now makes stable. */
  take(): readonly Range[] {
    const taken = this.#pending;
    this.#pending = [];
    return taken;
  }
  /** It failed. */
  back(ranges: readonly Range[]): void {
    this.#pending = [...ranges, ...this.#pending];
  }

  /** The metadata is stable: counts go down once everything that is in flight now has ended. */
  settle(ranges: readonly Range[]): void {
    if (ranges.length > 0) this.#detached(ranges, this.settled());
  }

  #detached(ranges: readonly Range[], wait: Promise<void> | undefined): void {
    const applying: Promise<void> = this.#apply(ranges, wait).catch((error) => {
      // What was not given back is a leak, which a check finds.
      this.image.context.log.warn(
        `node '${this.image.nodeName}': clusters could not be freed: ${String(error)}`,
      );
    }).finally(() => this.#applying.delete(applying));
    this.#applying.add(applying);
  }

  /** Clusters that nothing was ever led to, and where nothing is in flight: their counts go down at once. */
  undo(offset: number, length: number): void {
    this.#detached([this.#leaving(offset, length, "never")], undefined);
  }

  /** As `add`, at once: nothing stable leads there, and nothing is in flight there. */
  async now(offset: number, length: number, reason: DiscardReason): Promise<void> {
    const range = this.#leaving(offset, length, reason);
    await this.#apply([range], undefined);
  }

  /** The clusters of a range that are given back from now on: no stream may join them. */
  #leaving(offset: number, length: number, reason: DiscardReason): Range {
    const { geometry: { clusterSize }, compressedSpace } = this.image;
    const start = alignDown(offset, clusterSize);
    const range = { offset: start, length: alignUp(offset + length, clusterSize) - start, reason };
    compressedSpace.avoid(range.offset, range.length);
    return range;
  }

  /** Whether clusters are being given back right now. */
  get applying(): boolean {
    return this.#applying.size > 0;
  }
  /** Waits until all that was settled is applied. */
  async idle(): Promise<void> {
    while (this.#applying.size > 0) await Promise.all(this.#applying);
  }

  async #apply(ranges: readonly Range[], wait: Promise<void> | undefined): Promise<void> {
    if (wait !== undefined) await wait;
    const { sent, held } = this.image;
    if (held.due) await held.lookAgain();
    for (const range of ranges) {
      if (sent.any) await this.#applySent(range);
      else await this.#applyPlain(range.offset, range.length, this.#passes(range.reason));
    }
  }

  async #applyPlain(offset: number, length: number, passes: boolean): Promise<void> {
    if (passes) await this.#punch(offset, length);
    await this.#dropAll(offset, length);
  }

  /** The same where clients may hold pages. That takes its time: it goes in parts, and what is done is free. */
  async #applySent({ offset, length, reason }: Range): Promise<void> {
    const { sent, geometry: { clusterSize } } = this.image;
    const passes = this.#passes(reason);
    const zero = reason === "request";
    // Pages that are held may be zeroed by it.
    if (passes && zero) await this.#punch(offset, length);
    const leaving = !zero ? "contents" : passes ? "hole" : "zeroes";
    const end = offset + length;
    for (let at = offset; at < end;) {
      const next = sent.next(at / clusterSize, end / clusterSize) * clusterSize;
      if (next > at) {
        await this.#applyPlain(at, next - at, passes && !zero);
        at = next;
        continue;
      }
      const part = Math.min(AT_ONCE, end - at);
      await this.#lastOnes(
        at,
        part,
        (cluster) => sent.has(cluster),
        (start, bytes) => sent.release(start, bytes, leaving),
      );
      if (passes && !zero) await this.#punch(at, part, (cluster) => !sent.has(cluster));
      await this.#dropAll(at, part);
      at += part;
    }
  }

  /** Looks at clusters again that clients held, if it is time to. */
  lookAgain(): void {
    if (this.image.held.due) this.#detached([], undefined);
  }

  #passes(reason: DiscardReason): boolean {
    const { options } = this.image;
    switch (reason) {
      case "request":
        return options.passDiscardRequest;
      case "snapshot":
        return options.passDiscardSnapshot;
      case "other":
        return options.passDiscardOther;
      case "never":
        return false;
    }
  }

  /** Where a step from `cluster` on ends: in the same refcount block, and after not too many. */
  #stepEnd(cluster: number, end: number): number {
    const { refcountBlockEntries } = this.image.geometry;
    const block = cluster - cluster % refcountBlockEntries + refcountBlockEntries;
    return Math.min(end, block, cluster + STRIDE);
  }

  async #dropAll(offset: number, length: number): Promise<void> {
    const { geometry: { clusterSize }, refcounts, pace } = this.image;
    const end = (offset + length) / clusterSize;
    for (let first = offset / clusterSize; first < end;) {
      const stop = this.#stepEnd(first, end);
      await refcounts.fetch(first, (slot) => {
        for (let cluster = first; cluster < stop; cluster++) this.#dropIn(slot, cluster);
      });
      if (pace.tired) await pace.rest();
      first = stop;
    }
  }
  #dropIn(slot: Slot | undefined, cluster: number): void {
    const { refcounts, allocator, overlap, geometry, sent, held } = this.image;
    const count = slot === undefined
      ? 0
      : refcounts.read(slot, cluster % geometry.refcountBlockEntries);
    if (slot === undefined || count === 0) {
      this.image.context.log.warn(
        `node '${this.image.nodeName}': cluster at ${
          cluster * geometry.clusterSize
        } was free already`,
      );
      return;
    }
    if (count === 1) overlap.checkRelease(cluster);
    refcounts.set(slot, cluster, count - 1);
    if (count > 1) return;
    overlap.remove(cluster * geometry.clusterSize, 1);
    if (sent.has(cluster)) held.add(cluster);
    else allocator.freed(cluster);
  }

  /** Discards in the file below what only this release still holds. Advice: failures do not matter. */
  async #punch(
    offset: number,
    length: number,
    wanted: (cluster: number) => boolean = () => true,
  ): Promise<void> {
    await this.#lastOnes(offset, length, wanted, async (start, bytes) => {
      try {
        await this.image.file.discard(start, bytes);
      } catch {
        // The space stays allocated in the file.
      }
    });
  }

  /** Acts on what only this release still holds of the range, and `wanted` is true for. */
  async #lastOnes(
    offset: number,
    length: number,
    wanted: (cluster: number) => boolean,
    act: (offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    const { refcounts, overlap, pace, geometry } = this.image;
    const { clusterSize, refcountBlockEntries } = geometry;
    const end = (offset + length) / clusterSize;
    let start = offset / clusterSize;
    const runs: [number, number][] = [];
    for (let first = start; first < end;) {
      const stop = this.#stepEnd(first, end);
      await refcounts.fetch(first, (slot) => {
        for (let cluster = first; cluster < stop; cluster++) {
          const count = slot === undefined
            ? 0
            : refcounts.read(slot, cluster % refcountBlockEntries);
          if (count === 1 && wanted(cluster) && !overlap.inUse(cluster)) continue;
          if (cluster > start) runs.push([start, cluster]);
          start = cluster + 1;
        }
      });
      for (const [from, to] of runs) await act(from * clusterSize, (to - from) * clusterSize);
      runs.length = 0;
      if (pace.tired) await pace.rest();
      first = stop;
    }
    if (end > start) await act(start * clusterSize, (end - start) * clusterSize);
  }
}
