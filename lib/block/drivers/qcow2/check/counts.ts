/** Counts of clusters: pages on demand, as narrow as the largest count in them, within a bound of memory. */
import { BlockError, GiB } from "../../../../base/mod.ts";

/** Clusters of one page. */
export const PAGE_CLUSTERS = 4096;
type Page = Uint8Array | Uint32Array | Float64Array;
const MAX_OF_BYTE = 255;
const MAX_OF_WORD = 2 ** 32 - 1;

/** What several maps may use together, in bytes. */
export class CountBudget {
  #left: number;
  constructor(bytes = GiB) {
    this.#left = bytes;
  }
  /** Throws BlockError ENOMEM when nothing is left. */
  take(bytes: number): void {
    this.#left -= bytes;
    if (this.#left < 0) {
      throw new BlockError("ENOMEM", "Cannot allocate memory for the reference counts");
    }
  }
}

/** A count for each cluster; those that were never touched are zero. */
export class CountMap {
  readonly #pages = new Map<number, Page>();
  #lastIndex = -1;
  #last: Page | undefined;

  constructor(private readonly budget: CountBudget) {}

  #page(index: number): Page | undefined {
    if (index === this.#lastIndex) return this.#last;
    this.#lastIndex = index;
    return this.#last = this.#pages.get(index);
  }

  #make(index: number, page: Page): Page {
    this.budget.take(page.byteLength);
    this.#pages.set(index, page);
    this.#lastIndex = index;
    return this.#last = page;
  }

  /** The count of a cluster. */
  get(cluster: number): number {
    const page = this.#page(Math.floor(cluster / PAGE_CLUSTERS));
    return page === undefined ? 0 : page[cluster % PAGE_CLUSTERS]!;
  }

  set(cluster: number, count: number): void {
    const index = Math.floor(cluster / PAGE_CLUSTERS);
    let page = this.#page(index) ?? this.#make(index, new Uint8Array(PAGE_CLUSTERS));
    if (count > MAX_OF_BYTE && page instanceof Uint8Array) {
      page = this.#make(index, Uint32Array.from(page));
    }
    if (count > MAX_OF_WORD && page instanceof Uint32Array) {
      page = this.#make(index, Float64Array.from(page));
    }
    page[cluster % PAGE_CLUSTERS] = count;
  }

  /** Adds to a count, up to `max`; false where it would have been more. */
  add(cluster: number, weight: number, max: number): boolean {
    const count = this.get(cluster) + weight;
    this.set(cluster, Math.min(count, max));
    return count <= max;
  }

  /** The counts of PAGE_CLUSTERS clusters from `index` * PAGE_CLUSTERS on; undefined: all are zero. */
  page(index: number): Readonly<Page> | undefined {
    return this.#pages.get(index);
  }

  /** Numbers of the pages that were touched, in order. */
  pages(): number[] {
    return [...this.#pages.keys()].sort((a, b) => a - b);
  }

  /** Clusters with a count, in order, with their counts. */
  *entries(): Generator<readonly [number, number]> {
    for (const index of this.pages()) {
      const page = this.#pages.get(index)!;
      for (let i = 0; i < PAGE_CLUSTERS; i++) {
        if (page[i] !== 0) yield [index * PAGE_CLUSTERS + i, page[i]!];
      }
    }
  }
}
