/**
 * The directory of persistent bitmaps: entries of variable length, one after the other. Pure.
 * Source: the QCOW2 specification, "Bitmap directory". Offsets and sizes in bytes.
 */
import { alignUp, BlockError, viewOf } from "../../../base/mod.ts";
import { Bounds, EntryLow, entryOffset } from "./format.ts";

/** A bitmap as the directory has it. */
export interface DirectoryEntry {
  /** The name as text: see `nameText`. */
  readonly name: string;
  /** The name as it is on disk, and stays. */
  readonly nameBytes: Uint8Array;
  readonly granularity: number;
  /** It was not stored since it was last in use: what is there is out of date. */
  readonly inUse: boolean;
  /** It records from when the image is opened. */
  readonly auto: boolean;
  /** Where its table lies, and how many entries that has. */
  readonly tableOffset: number;
  readonly tableSize: number;
}

/** Fixed part of an entry. */
const FIXED = 24;
const Flag = { inUse: 1, auto: 2, extraDataCompatible: 4 } as const;
/** The only type: dirty tracking. */
const TYPE = 1;
/** Longest name in bytes; smallest and largest granularity as powers of two. */
const MAX_NAME = 1023;
const MIN_GRANULARITY_BITS = 9;
const MAX_GRANULARITY_BITS = 31;
/** Entries of a table at most: QEMU's. */
const MAX_TABLE = 0x8000000;
/** Bytes of a bitmap's bits, at most: QEMU's. */
export const MAX_BITMAP_BYTES = 0x20000000;

/** Bits 1 to 8 and 56 to 63 of a table's entry are reserved. */
const RESERVED_HIGH = 0xff000000;
const RESERVED_LOW = 0x1fe;

function broken(message: string): BlockError {
  return new BlockError("EINVAL", message, { op: "open" });
}

/** Entries that `size` bytes of guest data need in a bitmap table. */
export function tableEntries(size: number, granularity: number, clusterSize: number): number {
  return Math.ceil(Math.ceil(Math.ceil(size / granularity) / 8) / clusterSize);
}

/** Reads a directory of `count` entries in an image of `size` guest bytes. Throws BlockError EINVAL. */
export function parseDirectory(
  bytes: Uint8Array,
  count: number,
  size: number,
  clusterSize: number,
): DirectoryEntry[] {
  const view = viewOf(bytes);
  const entries: DirectoryEntry[] = [];
  for (let at = 0; at < bytes.length;) {
    if (at + FIXED > bytes.length) throw broken("Broken bitmap directory");
    if (entries.length === count) {
      throw broken("More bitmaps found than specified in header extension");
    }
    const extra = view.getUint32(at + 20);
    const length = alignUp(FIXED + extra + view.getUint16(at + 18), 8);
    if (at + length > bytes.length) throw broken("Broken bitmap directory");
    if (extra !== 0) throw broken("Bitmap extra data is not supported");
    entries.push(parseEntry(bytes.subarray(at, at + length), size, clusterSize));
    at += length;
  }
  if (entries.length < count) {
    throw broken("Less bitmaps found than specified in header extension");
  }
  return entries;
}

function parseEntry(bytes: Uint8Array, size: number, clusterSize: number): DirectoryEntry {
  const view = viewOf(bytes);
  const nameLength = view.getUint16(18);
  const nameBytes = bytes.subarray(FIXED, FIXED + Math.min(nameLength, MAX_NAME));
  const name = nameText(nameBytes);
  const tableOffset = view.getUint32(0) * 2 ** 32 + view.getUint32(4);
  const tableSize = view.getUint32(8);
  const flags = view.getUint32(12);
  const bits = view.getUint8(17);
  const inUse = (flags & Flag.inUse) !== 0;
  const granularity = 2 ** bits;
  const fine = tableSize > 0 && tableSize <= MAX_TABLE && tableOffset !== 0 &&
    tableOffset % clusterSize === 0 && tableOffset < Bounds.maxHostOffset &&
    nameLength > 0 && nameLength <= MAX_NAME &&
    (flags & ~(Flag.inUse | Flag.auto | Flag.extraDataCompatible)) === 0 &&
    view.getUint8(16) === TYPE && bits >= MIN_GRANULARITY_BITS && bits <= MAX_GRANULARITY_BITS &&
    tableSize * clusterSize <= MAX_BITMAP_BYTES &&
    // The image may have got another length since it was last stored.
    (inUse || tableSize === tableEntries(size, granularity, clusterSize));
  if (!fine) throw broken(`Bitmap '${name}' doesn't satisfy the constraints`);
  const auto = (flags & Flag.auto) !== 0;
  return { name, nameBytes, granularity, inUse, auto, tableOffset, tableSize };
}

/**
 * A name as text. Like the original's it ends at a zero byte. Nobody promises UTF-8: of a name that is none each byte
 * that is not ASCII becomes `\xHH`, so that names that differ stay so, and can be typed.
 */
function nameText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const name = end < 0 ? bytes : bytes.subarray(0, end);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(name);
  } catch {
    return Array.from(
      name,
      (byte) => byte < 0x80 ? String.fromCharCode(byte) : `\\x${byte.toString(16)}`,
    ).join("");
  }
}

/** A bitmap's table cannot be what it says. */
export function brokenTable({ name }: DirectoryEntry): BlockError {
  return broken(
    `Could not read bitmap_table table from image for bitmap '${name}': Invalid argument`,
  );
}

/**
 * An entry, in two words, of the table of `bitmap`: where its bits are (0: nowhere), or that all are `ones`. Throws
 * BlockError EINVAL.
 */
export function parseTableEntry(
  high: number,
  low: number,
  bitmap: DirectoryEntry,
  clusterSize: number,
): { readonly offset: number; readonly ones: boolean } {
  const offset = entryOffset(high, low);
  const ones = (low & EntryLow.zero) !== 0;
  const reserved = (high & RESERVED_HIGH) !== 0 || (low & RESERVED_LOW) !== 0;
  if (reserved || offset % clusterSize !== 0 || (ones && offset !== 0)) throw brokenTable(bitmap);
  return { offset, ones };
}

/** Bytes that an entry for a bitmap of that name takes. */
export function entryLength(name: string): number {
  return alignUp(FIXED + new TextEncoder().encode(name).length, 8);
}

/** The directory as bytes. */
export function serialiseDirectory(entries: readonly DirectoryEntry[]): Uint8Array<ArrayBuffer> {
  const lengths = entries.map(({ nameBytes }) => alignUp(FIXED + nameBytes.length, 8));
  const bytes = new Uint8Array(lengths.reduce((sum, length) => sum + length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  entries.forEach((entry, i) => {
    const { nameBytes } = entry;
    view.setUint32(at, Math.floor(entry.tableOffset / 2 ** 32));
    view.setUint32(at + 4, entry.tableOffset % 2 ** 32);
    view.setUint32(at + 8, entry.tableSize);
    view.setUint32(at + 12, (entry.inUse ? Flag.inUse : 0) | (entry.auto ? Flag.auto : 0));
    view.setUint8(at + 16, TYPE);
    view.setUint8(at + 17, Math.log2(entry.granularity));
    view.setUint16(at + 18, nameBytes.length);
    bytes.set(nameBytes, at + FIXED);
    at += lengths[i]!;
  });
  return bytes;
}
