/** Options of qcow2 as users give them, resolved against an image: cache sizes, overlap checks, discards. */
import { alignUp, CommandError, isPowerOfTwo, KiB, MiB } from "../../../base/mod.ts";
import type { BlockdevOptionsQcow2 } from "../../../qmp/schema/blockdev.ts";
import type { Infer } from "../../../qmp/schema/core.ts";
import { refuseNegative } from "../filename.ts";
import { Compatible, geometryOf } from "./format.ts";
import type { Header } from "./header.ts";
import type { Geometry, ImageOptions, MetadataKind } from "./types.ts";

/** Options as validated. */
export type Qcow2Options = Infer<typeof BlockdevOptionsQcow2>;

/** Most bytes that the L2 cache takes by itself: enough for 256 GiB in clusters of 64 KiB. */
const MAX_DEFAULT_L2_CACHE = 32 * MiB;
/** Clusters of the refcount cache, at least and by default. */
const REFCOUNT_CLUSTERS = 4;
/** Bytes of an entry where the cache does not hold the tables of the whole disk. */
const SMALL_ENTRY = 4 * KiB;
const INT_MAX = 0x7fffffff;
/** Seconds. */
const CLEAN_INTERVAL = 600;
const MAX_CLEAN_INTERVAL = 0xffffffff;

/** Checks `options` against the image; CommandError in QEMU's words. `discard`: the node's own option. */
export function resolveOptions(
  options: Qcow2Options,
  header: Header,
  discard: "ignore" | "unmap",
): ImageOptions {
  const geometry = geometryOf(header);
  const interval = options["cache-clean-interval"] ?? CLEAN_INTERVAL;
  const caches = cacheSizes(options, header, geometry);
  if (interval < 0 || interval > MAX_CLEAN_INTERVAL) {
    throw new CommandError("Cache clean interval too big");
  }
  const lazyDefault = (header.compatibleFeatures & Compatible.lazyRefcounts) !== 0n;
  const lazyRefcounts = options["lazy-refcounts"] ?? lazyDefault;
  if (header.version < 3 && lazyRefcounts) {
    throw new CommandError(
      "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level",
    );
  }
  return {
    ...caches,
    cacheCleanInterval: interval,
    lazyRefcounts,
    passDiscardRequest: options["pass-discard-request"] ?? discard === "unmap",
    passDiscardSnapshot: options["pass-discard-snapshot"] ?? true,
    passDiscardOther: options["pass-discard-other"] ?? false,
    discardNoUnref: discardNoUnref(options, header),
    overlapCheck: overlapChecks(options["overlap-check"]),
  };
}

function discardNoUnref(options: Qcow2Options, header: Header): boolean {
  const wanted = options["discard-no-unref"] ?? false;
  if (wanted && header.version < 3) {
    throw new CommandError(
      "discard-no-unref is only supported since version 3",
    );
  }
  return wanted;
}

type CacheSizes = Pick<ImageOptions, "l2CacheSize" | "l2CacheEntrySize" | "refcountCacheSize">;

/** How the memory for metadata is divided (docs/qcow2-cache). All in bytes. */
function cacheSizes(options: Qcow2Options, header: Header, geometry: Geometry): CacheSizes {
  const { clusterSize, l2EntrySize } = geometry;
  const total = options["cache-size"];
  const l2 = options["l2-cache-size"];
  const refcount = options["refcount-cache-size"];
  for (const name of CACHE_OPTIONS) refuseNegative(name, options[name]);
  const tables = Math.ceil(header.size / clusterSize) * l2EntrySize;
  const needed = alignUp(tables, clusterSize);
  const leastRefcount = REFCOUNT_CLUSTERS * clusterSize;
  let sizes = {
    l2: Math.min(l2 ?? MAX_DEFAULT_L2_CACHE, Math.max(needed, clusterSize)),
    refcount: refcount ?? leastRefcount,
  };
  if (total !== undefined) {
    if (l2 !== undefined && refcount !== undefined) {
      throw new CommandError(
        "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
      );
    }
    if (l2 !== undefined && l2 > total) {
      throw new CommandError("l2-cache-size may not exceed cache-size");
    }
    if (refcount !== undefined && refcount > total) {
      throw new CommandError("refcount-cache-size may not exceed cache-size");
    }
    sizes = divide(total, l2, refcount, needed, leastRefcount);
  }
  const entry = options["l2-cache-entry-size"] ??
    (sizes.l2 < needed ? Math.min(SMALL_ENTRY, clusterSize) : clusterSize);
  if (entry < 512 || entry > clusterSize || !isPowerOfTwo(entry)) {
    throw new CommandError(
      `L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`,
    );
  }
  if (sizes.l2 / entry > INT_MAX) throw new CommandError("L2 cache size too big");
  if (sizes.refcount / clusterSize > INT_MAX) {
    throw new CommandError("Refcount cache size too big");
  }
  return { l2CacheSize: sizes.l2, l2CacheEntrySize: entry, refcountCacheSize: sizes.refcount };
}

const CACHE_OPTIONS = [
  "cache-size",
  "l2-cache-size",
  "l2-cache-entry-size",
  "refcount-cache-size",
] as const;

/** `total` for both caches: the L2 cache first, up to what the disk needs. */
function divide(
  total: number,
  l2: number | undefined,
  refcount: number | undefined,
  needed: number,
  leastRefcount: number,
): { l2: number; refcount: number } {
  if (l2 !== undefined) return { l2: Math.min(l2, needed), refcount: total - l2 };
  if (refcount !== undefined) return { l2: Math.min(total - refcount, needed), refcount };
  if (total >= needed + leastRefcount) return { l2: needed, refcount: total - needed };
  const least = Math.min(total, leastRefcount);
  return { l2: total - least, refcount: least };
}

/** The structures that users can choose, and the templates that have them by default. */
const CHECKS: readonly (readonly [option: string, kind: MetadataKind, from: number])[] = [
  ["main-header", "header", 1],
  ["active-l1", "active L1 table", 1],
  ["active-l2", "active L2 table", 2],
  ["refcount-table", "refcount table", 1],
  ["refcount-block", "refcount block", 2],
  ["snapshot-table", "snapshot table", 1],
  ["inactive-l1", "inactive L1 table", 2],
  ["inactive-l2", "inactive L2 table", 3],
  ["bitmap-directory", "bitmap directory", 1],
];
const TEMPLATES = ["none", "constant", "cached", "all"];

function overlapChecks(given: Qcow2Options["overlap-check"]): ReadonlySet<MetadataKind> {
  const flags: Readonly<Record<string, unknown>> = typeof given === "object" ? given : {};
  const template = typeof given === "string" ? given : flags["template"] ?? "cached";
  const level = TEMPLATES.indexOf(template as string);
  return new Set(
    CHECKS.filter(([option, , from]) => flags[option] ?? level >= from).map(([, kind]) => kind),
  );
}
