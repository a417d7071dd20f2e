/** Compares the counts on disk with what was counted, and corrects them in place. */
import { BlockError } from "../../../../base/mod.ts";
import { PAGE_CLUSTERS } from "./counts.ts";
import type { Findings } from "./find.ts";
import { getCount, type RefcountTable, setCount } from "./refcount_table.ts";
import type { CheckFix } from "./types.ts";

/** What a comparison found. */
export interface Comparison {
  leaks: number;
  corruptions: number;
  checkErrors: number;
  leaksFixed: number;
  corruptionsFixed: number;
  /** First byte behind the last cluster in use. */
  end: number;
}

/**
 * Compares every cluster's count. With `fix` those that are wrong are corrected on the way, block by block: each
 * single correction makes the image better, so a cut in the middle does no harm.
 */
export async function compareCounts(
  findings: Findings,
  table: RefcountTable,
  fix: CheckFix,
): Promise<Comparison> {
  return await new Comparing(findings, table, fix).run();
}

/** Clusters whose count is higher than what leads to them keep it, in a structure that is rebuilt as well. */
export async function keepCounts(findings: Findings, table: RefcountTable): Promise<void> {
  const { counts, clusters, geometry: { refcountBlockEntries: entries } } = findings;
  const { refcountOrder: order } = findings.header;
  for (let first = 0; first < clusters; first += entries) {
    const block = await blockOf(table, first / entries);
    if (block === "broken" || block === undefined) continue;
    const end = Math.min(clusters, first + entries);
    for (let cluster = first; cluster < end; cluster++) {
      const count = getCount(block, cluster - first, order);
      if (count > counts.get(cluster)) counts.set(cluster, count);
    }
  }
}

async function blockOf(
  table: RefcountTable,
  index: number,
): Promise<DataView | undefined | "broken"> {
  try {
    return await table.block(index);
  } catch (error) {
    if (error instanceof BlockError) return "broken";
    throw error;
  }
}

class Comparing {
  readonly #found: Comparison = {
    leaks: 0,
    corruptions: 0,
    checkErrors: 0,
    leaksFixed: 0,
    corruptionsFixed: 0,
    end: 0,
  };
  #highest = 0;

  constructor(
    private readonly findings: Findings,
    private readonly table: RefcountTable,
    private readonly fix: CheckFix,
  ) {}

  async run(): Promise<Comparison> {
    const { findings, table } = this;
    const { refcountBlockEntries: entries, clusterSize } = findings.geometry;
    const pages = findings.counts.pages();
    const last = pages.length === 0 ? 0 : (pages.at(-1)! + 1) * PAGE_CLUSTERS;
    for (let first = 0; first < Math.max(findings.clusters, last); first += entries) {
      const block = await blockOf(table, first / entries);
      if (block === "broken") this.#unreadable(first);
      else if (block === undefined) this.#withoutBlock(first);
      else if (this.#withBlock(first, block)) await table.writeBlock(first / entries, block);
    }
    this.#found.end = (this.#highest + 1) * clusterSize;
    return this.#found;
  }

  #unreadable(first: number): void {
    const { findings } = this;
    const last = Math.min(findings.clusters, first + findings.geometry.refcountBlockEntries);
    for (let cluster = first; cluster < last; cluster++) {
      this.#found.checkErrors++;
      findings.say(`Can't get refcount for cluster ${cluster}: Input/output error`);
    }
  }

  /** Only clusters that something leads to are of interest. */
  #withoutBlock(first: number): void {
    const { counts, geometry: { refcountBlockEntries: entries } } = this.findings;
    const end = first + entries;
    for (let cluster = first; cluster < end;) {
      const index = Math.floor(cluster / PAGE_CLUSTERS);
      const stop = Math.min(end, (index + 1) * PAGE_CLUSTERS);
      const page = counts.page(index);
      for (; page !== undefined && cluster < stop; cluster++) {
        const references = page[cluster % PAGE_CLUSTERS]!;
        if (references > 0) this.#differs(cluster, 0, references);
      }
      cluster = stop;
    }
  }

  /** Whether the block was changed. */
  #withBlock(first: number, block: DataView): boolean {
    const { counts, clusters, geometry, header: { refcountOrder: order } } = this.findings;
    let changed = false;
    for (let i = 0; i < geometry.refcountBlockEntries;) {
      const index = Math.floor((first + i) / PAGE_CLUSTERS);
      const stop = Math.min(geometry.refcountBlockEntries, (index + 1) * PAGE_CLUSTERS - first);
      const page = counts.page(index);
      for (; i < stop; i++) {
        const cluster = first + i;
        const references = page === undefined ? 0 : page[cluster % PAGE_CLUSTERS]!;
        // What lies behind the end of the file does no harm.
        if (cluster >= clusters && references === 0) continue;
        const count = getCount(block, i, order);
        if ((count | references) !== 0 && cluster > this.#highest) this.#highest = cluster;
        if (count !== references && this.#differs(cluster, count, references)) {
          setCount(block, i, order, references);
          changed = true;
        }
      }
    }
    return changed;
  }

  /** A count is wrong; whether to correct it. */
  #differs(cluster: number, count: number, references: number): boolean {
    const { findings, fix } = this;
    if (cluster > this.#highest) this.#highest = cluster;
    const leak = count > references;
    const mend = leak ? fix !== "none" && !findings.lost : fix === "all";
    const what = mend ? "Repairing" : leak ? "Leaked" : "ERROR";
    findings.say(`${what} cluster ${cluster} refcount=${count} reference=${references}`);
    // Something in use that counts as free may be given away: nothing can be allocated to mend this.
    if (count === 0) findings.rebuild = true;
    if (leak) this.#found[mend ? "leaksFixed" : "leaks"]++;
    else this.#found[mend ? "corruptionsFixed" : "corruptions"]++;
    return mend;
  }
}
