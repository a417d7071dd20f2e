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
export const OnOffAuto = enumeration("OnOffAuto", ["auto", "on", "off"]);
export const BlockdevDriver = enumeration("BlockdevDriver", [
  "file",
  "compress",
  "host_cdrom",
  "host_device",
  "null-aio",
  "null-co",
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

/** Members that all drivers take. */
export const blockdevCommonMembers = {
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
  file: BlockdevOptionsFile,
  host_cdrom: BlockdevOptionsFile,
  host_device: BlockdevOptionsFile,
  "null-aio": BlockdevOptionsNull,
  "null-co": BlockdevOptionsNull,
  raw: BlockdevOptionsRaw,
});
export type BlockdevOptions = Infer<typeof BlockdevOptions>;
  compress: BlockdevOptionsGenericFormat,
