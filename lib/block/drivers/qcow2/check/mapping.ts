/**
 * References of the mapping: L1 tables, L2 tables, clusters. Tables that several entries lead to (snapshots share
 * them) are looked at once, with the number of their entries as weight: time is bounded by the length of the file,
 * not by what an image claims.
 */
import { MiB } from "../../../../base/mod.ts";
import {
  compressedLength,
  compressedOffset,
  EntryHigh,
  EntryLow,
  entryOffset,
  entryReserved,
  l1Reserved,
} from "../format.ts";
import { CountMap } from "./counts.ts";
import type { Findings } from "./find.ts";

/** Bytes of L2 tables at broken (unaligned) offsets that are looked at; they may overlap without end. */
const MAX_UNALIGNED = 64 * MiB;

/** How many entries lead to a table. */
export interface Weights {
  /** From all L1 tables, the active one included. */
  all: number;
  /** From the active L1 table. */
  active: number;
}

/** An entry as hexadecimal. */
export function entryText(high: number, low: number): string {
  return ((BigInt(high >>> 0) << 32n) | BigInt(low >>> 0)).toString(16);
}

/** Gathers L2 tables from L1 tables, then counts what they lead to. */
export class Mapping {
  readonly #all: CountMap;
  /** How many entries of the active L1 table lead to the L2 table in a cluster. */
  readonly active: CountMap;
  /** The same for L2 tables at broken offsets, by offset. */
  readonly unaligned = new Map<number, Weights>();

  constructor(private readonly findings: Findings) {
    this.#all = new CountMap(findings.budget);
    this.active = new CountMap(findings.budget);
  }

  /** Counts an L1 table and its entries; `weight` L1 tables are this one. */
  async table(offset: number, entries: number, active: boolean, weight = 1): Promise<void> {
    const { findings } = this;
    if (!findings.reference(offset, entries * 8, weight)) findings.lost = true;
    await findings.words(offset, entries, (high, low) => this.#l1Entry(high, low, active, weight));
  }

  #l1Entry(high: number, low: number, active: boolean, weight: number): void {
    const { findings } = this;
    const { clusterSize } = findings.geometry;
    const offset = entryOffset(high, low);
    if (l1Reserved(high, low)) {
      findings.corrupt(
        `ERROR found L1 entry with reserved bits set: ${entryText(high, low)}`,
        weight,
      );
    }
    const inside = findings.reference(offset, clusterSize, weight);
    if (offset % clusterSize !== 0) {
      findings.corrupt(
        `ERROR l2_offset=${offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`,
        weight,
      );
      findings.lost = true;
      const weights = this.unaligned.get(offset) ?? { all: 0, active: 0 };
      weights.all += weight;
      if (active) weights.active += weight;
      this.unaligned.set(offset, weights);
    } else if (inside) {
      this.#all.add(offset / clusterSize, weight, Number.MAX_SAFE_INTEGER);
      if (active) this.active.add(offset / clusterSize, weight, Number.MAX_SAFE_INTEGER);
    } else findings.lost = true;
  }

  /** Whether the cluster is an L2 table and nothing else, so that it may be written to. */
  owns(cluster: number): boolean {
    return this.findings.counts.get(cluster) === this.#all.get(cluster);
  }

  /** Counts what the L2 tables that were gathered lead to. */
  async clusters(): Promise<void> {
    const { clusterSize } = this.findings.geometry;
    for (const [cluster, all] of this.#all.entries()) {
      await this.#l2Table(cluster * clusterSize, { all, active: this.active.get(cluster) });
    }
    let left = MAX_UNALIGNED;
    for (const [offset, weights] of this.unaligned) {
      left -= clusterSize;
      if (left < 0) break;
      await this.#l2Table(offset, weights);
    }
  }

  async #l2Table(offset: number, weights: Weights): Promise<void> {
    const { findings } = this;
    const { clusterSize } = findings.geometry;
    const view = await findings.table(offset, clusterSize);
    if (view === undefined) return;
    // What is something else, too, is not written to.
    const own = offset % clusterSize === 0 && this.owns(offset / clusterSize);
    if (new L2Check(findings, view, weights, own).run()) {
      await findings.file.write(offset, new Uint8Array(view.buffer));
    }
  }
}

/** One L2 table. */
class L2Check {
  /** Where the cluster after the last one would lie; clusters elsewhere are fragmented. */
  #next = 0;
  #changed = false;
  readonly #clusterBits: number;

  constructor(
    private readonly findings: Findings,
    private readonly view: DataView,
    private readonly weights: Weights,
    /** It may be mended. */
    private readonly own: boolean,
  ) {
    this.#clusterBits = findings.header.clusterBits;
  }

  /** Whether the table was mended and is to be written. */
  run(): boolean {
    const { view } = this;
    const { l2EntrySize, extendedL2 } = this.findings.geometry;
    for (let at = 0; at < view.byteLength; at += l2EntrySize) {
      const high = view.getUint32(at), low = view.getUint32(at + 4);
      if ((high & EntryHigh.compressed) !== 0) this.#compressed(at, high, low);
      else if ((high | low) !== 0 || extendedL2) this.#standard(at, high, low);
    }
    return this.#changed;
  }

  #compressed(at: number, high: number, low: number): void {
    const { findings, weights, view } = this;
    const { extendedL2, externalData, l2EntrySize } = findings.geometry;
    const offset = compressedOffset(high, low, this.#clusterBits);
    if (high >= EntryHigh.copied) {
      findings.corrupt(
        `ERROR: coffset=0x${offset.toString(16)}: copied flag must never be set for compressed ` +
          "clusters",
        weights.all,
      );
    }
    const entry = `entry=0x${entryText(high & ~EntryHigh.copied, low)}`;
    const cluster = `ERROR compressed cluster ${at / l2EntrySize} with`;
    if (externalData) {
      return findings.corrupt(`${cluster} data file, ${entry}`, weights.all);
    }
    if (extendedL2 && (view.getUint32(at + 8) | view.getUint32(at + 12)) !== 0) {
      return findings.corrupt(
        `${cluster} non-zero subcluster allocation bitmap, ${entry}`,
        weights.all,
      );
    }
    findings.reference(offset, compressedLength(high, low, this.#clusterBits), weights.all);
    // They are never read together with their neighbours.
    const { result } = findings;
    result.allocatedClusters += weights.active;
    result.compressedClusters += weights.active;
    result.fragmentedClusters += weights.active;
  }

  #standard(at: number, high: number, low: number): void {
    const { findings, weights, view } = this;
    const { extendedL2, externalData, clusterSize, version } = findings.geometry;
    const offset = entryOffset(high, low);
    if (entryReserved(high, low)) {
      findings.corrupt(
        `ERROR found l2 entry with reserved bits set: ${entryText(high, low)}`,
        weights.all,
      );
    }
    const allocated = extendedL2 ? view.getUint32(at + 12) : 0;
    const zeroes = extendedL2 ? view.getUint32(at + 8) : 0;
    // Only an external data file has a cluster at offset 0.
    const there = offset !== 0 || (externalData && high >= EntryHigh.copied);
    if (!there) {
      if (allocated !== 0) {
        findings.corrupt(
          "ERROR: Unallocated cluster has non-zero subcluster allocation map",
          weights.all,
        );
      }
      return;
    }
    if ((allocated & zeroes) !== 0) {
      findings.corrupt(
        `ERROR offset=${offset.toString(16)}: Allocated cluster has corrupted subcluster ` +
          "allocation bitmap",
        weights.all,
      );
    }
    const preallocated = extendedL2
      ? allocated === 0
      : version === 3 && (low & EntryLow.zero) !== 0;
    if (offset % clusterSize !== 0 && this.#unaligned(at, offset, preallocated)) return;
    this.#count(offset);
  }

  /** A cluster that is not at a cluster; whether it was mended. What holds no data can be mended. */
  #unaligned(at: number, offset: number, preallocated: boolean): boolean {
    const { findings, weights, view } = this;
    const kind = preallocated ? "Preallocated" : "Data";
    const what = `offset=${offset.toString(16)}: ${kind} cluster is not properly aligned; L2 ` +
      "entry corrupted.";
    if (!preallocated) {
      findings.corrupt(`ERROR ${what}`, weights.all);
      return false;
    }
    const mend = this.own && findings.options.fix === "all";
    if (!findings.mendable(what, weights.all, mend)) return false;
    view.setUint32(at, 0);
    view.setUint32(at + 4, findings.geometry.extendedL2 ? 0 : EntryLow.zero);
    this.#changed = true;
    findings.result.corruptionsFixed++;
    return true;
  }

  #count(offset: number): void {
    const { findings, weights } = this;
    const { clusterSize, externalData } = findings.geometry;
    if (weights.active > 0) {
      findings.result.allocatedClusters += weights.active;
      if (this.#next !== 0 && offset !== this.#next) {
        findings.result.fragmentedClusters += weights.active;
      }
      this.#next = offset + clusterSize;
    }
    // Clusters of an external data file have no counts.
    if (!externalData) findings.reference(offset, clusterSize, weights.all);
  }
}
