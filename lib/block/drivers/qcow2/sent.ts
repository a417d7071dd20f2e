/**
 * Clusters whose data was sent from the page cache: their pages may still be in a client's socket, or in a pipe behind
 * it, and nobody tells when they are not. If such a cluster were given back and written to for another guest address,
 * the client would find that data in its reply. So the pages are replaced first: zeroing a range takes its pages out of
 * the page cache, and whoever holds them keeps what they held (or zeroes). The kernel does not do so with a page that
 * is part of a larger dirty folio; so it is asked afterwards whether any page is left, and if one is, the data is
 * flushed and zeroed again.
 *
 * What cannot be replaced stays free and is not allocated as long as the image is open. That is no more than had been
 * sent by then, since nothing is sent after the first failure. Nothing waits for a client: one that never reads holds
 * back no reopen, no snapshot and no end.
 *
 * This ends with the image. A reply that waits in the socket of a client that was hung up on may show what somebody
 * else, who opens the image later, writes to clusters that were given back then.
 */
import { assert } from "../../../base/mod.ts";
import { RequestFlag } from "../../mod.ts";
import type { Image } from "./image.ts";

/** Pages, where this works at all: see Transfer.isCached. */
const PAGE = 4096;
/** Clusters of one part of the set, and most parts: 4 MiB, enough for 2 TiB in clusters of 64 KiB. */
const PART = 32768;
const MANY_PARTS = 1024;
/** So often the pages of a range are replaced before it is given up. */
const ATTEMPTS = 3;

/** What the set needs of its image. */
type Owner = Pick<Image, "file" | "geometry" | "context" | "nodeName" | "readOnly">;

/** The set of one instance, as the next one can take it over: parts by index, a bit for each cluster. */
export type SentState = ReadonlyMap<number, Uint32Array>;

/** The set of one image. */
export class SentClusters {
  readonly #image: Owner;
  readonly #parts: Map<number, Uint32Array>;
  /** The part that was asked for last. */
  #index = -1;
  #part: Uint32Array | undefined;
  /** Whether pages can be replaced; undefined: to be found out. */
  #replaces: boolean | undefined;

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
    if (!this.#canReplace && !readOnly) return false;
    const first = Math.floor(at / clusterSize);
    return this.#add(first, Math.ceil((at + length) / clusterSize));
  }

  get #canReplace(): boolean {
    const { file, geometry: { clusterSize } } = this.#image;
    return this.#replaces ??= clusterSize % PAGE === 0 && file.inPageCache(0, PAGE) !== undefined;
  }

  /** The file may be another one now, or have other options. */
  reopened(): void {
    this.#replaces = undefined;
  }

  /**
   * Replaces the pages of clusters, `length` bytes at `offset`, whose contents are needed no more. `unmap`: they
   * had better become a hole. Where that fails they stay in the set.
   */
  async replace(offset: number, length: number, unmap: boolean): Promise<void> {
    if (!this.#canReplace) return;
    const { file, geometry: { clusterSize } } = this.#image;
    // The last cluster of the file may be written in part only.
    const inside = Math.min(length, file.size - offset);
    try {
      if (inside > 0 && !await this.#replacePages(offset, inside, unmap)) {
        throw new Error("pages stay in the page cache");
      }
      this.#remove(offset / clusterSize, (offset + length) / clusterSize);
    } catch (error) {
      this.#givesUp(String(error));
    }
  }

  async #replacePages(offset: number, length: number, unmap: boolean): Promise<boolean> {
    assert(offset % PAGE === 0, "clusters are whole pages");
    const { file } = this.#image;
    const { noFallback, noPages, mayUnmap } = RequestFlag;
    for (let attempt = 0; file.inPageCache(offset, length) !== false; attempt++) {
      if (attempt === ATTEMPTS) return false;
      if (attempt > 0) await file.flush();
      await file.writeZeroes(offset, length, noFallback | noPages | (unmap ? mayUnmap : 0));
    }
    return true;
  }

  /** It is as if nothing could be replaced: nothing is sent any more. */
  #givesUp(why: string): void {
    if (this.#replaces === false) return;
    this.#replaces = false;
    const { context, nodeName } = this.#image;
    context.log.warn(
      `node '${nodeName}': clusters that were sent to clients are not used again until the image is opened anew, ` +
        `and data is copied from now on: ${why}`,
    );
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
