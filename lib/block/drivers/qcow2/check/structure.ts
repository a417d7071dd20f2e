/** References of everything but the mapping: the reference count structure, encryption header, bitmaps. */
import { parseDirectory, parseTableEntry } from "../bitmap_directory.ts";
import type { Findings } from "./find.ts";
import type { RefcountTable } from "./refcount_table.ts";

/** Counts the reference count table and its blocks, and looks whether blocks are where they can be. */
export function checkRefcountStructure(findings: Findings, table: RefcountTable): void {
  const { header, geometry: { clusterSize } } = findings;
  findings.reference(
    header.refcountTableOffset,
    header.refcountTableClusters * clusterSize,
  );
  for (let i = 0; i < table.length; i++) {
    const { offset, reserved, aligned } = table.entry(i);
    if (offset === 0 && !reserved) continue;
    if (reserved) {
      findings.corrupt(`ERROR refcount table entry ${i} has reserved bits set`);
      findings.rebuild = true;
    } else if (!aligned) {
      findings.corrupt(
        `ERROR refcount block ${i} is not cluster aligned; refcount table entry corrupted`,
      );
      findings.rebuild = true;
    } else if (offset / clusterSize >= findings.clusters) {
      findings.corrupt(`ERROR refcount block ${i} is outside image`);
      // It counts nothing in the file: without repair of everything one can live with it.
      if (findings.options.fix === "all") findings.rebuild = true;
    } else {
      findings.reference(offset, clusterSize);
      const count = findings.counts.get(offset / clusterSize);
      if (count === 1) continue;
      findings.corrupt(`ERROR refcount block ${i} refcount=${count}`);
      findings.rebuild = true;
    }
  }
}

/** Counts the directory of persistent bitmaps, their tables and their data. Throws BlockError EINVAL. */
export async function checkBitmaps(findings: Findings): Promise<void> {
  const { header: { bitmaps, size }, geometry: { clusterSize } } = findings;
  if (bitmaps === undefined) return;
  const { directoryOffset, directorySize, count } = bitmaps;
  findings.reference(directoryOffset, directorySize);
  const bytes = new Uint8Array(directorySize);
  await findings.file.read(directoryOffset, bytes);
  for (const entry of parseDirectory(bytes, count, size, clusterSize)) {
    findings.reference(entry.tableOffset, entry.tableSize * 8);
    await findings.words(entry.tableOffset, entry.tableSize, (high, low) => {
      const { offset } = parseTableEntry(high, low, entry, clusterSize);
      if (offset !== 0) findings.reference(offset, clusterSize);
    });
  }
}
