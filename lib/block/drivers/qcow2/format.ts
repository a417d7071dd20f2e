/**
 * The numbers of the format, and what is read off single table entries. Entries are handled as two unsigned
 * 32-bit words (high and low), so that no BigInt is made on the way of a request.
 * Source: the QCOW2 specification (docs/interop/qcow2).
 */
import { CommandError, KiB, MiB } from "../../../base/mod.ts";
import type { Geometry } from "./types.ts";

/** "QFI\xfb". */
export const QCOW_MAGIC = 0x514649fb;

/** Incompatible features: an unknown one forbids opening. Bit numbers and masks. */
export const Incompatible = {
  dirty: 1n << 0n,
  corrupt: 1n << 1n,
  externalData: 1n << 2n,
  compressionType: 1n << 3n,
  extendedL2: 1n << 4n,
} as const;
/** All incompatible features that this driver knows. */
export const INCOMPATIBLE_KNOWN = 0x1fn;
/** Compatible features: unknown ones are ignored. */
export const Compatible = { lazyRefcounts: 1n << 0n } as const;
/** Autoclear features: unknown ones are cleared before the image is written to. */
export const Autoclear = { bitmaps: 1n << 0n, rawExternalData: 1n << 1n } as const;
/** All autoclear features that this driver knows. */
export const AUTOCLEAR_KNOWN = 0x3n;

/** Types of header extensions. */
export const Extension = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  cryptoHeader: 0x0537be77,
  dataFile: 0x44415441,
} as const;

/** Values of crypt_method. */
export const CryptMethod = { none: 0, aes: 1, luks: 2 } as const;
/** Values of compression_type. */
export const CompressionType = { zlib: 0, zstd: 1 } as const;

/** Bounds, in bytes where not said otherwise; those that are not the format's own are the original's. */
export const Bounds = {
  minClusterBits: 9,
  maxClusterBits: 21,
  /** Extended L2 entries need clusters of 16 KiB. */
  minExtendedClusterBits: 14,
  maxRefcountOrder: 6,
  headerV2: 72,
  headerV3: 104,
  maxBackingName: 1023,
  maxL1Bytes: 32 * MiB,
  maxRefcountTableBytes: 8 * MiB,
  maxSnapshots: 65536,
  maxSnapshotTable: 64 * MiB,
  maxSnapshotExtra: 1 * KiB,
  maxBitmaps: 65535,
  /** Host offsets in tables have 56 bits; those from here on are refused as numbers would not be exact. */
  maxHostOffset: 2 ** 53,
} as const;

const HIGH = 2 ** 32;
/** Bits of the high word of L1 and L2 entries. */
export const EntryHigh = {
  copied: 0x80000000,
  compressed: 0x40000000,
  offset: 0x00ffffff,
} as const;
/** Bits of the low word of L1 and L2 entries. */
export const EntryLow = { zero: 1, offset: 0xfffffe00 } as const;
/** Subclusters in a cluster with extended L2 entries. */
export const SUBCLUSTERS = 32;
/** Unit of compressed lengths. */
const COMPRESSED_SECTOR = 512;

/** Host offset in a standard L1 or L2 entry: bits 9 to 55. Exact, as the low 9 bits are zero. */
export function entryOffset(high: number, low: number): number {
  return (high & EntryHigh.offset) * HIGH + ((low & EntryLow.offset) >>> 0);
}
/** Whether reserved bits of a standard L2 entry (1 to 8, 56 to 61) are set. */
export function entryReserved(high: number, low: number): boolean {
  return (high & 0x3f000000) !== 0 || (low & 0x1fe) !== 0;
}
/** Whether reserved bits of an L1 entry (0 to 8, 56 to 62) are set. */
export function l1Reserved(high: number, low: number): boolean {
  return (high & 0x7f000000) !== 0 || (low & 0x1ff) !== 0;
}
/** High word of an offset. */
export function highWord(offset: number): number {
  return Math.floor(offset / HIGH);
}
/** Low word of an offset. */
export function lowWord(offset: number): number {
  return offset % HIGH;
}

/** Where a compressed cluster lies: `length` bytes at most at `offset` of the image file. */
export interface CompressedCluster {
  readonly offset: number;
  /** Up to the end of its last 512-byte sector; the stream may end before. */
  readonly length: number;
}

/** Host offset of a compressed entry; may be beyond any sane limit. */
export function compressedOffset(high: number, low: number, clusterBits: number): number {
  return (high & ((1 << (38 - clusterBits)) - 1)) * HIGH + low;
}
/** Bytes that a compressed entry spans, from its offset to the end of its last sector. */
export function compressedLength(high: number, low: number, clusterBits: number): number {
  const sectors = ((high & 0x3fffffff) >>> (38 - clusterBits)) + 1;
  return sectors * COMPRESSED_SECTOR - (low % COMPRESSED_SECTOR);
}
/** A compressed entry for `length` bytes at `offset`: its high word (the low one is `lowWord(offset)`). */
export function compressedHigh(offset: number, length: number, clusterBits: number): number {
  const first = Math.floor(offset / COMPRESSED_SECTOR);
  const additional = Math.floor((offset + length - 1) / COMPRESSED_SECTOR) - first;
  return (EntryHigh.compressed | (additional << (38 - clusterBits)) | highWord(offset)) >>> 0;
}
/** First host offset that a compressed entry cannot name. */
export function compressedLimit(clusterBits: number): number {
  return Math.min(2 ** (70 - clusterBits), 2 ** 53);
}

/** The fields of the header that geometry follows from; `Header` has them. */
export interface GeometryFields {
  readonly version: number;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly incompatibleFeatures: bigint;
  readonly autoclearFeatures: bigint;
  readonly compressionType: number;
}

/** Fixed figures of an image. Throws CommandError on figures out of bounds (parseHeader has looked, too). */
export function geometryOf(header: GeometryFields): Geometry {
  const { version, clusterBits, refcountOrder, incompatibleFeatures: features } = header;
  if (version !== 2 && version !== 3) throw new CommandError("Unsupported qcow2 version");
  if (clusterBits < Bounds.minClusterBits || clusterBits > Bounds.maxClusterBits) {
    throw new CommandError(`Unsupported cluster size: 2^${clusterBits}`);
  }
  if (refcountOrder > Bounds.maxRefcountOrder) {
    throw new CommandError("Reference count entry width too large; may not exceed 64 bits");
  }
  const clusterSize = 2 ** clusterBits;
  const refcountBits = 2 ** refcountOrder;
  const extendedL2 = (features & Incompatible.extendedL2) !== 0n;
  const l2EntrySize = extendedL2 ? 16 : 8;
  const l2Entries = clusterSize / l2EntrySize;
  const externalData = (features & Incompatible.externalData) !== 0n;
  return {
    version,
    clusterBits,
    clusterSize,
    refcountBits,
    refcountMax: refcountBits === 64 ? Number.MAX_SAFE_INTEGER : 2 ** refcountBits - 1,
    extendedL2,
    l2EntrySize,
    l2Entries,
    l2Coverage: l2Entries * clusterSize,
    subclusterSize: extendedL2 ? clusterSize / SUBCLUSTERS : clusterSize,
    refcountBlockEntries: (clusterSize * 8) / refcountBits,
    externalData,
    dataFileRaw: externalData && (header.autoclearFeatures & Autoclear.rawExternalData) !== 0n,
    compression: header.compressionType === CompressionType.zstd ? "zstd" : "zlib",
  };
}

/** Bits of the subclusters, of `size` bytes each, that [from, to) of a cluster touches. */
export function subclusterMask(size: number, from: number, to: number): number {
  const first = Math.floor(from / size);
  const count = Math.ceil(to / size) - first;
  return count >= SUBCLUSTERS ? 0xffffffff : (((1 << count) - 1) << first) >>> 0;
}
