/** BlockdevOptions: how a block node is described (QAPI block-core). Names and order are QEMU's. */
import {
  alternate,
  bool,
  enumeration,
  exactInt,
  exactUint64,
  type Infer,
  int,
  nullType,
  opt,
  type Schema,
  str,
  struct,
  union,
} from "./core.ts";

/** What a child option holds once validated: a node name, or the options of a node of its own. */
export type BlockdevRefValue = string | BlockdevOptionsValue;
/** Options of any driver, as the graph sees them before it knows the driver. */
export interface BlockdevOptionsValue {
  driver: string;
  "node-name"?: string;
  [option: string]: unknown;
}

export const BlockdevDiscardOptions = enumeration("BlockdevDiscardOptions", ["ignore", "unmap"]);
export const BlockdevDetectZeroesOptions = enumeration("BlockdevDetectZeroesOptions", [
  "off",
  "on",
  "unmap",
]);
export const BlockdevAioOptions = enumeration("BlockdevAioOptions", [
  "threads",
  "native",
  "io_uring",
]);
export const PreallocMode = enumeration("PreallocMode", ["off", "metadata", "falloc", "full"]);
export const OnOffAuto = enumeration("OnOffAuto", ["auto", "on", "off"]);
export const BlockdevDriver = enumeration("BlockdevDriver", [
  "compress",
  "file",
  "host_cdrom",
  "host_device",
  "null-aio",
  "null-co",
  "qcow2",
  "raw",
]);

export const BlockdevCacheOptions = struct("BlockdevCacheOptions", {
  direct: opt(bool),
  "no-flush": opt(bool),
});

/** A child: by reference or inline. */
export const BlockdevRef: Schema<BlockdevRefValue> = alternate("BlockdevRef", {
  definition: () => BlockdevOptions as Schema<unknown>,
  reference: str,
});
/** A child that may be left out on purpose (backing: null). */
export const BlockdevRefOrNull: Schema<BlockdevRefValue | null> = alternate("BlockdevRefOrNull", {
  definition: () => BlockdevOptions as Schema<unknown>,
  reference: str,
  null: nullType,
});

export const BlockdevOptionsGenericFormat = struct("BlockdevOptionsGenericFormat", {
  file: BlockdevRef,
});

/** A format that may stand on a backing file. */
export const BlockdevOptionsGenericCOWFormat = struct("BlockdevOptionsGenericCOWFormat", {
  ...BlockdevOptionsGenericFormat.members,
  backing: opt(BlockdevRefOrNull),
});

export const BlockdevOptionsFile = struct("BlockdevOptionsFile", {
  filename: str,
  "pr-manager": opt(str),
  locking: opt(OnOffAuto),
  aio: opt(BlockdevAioOptions),
  "aio-max-batch": opt(exactInt),
  "drop-cache": opt(bool),
  "x-check-cache-dropped": opt(bool, { features: ["unstable"] }),
});

export const BlockdevOptionsRaw = struct("BlockdevOptionsRaw", {
  ...BlockdevOptionsGenericFormat.members,
  offset: opt(exactInt),
  size: opt(exactInt),
});

export const BlockdevOptionsNull = struct("BlockdevOptionsNull", {
  size: opt(int),
  "latency-ns": opt(exactUint64),
  "read-zeroes": opt(bool),
});

export const Qcow2OverlapCheckMode = enumeration("Qcow2OverlapCheckMode", [
  "none",
  "constant",
  "cached",
  "all",
]);
/** Overlap checks one by one; those that are not given are as `template` has them. */
export const Qcow2OverlapCheckFlags = struct("Qcow2OverlapCheckFlags", {
  template: opt(Qcow2OverlapCheckMode),
  "main-header": opt(bool),
  "active-l1": opt(bool),
  "active-l2": opt(bool),
  "refcount-table": opt(bool),
  "refcount-block": opt(bool),
  "snapshot-table": opt(bool),
  "inactive-l1": opt(bool),
  "inactive-l2": opt(bool),
  "bitmap-directory": opt(bool),
});
/** Overlap checks: a template's name, or one by one. */
export const Qcow2OverlapChecks: Schema<
  Infer<typeof Qcow2OverlapCheckMode> | Infer<typeof Qcow2OverlapCheckFlags>
> = alternate("Qcow2OverlapChecks", {
  flags: Qcow2OverlapCheckFlags,
  mode: Qcow2OverlapCheckMode,
});

export const BlockdevQcow2EncryptionFormat = enumeration("BlockdevQcow2EncryptionFormat", [
  "aes",
  "luks",
]);
/** The key of a legacy encrypted image. */
export const QCryptoBlockOptionsQCow = struct("QCryptoBlockOptionsQCow", {
  "key-secret": opt(str),
});
/** The key of a LUKS container. */
export const QCryptoBlockOptionsLUKS = struct("QCryptoBlockOptionsLUKS", {
  "key-secret": opt(str),
});
export const BlockdevQcow2Encryption = union(
  "BlockdevQcow2Encryption",
  { format: BlockdevQcow2EncryptionFormat },
  "format",
  { aes: QCryptoBlockOptionsQCow, luks: QCryptoBlockOptionsLUKS },
);

/** Sizes in bytes, the interval in seconds. */
export const BlockdevOptionsQcow2 = struct("BlockdevOptionsQcow2", {
  ...BlockdevOptionsGenericCOWFormat.members,
  "lazy-refcounts": opt(bool),
  "pass-discard-request": opt(bool),
  "pass-discard-snapshot": opt(bool),
  "pass-discard-other": opt(bool),
  "discard-no-unref": opt(bool),
  "overlap-check": opt(Qcow2OverlapChecks),
  "cache-size": opt(int),
  "l2-cache-size": opt(int),
  "l2-cache-entry-size": opt(int),
  "refcount-cache-size": opt(int),
  "cache-clean-interval": opt(int),
  encrypt: opt(BlockdevQcow2Encryption, { hidden: true }),
  "data-file": opt(BlockdevRef),
  "x-qsd-snapshot": opt(str),
});

/** Members that all drivers take. */
const blockdevCommonMembers = {
  driver: BlockdevDriver,
  "node-name": opt(str),
  discard: opt(BlockdevDiscardOptions),
  cache: opt(BlockdevCacheOptions),
  "read-only": opt(bool),
  "auto-read-only": opt(bool),
  "force-share": opt(bool),
  active: opt(bool),
  "detect-zeroes": opt(BlockdevDetectZeroesOptions),
} as const;

export const BlockdevOptions = union("BlockdevOptions", blockdevCommonMembers, "driver", {
  compress: BlockdevOptionsGenericFormat,
  file: BlockdevOptionsFile,
  host_cdrom: BlockdevOptionsFile,
  host_device: BlockdevOptionsFile,
  "null-aio": BlockdevOptionsNull,
  "null-co": BlockdevOptionsNull,
  qcow2: BlockdevOptionsQcow2,
  raw: BlockdevOptionsRaw,
});
export type BlockdevOptions = Infer<typeof BlockdevOptions>;
