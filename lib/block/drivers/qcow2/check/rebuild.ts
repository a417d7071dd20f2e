/**
 * Makes a new reference count structure beside the old one, in clusters that nothing leads to, and then switches
 * the header over: until that one write the image is as it was.
 */
import { BlockError } from "../../../../base/mod.ts";
import { Bounds } from "../format.ts";
import { PAGE_CLUSTERS } from "./counts.ts";
import type { Findings } from "./find.ts";
import { setCount } from "./refcount_table.ts";

/** Where the new table is. */
export interface Rebuilt {
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
}

/** Offset in the header of the table's offset (8 bytes) and its clusters (4 bytes). */
const HEADER_TABLE = 48;

/** Builds it from the counts of `findings`, which are then those of the new structure. Throws BlockError. */
export async function rebuildRefcounts(findings: Findings): Promise<Rebuilt> {
  return await new Rebuilding(findings).run();
}

/** The first `clusters` clusters in a row, from `first` on, that nothing leads to; they count one now. */
export function takeClusters(
  { counts, beyond }: Findings,
  clusters: number,
  first = 1,
): number {
  for (let found = 0; found < clusters;) {
    if (counts.get(first + found) + beyond.get(first + found) === 0) found++;
    else {
      first += found + 1;
      found = 0;
    }
  }
  for (let i = 0; i < clusters; i++) counts.set(first + i, 1);
  return first;
}

class Rebuilding {
  /** Cluster of each block, by its place in the table. */
  readonly #blocks = new Map<number, number>();
  #next = 1;
  #tableAt = 0;
  #tableClusters = 0;

  constructor(private readonly findings: Findings) {}

  async run(): Promise<Rebuilt> {
    const { findings } = this;
    const { file, geometry: { clusterSize } } = findings;
    // The file may grow up to what leads behind its end.
    for (const [cluster, weight] of findings.beyond.entries()) {
      findings.counts.add(cluster, weight, findings.geometry.refcountMax);
    }
    this.#place();
    const table = new Uint8Array(this.#tableClusters * clusterSize);
    const view = new DataView(table.buffer);
    for (const [index, cluster] of this.#blocks) {
      await file.write(cluster * clusterSize, this.#content(index));
      view.setBigUint64(index * 8, BigInt(cluster * clusterSize));
    }
    const offset = this.#tableAt * clusterSize;
    await file.write(offset, table);
    await file.flush();
    const field = new DataView(new ArrayBuffer(12));
    field.setBigUint64(0, BigInt(offset));
    field.setUint32(8, this.#tableClusters);
    await file.write(HEADER_TABLE, new Uint8Array(field.buffer));
    await file.flush();
    return { refcountTableOffset: offset, refcountTableClusters: this.#tableClusters };
  }

  /** Finds room for all blocks and the table. These are clusters themselves and may need further blocks. */
  #place(): void {
    const { counts, geometry: { refcountBlockEntries: entries, clusterSize } } = this.findings;
    const perPage = Math.max(1, PAGE_CLUSTERS / entries);
    for (const page of counts.pages()) {
      for (let part = 0; part < perPage; part++) {
        const first = page * PAGE_CLUSTERS + part * (PAGE_CLUSTERS / perPage);
        if (this.#used(first, PAGE_CLUSTERS / perPage)) this.#need(Math.floor(first / entries));
      }
    }
    for (;;) {
      let highest = 0;
      for (const index of this.#blocks.keys()) highest = Math.max(highest, index);
      const clusters = Math.ceil(((highest + 1) * 8) / clusterSize);
      if (clusters * clusterSize > Bounds.maxRefcountTableBytes) {
        throw new BlockError("EFBIG", "File too large");
      }
      if (clusters <= this.#tableClusters) return;
      for (let i = 0; i < this.#tableClusters; i++) counts.set(this.#tableAt + i, 0);
      this.#tableAt = this.#take(clusters);
      this.#tableClusters = clusters;
      for (let i = 0; i < clusters; i++) this.#need(Math.floor((this.#tableAt + i) / entries));
    }
  }

  #used(first: number, length: number): boolean {
    const page = this.findings.counts.page(Math.floor(first / PAGE_CLUSTERS))!;
    const at = first % PAGE_CLUSTERS;
    for (let i = at; i < at + length; i++) if (page[i] !== 0) return true;
    return false;
  }

  /** Makes sure that there is a block `index`, and blocks for the blocks. */
  #need(index: number): void {
    const { refcountBlockEntries: entries } = this.findings.geometry;
    while (!this.#blocks.has(index)) {
      const cluster = this.#take(1);
      this.#blocks.set(index, cluster);
      index = Math.floor(cluster / entries);
    }
  }

  #take(clusters: number): number {
    const first = takeClusters(this.findings, clusters, clusters === 1 ? this.#next : 1);
    if (clusters === 1) this.#next = first + 1;
    return first;
  }

  #content(index: number): Uint8Array {
    const { counts, header, geometry: { refcountBlockEntries: entries, clusterSize } } =
      this.findings;
    const bytes = new Uint8Array(clusterSize);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < entries; i++) {
      const count = counts.get(index * entries + i);
      if (count !== 0) setCount(view, i, header.refcountOrder, count);
    }
    return bytes;
  }
}
