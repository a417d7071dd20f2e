/**
 * Header extensions of a qcow2 image: those that mean something here, and all others as they are. Pure.
 * Source: the QCOW2 specification, "Header extensions" and the sections of each.
 */
import { BlockError, MAX_OFFSET, MiB, viewOf } from "../../../base/mod.ts";
import { Bounds, Extension } from "./format.ts";

/** Longest name of a backing file's format, bytes. */
const MAX_FORMAT = 15;
/** Largest directory of bitmaps, bytes. */
export const MAX_DIRECTORY = 67107840;
/** Bytes of a feature table's entry, and of the name in it. */
const FEATURE_ENTRY = 48;
const FEATURE_NAME = 46;

/** An extension that nobody here knows: kept, in its place among its like. */
export interface UnknownExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

/** Where the directory of persistent bitmaps lies; the bitmaps themselves are another file's matter. */
export interface BitmapsExtension {
  readonly count: number;
  readonly directorySize: number;
  readonly directoryOffset: number;
}

/** A feature's name, for messages about bits that are not known. */
export interface FeatureName {
  readonly type: "incompatible" | "compatible" | "autoclear";
  readonly bit: number;
  readonly name: string;
}

/** All extensions of a header. */
export interface Extensions {
  /** Format of the backing file, a driver's name; empty is as good as none. */
  readonly backingFormat?: string | undefined;
  /** The feature name table as it is on disk; see featureNames. */
  readonly featureTable?: Uint8Array | undefined;
  /** Where the LUKS header lies in the image. */
  readonly crypto?: { readonly offset: number; readonly length: number } | undefined;
  /** Persistent bitmaps that can be trusted. */
  readonly bitmaps?: BitmapsExtension | undefined;
  /**
   * There is a bitmaps extension that cannot be trusted: a program without knowledge of bitmaps wrote to the
   * image (its autoclear bit is not set, or the image is of version 2). It goes with the next rewrite.
   */
  readonly staleBitmaps?: boolean | undefined;
  /** Name of the external data file. */
  readonly dataFile?: string | undefined;
  readonly unknown: readonly UnknownExtension[];
}

/** What parsing depends on. */
export interface ExtensionRules {
  /** First byte that is not of the extensions' area any more. */
  readonly end: number;
  readonly luks: boolean;
  readonly version: 2 | 3;
  /** The autoclear bit of bitmaps. */
  readonly bitmapsConsistent: boolean;
  readonly clusterSize: number;
  /** Only the feature table is of interest: nothing else is checked. */
  readonly namesOnly?: boolean;
}

function bad(message: string, errno = "EINVAL"): BlockError {
  return new BlockError(errno, message, { op: "open" });
}

/** A string extension. It is not terminated; what a zero byte ends is the string, as in C. */
function text(data: Uint8Array, what: string): string {
  const end = data.indexOf(0);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
      .decode(end < 0 ? data : data.subarray(0, end));
  } catch {
    throw bad(`${what} is not valid UTF-8`);
  }
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

/** Reads the extensions from `start` on. Throws BlockError in QEMU's words. */
export function parseExtensions(
  cluster: Uint8Array,
  start: number,
  rules: ExtensionRules,
): Extensions {
  const unknown: UnknownExtension[] = [];
  const found: Mutable<Extensions> = { unknown };
  const view = viewOf(cluster);
  let at = start;
  while (at + 8 <= rules.end) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    at += 8;
    if (type === Extension.end) break;
    if (length > rules.end - at) throw bad("Header extension too large");
    const data = cluster.slice(at, at + length);
    if (!rules.namesOnly) takeExtension(found, unknown, type, data, rules);
    else if (type === Extension.featureNames) found.featureTable = data;
    at += Math.ceil(length / 8) * 8;
  }
  if (!rules.namesOnly && rules.luks && found.crypto === undefined) {
    throw bad("Missing CRYPTO header for crypt method 2");
  }
  return found;
}

function takeExtension(
  found: Mutable<Extensions>,
  unknown: UnknownExtension[],
  type: number,
  data: Uint8Array,
  rules: ExtensionRules,
): void {
  switch (type) {
    case Extension.backingFormat:
      if (data.length > MAX_FORMAT) {
        throw bad(`ERROR: ext_backing_format: len=${data.length} too large (>=${MAX_FORMAT + 1})`);
      }
      found.backingFormat = text(data, "Backing file format");
      break;
    case Extension.featureNames:
      found.featureTable = data;
      break;
    case Extension.cryptoHeader:
      found.crypto = parseCrypto(data, rules);
      break;
    case Extension.bitmaps:
      takeBitmaps(found, data, rules);
      break;
    case Extension.dataFile:
      found.dataFile = text(data, "Data file name");
      break;
    default:
      unknown.push({ type, data });
  }
}

function parseCrypto(data: Uint8Array, rules: ExtensionRules): { offset: number; length: number } {
  if (!rules.luks) {
    throw bad("CRYPTO header extension only expected with LUKS encryption method");
  }
  if (data.length !== 16) {
    throw bad(`CRYPTO header extension size ${data.length}, but expected size 16`);
  }
  const view = viewOf(data);
  const offset = view.getBigUint64(0);
  const length = view.getBigUint64(8);
  if (offset % BigInt(rules.clusterSize) !== 0n) {
    throw bad(
      `Encryption header offset '${offset}' is not a multiple of cluster size '${rules.clusterSize}'`,
    );
  }
  // A LUKS header with eight key slots has a few megabytes at most.
  if (length > BigInt(64 * MiB) || offset > BigInt(MAX_OFFSET - 64 * MiB)) {
    throw bad(`Encryption header at ${offset} of ${length} bytes is too large`);
  }
  return { offset: Number(offset), length: Number(length) };
}

function takeBitmaps(found: Mutable<Extensions>, data: Uint8Array, rules: ExtensionRules): void {
  if (data.length !== 24) throw bad("bitmaps_ext: Invalid extension length");
  if (!rules.bitmapsConsistent || rules.version < 3) {
    found.staleBitmaps = true;
    return;
  }
  const view = viewOf(data);
  const count = view.getUint32(0);
  const directorySize = view.getBigUint64(8);
  const directoryOffset = view.getBigUint64(16);
  if (view.getUint32(4) !== 0) throw bad("bitmaps_ext: Reserved field is not zero");
  if (count > Bounds.maxBitmaps) {
    throw bad(
      `bitmaps_ext: Image has ${count} bitmaps, exceeding the QEMU supported maximum of ${Bounds.maxBitmaps}`,
    );
  }
  if (count === 0) throw bad("found bitmaps extension with zero bitmaps");
  if (
    directoryOffset % BigInt(rules.clusterSize) !== 0n ||
    directoryOffset > BigInt(MAX_OFFSET - MAX_DIRECTORY)
  ) {
    throw bad("bitmaps_ext: invalid bitmap directory offset");
  }
  if (directorySize > BigInt(MAX_DIRECTORY)) {
    throw bad(
      `bitmaps_ext: bitmap directory size (${directorySize}) exceeds the maximum supported size ` +
        `(${MAX_DIRECTORY})`,
    );
  }
  if (directorySize === 0n) throw bad("Requested bitmap directory size is zero");
  found.bitmaps = {
    count,
    directorySize: Number(directorySize),
    directoryOffset: Number(directoryOffset),
  };
}

const FEATURE_TYPES = ["incompatible", "compatible", "autoclear"] as const;

/**
 * The entries of a feature name table, up to one without a name, as in QEMU; those of unknown types are left out. The
 * last one may be short.
 */
export function featureNames(table: Uint8Array | undefined): FeatureName[] {
  const names: FeatureName[] = [];
  if (table === undefined) return names;
  for (let at = 0; at + 2 < table.length; at += FEATURE_ENTRY) {
    const type = FEATURE_TYPES[table[at]!];
    const name = table.subarray(at + 2, at + FEATURE_ENTRY);
    const end = name.indexOf(0);
    if (end === 0) break;
    if (type === undefined) continue;
    names.push({
      type,
      bit: table[at + 1]!,
      name: new TextDecoder().decode(end < 0 ? name : name.subarray(0, end)),
    });
  }
  return names;
}

/** What new images of version 3 say about the features: the names that all programs show. */
const NAMES: readonly FeatureName[] = [
  { type: "incompatible", bit: 0, name: "dirty bit" },
  { type: "incompatible", bit: 1, name: "corrupt bit" },
  { type: "incompatible", bit: 2, name: "external data file" },
  { type: "incompatible", bit: 3, name: "compression type" },
  { type: "incompatible", bit: 4, name: "extended L2 entries" },
  { type: "compatible", bit: 0, name: "lazy refcounts" },
  { type: "autoclear", bit: 0, name: "bitmaps" },
  { type: "autoclear", bit: 1, name: "raw external data" },
];

/** The feature name table of new images. */
export function defaultFeatureTable(): Uint8Array {
  const table = new Uint8Array(NAMES.length * FEATURE_ENTRY);
  NAMES.forEach(({ type, bit, name }, index) => {
    const at = index * FEATURE_ENTRY;
    table[at] = FEATURE_TYPES.indexOf(type);
    table[at + 1] = bit;
    table.set(new TextEncoder().encode(name).subarray(0, FEATURE_NAME), at + 2);
  });
  return table;
}

/** The bytes of all extensions, the end mark included; a multiple of 8. */
export function serialiseExtensions(extensions: Extensions): Uint8Array {
  const { backingFormat, dataFile, featureTable, crypto, bitmaps, unknown } = extensions;
  const parts: UnknownExtension[] = [];
  const add = (type: number, data: Uint8Array) => parts.push({ type, data });
  if (crypto !== undefined) {
    add(Extension.cryptoHeader, words([[crypto.offset, 8], [crypto.length, 8]]));
  }
  if (backingFormat !== undefined) add(Extension.backingFormat, encoded(backingFormat));
  if (dataFile !== undefined) add(Extension.dataFile, encoded(dataFile));
  if (featureTable !== undefined) add(Extension.featureNames, featureTable);
  if (bitmaps !== undefined) {
    const { count, directorySize, directoryOffset } = bitmaps;
    add(
      Extension.bitmaps,
      words([[count, 4], [0, 4], [directorySize, 8], [directoryOffset, 8]]),
    );
  }
  parts.push(...unknown);
  const padded = (length: number) => Math.ceil(length / 8) * 8;
  const total = parts.reduce((sum, { data }) => sum + 8 + padded(data.length), 8);
  const bytes = new Uint8Array(total);
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { type, data } of parts) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + 8);
    at += 8 + padded(data.length);
  }
  return bytes;
}

function encoded(name: string): Uint8Array {
  return new TextEncoder().encode(name);
}

/** Big-endian words of 4 or 8 bytes. */
function words(fields: readonly (readonly [value: number, bytes: 4 | 8])[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, [, length]) => sum + length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const [value, length] of fields) {
    if (length === 4) view.setUint32(at, value);
    else view.setBigUint64(at, BigInt(value));
    at += length;
  }
  return bytes;
}
