/** Copied flags of the active L1 and L2 tables: set where, and only where, the count is exactly one. */
import { BlockError } from "../../../../base/mod.ts";
import { EntryHigh, EntryLow, entryOffset } from "../format.ts";
import type { Findings } from "./find.ts";
import { entryText, type Mapping } from "./mapping.ts";
import type { RefcountTable } from "./refcount_table.ts";

/** Bytes of the L1 table that are looked at, and written, at once: whole sectors. */
const PART = 65536;

/**
 * Checks and, with fix "all", corrects them; with "leaks" too, unless something is `wrong` with the image. What is
 * something else as well as a table is not written to. Counts on disk must be right and stable before.
 */
export class CopiedFlags {
  readonly #mend: boolean;

  constructor(
    private readonly findings: Findings,
    private readonly table: RefcountTable,
    private readonly mapping: Mapping,
    wrong: boolean,
  ) {
    const { fix } = findings.options;
    this.#mend = fix === "all" || (fix === "leaks" && !wrong);
  }

  async run(): Promise<void> {
    const { findings, mapping } = this;
    const { header, geometry: { clusterSize } } = findings;
    const length = Math.min(header.l1Size * 8, Math.max(0, findings.fileSize - header.l1Offset));
    for (let at = 0; at < length; at += PART) {
      const offset = header.l1Offset + at;
      const view = await findings.table(offset, Math.min(PART, header.l1Size * 8 - at));
      if (view === undefined) continue;
      const own = this.#ownL1(offset, view.byteLength);
      if (await this.#l1Part(view, at / 8, own)) await this.#write(offset, view);
    }
    for (const [cluster, weight] of mapping.active.entries()) {
      if (cluster === 0) continue;
      await this.#l2Table(cluster * clusterSize, weight, mapping.owns(cluster));
    }
    for (const [offset, { active }] of mapping.unaligned) {
      if (active > 0) await this.#l2Table(offset, active, false);
    }
  }

  async #write(offset: number, view: DataView): Promise<void> {
    await this.findings.file.write(offset, new Uint8Array(view.buffer));
  }

  /** The count on disk; undefined where it cannot be told. */
  async #count(offset: number): Promise<number | undefined> {
    try {
      return await this.table.count(Math.floor(offset / this.findings.geometry.clusterSize));
    } catch (error) {
      if (error instanceof BlockError) return undefined;
      throw error;
    }
  }

  /** Whether this part of the L1 table is nothing else. */
  #ownL1(offset: number, length: number): boolean {
    const { counts, geometry: { clusterSize } } = this.findings;
    for (let at = offset - (offset % clusterSize); at < offset + length; at += clusterSize) {
      if (counts.get(at / clusterSize) > 1) return false;
    }
    return true;
  }

  async #l1Part(view: DataView, first: number, own: boolean): Promise<boolean> {
    let changed = false;
    for (let at = 0; at < view.byteLength; at += 8) {
      const high = view.getUint32(at), low = view.getUint32(at + 4);
      const offset = entryOffset(high, low);
      if (offset === 0) continue;
      const count = await this.#count(offset);
      if (count === undefined || (count === 1) === (high >= EntryHigh.copied)) continue;
      const what = `OFLAG_COPIED L2 cluster: l1_index=${first + at / 8} ` +
        `l1_entry=${entryText(high, low)} refcount=${count}`;
      if (!this.findings.mendable(what, 1, own && this.#mend)) continue;
      view.setUint32(at, (high ^ EntryHigh.copied) >>> 0);
      this.findings.result.corruptionsFixed++;
      changed = true;
    }
    return changed;
  }

  async #l2Table(offset: number, weight: number, mend: boolean): Promise<void> {
    const { findings } = this;
    const { l2EntrySize, externalData, clusterSize } = findings.geometry;
    const view = await findings.table(offset, clusterSize);
    if (view === undefined) return;
    let changed = false;
    for (let at = 0; at < clusterSize; at += l2EntrySize) {
      const high = view.getUint32(at), low = view.getUint32(at + 4);
      const copied = high >= EntryHigh.copied;
      if ((high & EntryHigh.compressed) !== 0) continue;
      const there = (high & EntryHigh.offset) !== 0 || (low & EntryLow.offset) !== 0;
      if (!there && !(externalData && copied)) continue;
      const count = externalData ? 1 : await this.#count(entryOffset(high, low));
      if (count === undefined || (count === 1) === copied) continue;
      const what = `OFLAG_COPIED data cluster: l2_entry=${entryText(high, low)} refcount=${count}`;
      if (findings.mendable(what, weight, mend && this.#mend)) {
        view.setUint32(at, (high ^ EntryHigh.copied) >>> 0);
        findings.result.corruptionsFixed++;
        changed = true;
      }
    }
    if (changed) await this.#write(offset, view);
  }
}
