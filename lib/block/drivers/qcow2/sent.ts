/**
 * Clusters whose data was sent from the page cache: their pages may still be in a client's socket, or in a pipe behind
 * it, and nobody tells when they are not. If such a cluster were given back and written to for another guest address,
 * the client would find that data in its reply. So its pages must be out of the page cache before it is used again:
 * then whoever holds them keeps what was there. `cachestat` tells whether they are.
 *
 * - The kernel drops pages that are written out and that nobody holds, when it is asked to. This changes nothing for
 *   anybody, so it comes first. A page that is part of a larger one goes only with all of that.
 * - Where the guest has asked for zeroes, or has discarded what was there, the range is zeroed, which takes away held
 *   pages, too. But of a page that is part of a larger one the kernel zeroes its part in place, and the client that
 *   holds it reads zeroes: what it may be told there, and nowhere else (a snapshot that is deleted changes no reply).
 *
 * What is held after that stays in the set. It is free and not allocated, and is looked at again later (held.ts). So
 * nothing waits for a client: one that never reads holds back no reopen, no snapshot and no end.
 *
 * This ends with the image. A reply that waits in the socket of a client that was hung up on may show what somebody
 * else, who opens the image later, writes to clusters that were given back then.
 */
import { alignDown, alignUp, assert } from "../../../base/mod.ts";
import { RequestFlag } from "../../mod.ts";
import type { Image } from "./image.ts";

/** Pages, where this works at all (lib/block/drivers/file/pages.ts). */
const PAGE = 4096;
/** Pages are at most this large, aligned as they are large. */
const LARGE_PAGE = 2 * 1024 * 1024;
/** Clusters of one part of the set, and most parts: 4 MiB, enough for 2 TiB in clusters of 64 KiB. */
const PART = 32768;
const MANY_PARTS = 1024;
/** Bytes whose pages are looked after with one call; a multiple of all cluster sizes. */
export const AT_ONCE = 4 * 1024 * 1024;
/** So often a range is zeroed at most. */
const ATTEMPTS = 3;

/**
 * What the clusters may hold afterwards: what they did, or zeroes, which whoever holds their pages may then read as
 * well, and which had better be a hole.
 */
export type Leaving = "contents" | "zeroes" | "hole";

/** What the set needs of its image. */
type Owner = Pick<Image, "file" | "geometry" | "readOnly">;

/** The set of one instance, as the next one can take it over: parts by index, a bit for each cluster. */
export type SentState = ReadonlyMap<number, Uint32Array>;

/** The set of one image. */
export class SentClusters {
  readonly #image: Owner;
  readonly #parts: Map<number, Uint32Array>;
  /** The part that was asked for last. */
  #index = -1;
  #part: Uint32Array | undefined;
  /** Whether it can be told what is in the page cache; undefined: to be found out. */
  #tells: boolean | undefined;
  /** Zeroes can be written to the file without pages. */
  #zeroes = true;

  constructor(image: Owner, state?: SentState) {
    this.#image = image;
    this.#parts = new Map(state);
  }

  /** Whether anything was ever sent. */
  get any(): boolean {
    return this.#parts.size > 0;
  }
  get state(): SentState {
    return this.#parts;
  }

  /** See FormatInstance. Also what is only read now may be written to after a reopen. */
  sending(at: number, length: number): boolean {
    const { readOnly, geometry: { clusterSize } } = this.#image;
    if (!this.#told && !readOnly) return false;
    const first = Math.floor(at / clusterSize);
    return this.#add(first, Math.ceil((at + length) / clusterSize));
  }

  /** Whether it can be told, by clusters, what is in the page cache. */
  get #told(): boolean {
    const { file, geometry: { clusterSize } } = this.#image;
    return this.#tells ??= clusterSize % PAGE === 0 && file.inPageCache(0, PAGE) !== undefined;
  }

  /** The file may be another one now, or have other options. */
  reopened(): void {
    this.#tells = undefined;
    this.#zeroes = true;
  }

  /**
   * Takes the pages of clusters, `length` bytes at `offset`, out of the page cache: their contents are needed no more.
   * Those that somebody may still hold afterwards stay in the set.
   */
  async release(offset: number, length: number, leaving: Leaving): Promise<void> {
    const { file, geometry: { clusterSize } } = this.#image;
    assert(offset % clusterSize === 0 && length % clusterSize === 0, "whole clusters");
    if (!this.#told || this.#gone(offset, length)) return;
    await file.dropPages(offset, length);
    if (this.#gone(offset, length)) return;
    const end = offset + length;
    for (let at = offset; at < end;) {
      const from = at;
      while (at < end && this.has(at / clusterSize)) at += clusterSize;
      if (at > from) {
        if (leaving === "contents") await this.#dropLarge(from, at);
        else await this.#zero(from, at - from, leaving === "hole");
        this.#gone(from, at - from);
      }
      at += clusterSize;
    }
  }

  /** Takes clusters out of the set that have no pages. Whether that was all of the range. */
  #gone(offset: number, length: number): boolean {
    const { clusterSize } = this.#image.geometry;
    if (!this.#cached(offset, length)) {
      this.#remove(offset / clusterSize, (offset + length) / clusterSize);
      return true;
    }
    for (let at = offset; length > clusterSize && at < offset + length; at += clusterSize) {
      const cluster = at / clusterSize;
      if (this.has(cluster) && !this.#cached(at, clusterSize)) this.#remove(cluster, cluster + 1);
    }
    return false;
  }

  #cached(offset: number, length: number): boolean {
    const inside = this.#inside(offset, length);
    return inside > 0 && this.#image.file.inPageCache(offset, inside) !== false;
  }

  /** How much of the range the file has, in whole pages: the last cluster may be written in part only. */
  #inside(offset: number, length: number): number {
    return alignUp(Math.max(0, Math.min(length, this.#image.file.size - offset)), PAGE);
  }

  async #zero(offset: number, length: number, unmap: boolean): Promise<void> {
    const { file } = this.#image;
    const inside = this.#inside(offset, length);
    const { noFallback, noPages, mayUnmap } = RequestFlag;
    try {
      for (let done = 0; done < ATTEMPTS && this.#zeroes; done++) {
        // A page that is part of a larger one is not taken away while that one is not written out.
        if (done > 0) await file.flush();
        await file.writeZeroes(offset, inside, noFallback | noPages | (unmap ? mayUnmap : 0));
        if (!this.#cached(offset, length)) return;
      }
    } catch {
      // They must be let go of, then.
      this.#zeroes = false;
    }
  }

  /** The pages of [start, end), as part of larger ones. */
  async #dropLarge(start: number, end: number): Promise<void> {
    const from = alignDown(start, LARGE_PAGE);
    await this.#image.file.dropPages(from, alignUp(end, LARGE_PAGE) - from);
  }

  /** Adds clusters from `first` up to `end`. False: there is no room for more. */
  #add(first: number, end: number): boolean {
    for (let cluster = first; cluster < end; cluster++) {
      const index = Math.floor(cluster / PART);
      let part = this.#of(index);
      if (part === undefined) {
        if (this.#parts.size >= MANY_PARTS) return false;
        part = this.#part = new Uint32Array(PART / 32);
        this.#parts.set(index, part);
      }
      const bit = cluster % PART;
      part[bit >>> 5]! |= 1 << (bit & 31);
    }
    return true;
  }

  /** Whether `cluster` may not be used for anything else. */
  has(cluster: number): boolean {
    if (this.#parts.size === 0) return false;
    const part = this.#of(Math.floor(cluster / PART));
    const bit = cluster % PART;
    return part !== undefined && (part[bit >>> 5]! & (1 << (bit & 31))) !== 0;
  }

  /** The first cluster in [first, end) that `has` is true for; `end`: none. */
  next(first: number, end: number): number {
    for (let cluster = first; cluster < end;) {
      const bit = cluster % PART;
      const part = this.#of(Math.floor(cluster / PART));
      if (part === undefined) cluster += PART - bit;
      else if (part[bit >>> 5]! >>> (bit & 31) === 0) cluster += 32 - (bit & 31);
      else if (this.has(cluster)) return cluster;
      else cluster++;
    }
    return end;
  }

  #remove(first: number, end: number): void {
    for (let cluster = first; cluster < end; cluster++) {
      const bit = cluster % PART;
      const part = this.#of(Math.floor(cluster / PART));
      if (part !== undefined) part[bit >>> 5]! &= ~(1 << (bit & 31));
    }
  }

  #of(index: number): Uint32Array | undefined {
    if (index !== this.#index) {
      this.#index = index;
      this.#part = this.#parts.get(index);
    }
    return this.#part;
  }
}
