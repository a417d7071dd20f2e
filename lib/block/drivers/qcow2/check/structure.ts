/** References of everything but the mapping: the reference count structure, encryption header, bitmaps. */
import { BlockError } from "../../../../base/mod.ts";
import { EntryLow, entryOffset } from "../format.ts";
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

/** Longest name of a bitmap, bytes. */
const MAX_NAME = 1023;
/** Fixed part of an entry of the bitmap directory. */
const ENTRY = 24;
/** Largest bitmap table, entries. */
const MAX_TABLE = 0x8000000;
const FLAGS_KNOWN = 3;
const EXTRA_DATA_COMPATIBLE = 4;

function broken(message: string): BlockError {
  return new BlockError("EINVAL", message, { op: "open" });
}

/** Counts the directory of persistent bitmaps, their tables and their data. Throws BlockError EINVAL. */
export async function checkBitmaps(findings: Findings): Promise<void> {
  const { bitmaps } = findings.header;
  if (bitmaps === undefined) return;
  const { directoryOffset, directorySize, count } = bitmaps;
  findings.reference(directoryOffset, directorySize);
  const bytes = new Uint8Array(directorySize);
  await findings.file.read(directoryOffset, bytes);
  const view = new DataView(bytes.buffer);
  let at = 0, found = 0;
  while (at < directorySize) {
    if (++found > count) throw broken("More bitmaps found than specified in header extension");
    if (at + ENTRY > directorySize) throw broken("Broken bitmap directory");
    const nameSize = view.getUint16(at + 18);
    const length = Math.ceil((ENTRY + view.getUint32(at + 20) + nameSize) / 8) * 8;
    if (at + length > directorySize) throw broken("Broken bitmap directory");
    await checkBitmap(findings, view, at, nameSize);
    at += length;
  }
  if (found < count) throw broken("Less bitmaps found than specified in header extension");
}

async function checkBitmap(
  findings: Findings,
  view: DataView,
  at: number,
  nameSize: number,
): Promise<void> {
  const { clusterSize } = findings.geometry;
  const offset = Number(view.getBigUint64(at));
  const entries = view.getUint32(at + 8);
  const flags = view.getUint32(at + 12);
  const granularity = view.getUint8(at + 17);
  if (view.getUint32(at + 20) !== 0) throw broken("Bitmap extra data is not supported");
  const name = new TextDecoder().decode(
    new Uint8Array(view.buffer, at + ENTRY, Math.min(nameSize, MAX_NAME)),
  );
  const fine = entries > 0 && entries <= MAX_TABLE && offset !== 0 && offset % clusterSize === 0 &&
    nameSize > 0 && nameSize <= MAX_NAME &&
    (flags & ~(FLAGS_KNOWN | EXTRA_DATA_COMPATIBLE)) === 0 &&
    view.getUint8(at + 16) === 1 && granularity >= 9 && granularity <= 31 &&
    entries * clusterSize <= 2 ** 53;
  if (!fine) throw broken(`Bitmap '${name}' doesn't satisfy the constraints`);
  findings.reference(offset, entries * 8);
  await findings.words(offset, entries, (high, low) => {
    const data = entryOffset(high, low);
    const reserved = (high & 0xff000000) !== 0 || (low & 0x1fe) !== 0 ||
      (data !== 0 && (low & EntryLow.zero) !== 0);
    if (reserved || data % clusterSize !== 0) {
      throw broken(
        `Could not read bitmap_table table from image for bitmap '${name}': Invalid argument`,
      );
    }
    if (data !== 0) findings.reference(data, clusterSize);
  });
}
