/**
 * The header of a qcow2 image: bytes to a checked value (and back: header_write.ts). Pure. Everything is checked
 * against the limits before anybody allocates anything by it; a wrong field is a BlockError in QEMU's words. What is
 * not known is kept byte for byte: later fields of a longer header, extensions of other programs.
 *
 * The order of the checks is the original's, so that an image with several faults gives the same message.
 * All offsets and lengths are in bytes. Source: the QCOW2 specification (docs/interop/qcow2), "Header".
 */
import { BlockError, MAX_OFFSET, viewOf } from "../../../base/mod.ts";
import { type Extensions, type FeatureName, featureNames, parseExtensions } from "./extensions.ts";
import {
  Autoclear,
  Bounds,
  CompressionType,
  Incompatible,
  INCOMPATIBLE_KNOWN,
  QCOW_MAGIC,
} from "./format.ts";

export {
  type BitmapsExtension,
  defaultFeatureTable,
  type FeatureName,
  featureNames,
  type UnknownExtension,
} from "./extensions.ts";

/** What `parseHeader` wants to be given at most: no header is longer. */
export const MAX_HEADER_BYTES: number = 2 ** Bounds.maxClusterBits;

/** How guest data is encrypted. */
export type CryptMethod = "none" | "aes" | "luks";

/** The header, as on disk. Plain data: a changed one is a new one. */
export interface Header extends Extensions {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Length of the virtual disk. */
  readonly size: number;
  readonly cryptMethod: CryptMethod;
  readonly l1Offset: number;
  /** Entries of the active L1 table. */
  readonly l1Size: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotsOffset: number;
  readonly snapshotCount: number;
  readonly incompatibleFeatures: bigint;
  readonly compatibleFeatures: bigint;
  readonly autoclearFeatures: bigint;
  /** Bits of a reference count are 1 << refcountOrder. */
  readonly refcountOrder: number;
  /** CompressionType. */
  readonly compressionType: number;
  /** Length of the header structure: 72 for version 2, else at least 104. */
  readonly headerLength: number;
  /** What stands behind the compression type in a longer header, padding included; kept as it is. */
  readonly laterFields: Uint8Array;
  /** Name of the backing file; an image may have an empty one. */
  readonly backingFile?: string | undefined;
}

/** Offsets of the fields. */
export const At = {
  magic: 0,
  version: 4,
  backingOffset: 8,
  backingLength: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Size: 36,
  l1Offset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  snapshotCount: 60,
  snapshotsOffset: 64,
  incompatible: 72,
  compatible: 80,
  autoclear: 88,
  refcountOrder: 96,
  headerLength: 100,
  compression: 104,
  laterFields: 105,
} as const;

/** Length that new images get. */
export const NEW_HEADER_LENGTH = 112;
/** By their number in the header. */
export const CRYPT_METHODS: readonly CryptMethod[] = ["none", "aes", "luks"];

/** The image is not what it should be; QEMU's words. */
export function badImage(message: string, errno = "EINVAL"): BlockError {
  return new BlockError(errno, message, { op: "open" });
}

/** `bytes`, or a zero-filled copy that has `length`: what lies past the end of a file reads as zeroes. */
function padded(bytes: Uint8Array, length: number): Uint8Array {
  if (bytes.length >= length) return bytes;
  const copy = new Uint8Array(length);
  copy.set(bytes);
  return copy;
}

/** What is let pass when a header is parsed. */
export interface HeaderRules {
  /** Faults that a check finds and repairs by itself: no refcount table, a bad snapshot table. */
  readonly forCheck?: boolean;
  /** Images that are marked as corrupt. Absent: they are read, for who does not write. */
  readonly refuseCorrupt?: boolean;
}

/**
 * Reads a header from the first bytes of an image: its first cluster, or whatever is there (at most
 * MAX_HEADER_BYTES are looked at). Throws BlockError.
 */
export function parseHeader(image: Uint8Array, rules: HeaderRules = {}): Header {
  const { clusterBits, version } = parseStart(image);
  const cluster = padded(image, 1 << clusterBits).subarray(0, 1 << clusterBits);
  const view = viewOf(cluster);
  const features = parseFeatures(view, cluster, version);
  if (rules.refuseCorrupt === true) refuseCorrupt(features);
  const tables = parseTables(view, clusterBits, features.incompatibleFeatures, rules);
  const { refcountOrder, headerLength, compressionType } = features;
  const extensions = parseExtensions(cluster, features.extensionsStart, {
    end: endOfExtensions(view, cluster.length),
    luks: tables.cryptMethod === "luks",
    version,
    bitmapsConsistent: (features.autoclearFeatures & Autoclear.bitmaps) !== 0n,
    clusterSize: cluster.length,
  });
  const named = version === 3 && headerLength > At.compression;
  return {
    ...extensions,
    ...tables,
    version,
    clusterBits,
    incompatibleFeatures: features.incompatibleFeatures,
    compatibleFeatures: features.compatibleFeatures,
    autoclearFeatures: features.autoclearFeatures,
    refcountOrder,
    compressionType,
    headerLength,
    laterFields: named ? cluster.slice(At.laterFields, headerLength) : new Uint8Array(),
    backingFile: parseBackingFile(view, cluster),
  };
}

/** Refuses to write to an image that is marked as corrupt. */
export function refuseCorrupt(header: { readonly incompatibleFeatures: bigint }): void {
  if ((header.incompatibleFeatures & Incompatible.corrupt) === 0n) return;
  throw badImage("qcow2: Image is corrupt; cannot be opened read/write", "EACCES");
}

/** Magic, version and cluster size: what says how to read the rest. */
function parseStart(image: Uint8Array): { version: 2 | 3; clusterBits: number } {
  const start = padded(image, Bounds.headerV3);
  const view = viewOf(start);
  if (view.getUint32(At.magic) !== QCOW_MAGIC) throw badImage("Image is not in qcow2 format");
  const version = view.getUint32(At.version);
  if (version !== 2 && version !== 3) {
    throw badImage(`Unsupported qcow2 version ${version}`, "ENOTSUP");
  }
  const clusterBits = view.getUint32(At.clusterBits);
  const { minClusterBits, maxClusterBits } = Bounds;
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    throw badImage(`Unsupported cluster size: 2^${clusterBits}`);
  }
  return { version, clusterBits };
}

/** What parseFeatures finds. */
interface Features {
  incompatibleFeatures: bigint;
  compatibleFeatures: bigint;
  autoclearFeatures: bigint;
  refcountOrder: number;
  headerLength: number;
  extensionsStart: number;
  compressionType: number;
}

function parseFeatures(view: DataView, cluster: Uint8Array, version: 2 | 3): Features {
  const features: Features = {
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    refcountOrder: 4,
    headerLength: Bounds.headerV2,
    extensionsStart: Bounds.headerV2,
    compressionType: CompressionType.zlib,
  };
  if (version === 3) {
    features.incompatibleFeatures = view.getBigUint64(At.incompatible);
    features.compatibleFeatures = view.getBigUint64(At.compatible);
    features.autoclearFeatures = view.getBigUint64(At.autoclear);
    features.refcountOrder = view.getUint32(At.refcountOrder);
    features.headerLength = view.getUint32(At.headerLength);
    features.extensionsStart = features.headerLength;
    if (features.headerLength < Bounds.headerV3) throw badImage("qcow2 header too short");
    if (features.headerLength > cluster.length) throw badImage("qcow2 header exceeds cluster size");
  }
  if (view.getBigUint64(At.backingOffset) > BigInt(cluster.length)) {
    throw badImage("Invalid backing file offset");
  }
  features.compressionType = parseCompression(view, features);
  const unknown = features.incompatibleFeatures & ~INCOMPATIBLE_KNOWN;
  if (unknown !== 0n) throw unsupported(unknown, view, cluster, features.extensionsStart);
  return features;
}

function parseCompression(view: DataView, features: Features): number {
  const present = features.headerLength > At.compression;
  const type = present ? view.getUint8(At.compression) : 0;
  if (type > CompressionType.zstd) {
    throw badImage(`qcow2: unknown compression type: ${type}`, "ENOTSUP");
  }
  const flagged = (features.incompatibleFeatures & Incompatible.compressionType) !== 0n;
  if (flagged !== (type !== 0)) {
    const must = flagged ? "must not be set" : "must be set";
    throw badImage(`qcow2: Compression type incompatible feature bit ${must}`);
  }
  return type;
}

/** Unknown incompatible features, by the names of the image's own table where it has them. */
function unsupported(
  unknown: bigint,
  view: DataView,
  cluster: Uint8Array,
  start: number,
): BlockError {
  let names: FeatureName[] = [];
  try {
    names = incompatibleNames(cluster, start, endOfExtensions(view, cluster.length));
  } catch (error) {
    if (!(error instanceof BlockError)) throw error; // a broken table names nothing
  }
  const known: string[] = [];
  let nameless = unknown;
  for (const { bit, name } of names) {
    const mask = 1n << BigInt(bit);
    if ((nameless & mask) === 0n) continue;
    known.push(name);
    nameless &= ~mask;
  }
  if (nameless !== 0n) known.push(`Unknown incompatible feature: ${nameless.toString(16)}`);
  return badImage(`Unsupported qcow2 feature(s): ${known.join(", ")}`, "ENOTSUP");
}

function incompatibleNames(cluster: Uint8Array, start: number, end: number): FeatureName[] {
  const { featureTable } = parseExtensions(cluster, start, {
    end,
    namesOnly: true,
    luks: true,
    version: 3,
    bitmapsConsistent: false,
    clusterSize: cluster.length,
  });
  return featureNames(featureTable).filter((one) => one.type === "incompatible");
}

/** The backing file's name ends the area of the extensions. */
function endOfExtensions(view: DataView, clusterSize: number): number {
  const at = Number(view.getBigUint64(At.backingOffset));
  return at === 0 ? clusterSize : at;
}

/** Sizes and places of the tables. */
type Tables = Pick<
  Header,
  | "size"
  | "cryptMethod"
  | "l1Offset"
  | "l1Size"
  | "refcountTableOffset"
  | "refcountTableClusters"
  | "snapshotsOffset"
  | "snapshotCount"
>;

/** A table's offset: aligned, and where all of the table can be addressed. */
function tableOffset(
  view: DataView,
  at: number,
  clusterSize: number,
  length: number,
  name: string,
): number {
  const offset = Number(view.getBigUint64(at)); // rounded when beyond 2^53, and then refused
  if (offset % clusterSize !== 0 || offset > MAX_OFFSET - length) {
    throw badImage(`${name} offset invalid`);
  }
  return offset;
}

function parseTables(
  view: DataView,
  clusterBits: number,
  incompatible: bigint,
  { forCheck = false }: HeaderRules,
): Tables {
  const clusterSize = 1 << clusterBits;
  const extended = (incompatible & Incompatible.extendedL2) !== 0n;
  if (extended && clusterBits < Bounds.minExtendedClusterBits) {
    throw badImage(`Unsupported subcluster size: ${clusterSize / 32}`);
  }
  if (
    view.getUint32(At.version) === 3 && view.getUint32(At.refcountOrder) > Bounds.maxRefcountOrder
  ) {
    throw badImage("Reference count entry width too large; may not exceed 64 bits");
  }
  const refcountTableClusters = view.getUint32(At.refcountTableClusters);
  if (refcountTableClusters === 0 && !forCheck) {
    throw badImage("Image does not contain a reference count table");
  }
  const refcountBytes = refcountTableClusters * clusterSize;
  if (refcountBytes > Bounds.maxRefcountTableBytes) {
    throw badImage("Reference count table too large");
  }
  const refcountTableOffset = tableOffset(
    view,
    At.refcountTableOffset,
    clusterSize,
    refcountBytes,
    "Reference count table",
  );
  const snapshotCount = view.getUint32(At.snapshotCount);
  if (snapshotCount > Bounds.maxSnapshots && !forCheck) {
    throw badImage("Snapshot table too large", "EFBIG");
  }
  const snapshotsOffset = forCheck ? Number(view.getBigUint64(At.snapshotsOffset)) : tableOffset(
    view,
    At.snapshotsOffset,
    clusterSize,
    Bounds.maxSnapshotTable,
    "Snapshot table",
  );
  const crypt = view.getUint32(At.cryptMethod);
  const cryptMethod = CRYPT_METHODS[crypt];
  if (cryptMethod === undefined) throw badImage(`Unsupported encryption method ${crypt | 0}`);
  return {
    ...parseL1(view, clusterBits, extended),
    cryptMethod,
    refcountTableOffset,
    refcountTableClusters,
    snapshotsOffset,
    snapshotCount,
  };
}

function parseL1(
  view: DataView,
  clusterBits: number,
  extended: boolean,
): Pick<Header, "size" | "l1Offset" | "l1Size"> {
  const clusterSize = 1 << clusterBits;
  const l1Size = view.getUint32(At.l1Size);
  if (l1Size * 8 > Bounds.maxL1Bytes) throw badImage("Active L1 table too large", "EFBIG");
  const l1Offset = tableOffset(view, At.l1Offset, clusterSize, l1Size * 8, "Active L1 table");
  const size = Number(view.getBigUint64(At.size));
  if (size > MAX_OFFSET || l1EntriesFor(size, clusterBits, extended) > 0x7fffffff) {
    throw badImage("Image is too big", "EFBIG");
  }
  if (l1Size < l1EntriesFor(size, clusterBits, extended)) {
    throw badImage("L1 table is too small");
  }
  return { size, l1Offset, l1Size };
}

/** How many L1 entries a virtual disk of `size` bytes needs. */
export function l1EntriesFor(size: number, clusterBits: number, extendedL2: boolean): number {
  const clusterSize = 2 ** clusterBits;
  return Math.ceil(size / (clusterSize * (clusterSize / (extendedL2 ? 16 : 8))));
}

function parseBackingFile(view: DataView, cluster: Uint8Array): string | undefined {
  const at = Number(view.getBigUint64(At.backingOffset));
  if (at === 0) return undefined;
  const length = view.getUint32(At.backingLength);
  if (length > Math.min(Bounds.maxBackingName, cluster.length - at)) {
    throw badImage("Backing file name too long");
  }
  const bytes = cluster.subarray(at, at + length);
  const end = bytes.indexOf(0);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
      .decode(end < 0 ? bytes : bytes.subarray(0, end));
  } catch {
    throw badImage("Backing file name is not valid UTF-8");
  }
}
