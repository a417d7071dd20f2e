/** Dirty bitmaps (QAPI block-core). How a bitmap is referred to is in export.ts. */
import { array, bool, command, empty, opt, str, struct, uint32 } from "./core.ts";
import { BlockDirtyBitmap, BlockDirtyBitmapOrStr } from "./export.ts";

const notFound = ["`Node 'N' not found`", "`Dirty bitmap 'X' not found`"];
const unusable = [
  "`Bitmap 'X' is currently in use by another operation and cannot be used`",
  "`Bitmap 'X' is inconsistent and cannot be used`: only removing it helps",
];
const readonly = "`Bitmap 'X' is readonly and cannot be modified`";

/** A new bitmap. The granularity in bytes. */
export const BlockDirtyBitmapAdd = struct("BlockDirtyBitmapAdd", {
  node: str,
  name: str,
  granularity: opt(uint32),
  persistent: opt(bool),
  disabled: opt(bool),
});
/** What is merged into what. */
export const BlockDirtyBitmapMerge = struct("BlockDirtyBitmapMerge", {
  node: str,
  target: str,
  bitmaps: array(BlockDirtyBitmapOrStr),
});
/** A checksum of a bitmap's bits. */
export const BlockDirtyBitmapSha256 = struct("BlockDirtyBitmapSha256", { sha256: str });

/** Commands on dirty bitmaps. */
export const bitmapCommandTable = {
  "block-dirty-bitmap-add": command(BlockDirtyBitmapAdd, empty, {
    doc:
      "Begins to record in a new bitmap which parts of a node are written. Granularity: the cluster size, between 4 and 64 KiB, if not given.",
    errors: [
      "`Cannot find device='N' nor node-name='N'`",
      "`Bitmap name cannot be empty`, `Bitmap name too long: X`, `Bitmap already exists: X`",
      "`Granularity must be power of 2 and at least 512`",
      "`Can't store persistent bitmaps to N: Operation not supported`",
    ],
  }),
  "block-dirty-bitmap-remove": command(BlockDirtyBitmap, empty, {
    doc: "Forgets a bitmap; a persistent one is removed from its image, too.",
    errors: [...notFound, unusable[0]!, readonly],
  }),
  "block-dirty-bitmap-clear": command(BlockDirtyBitmap, empty, {
    doc: "Calls everything clean.",
    errors: [...notFound, ...unusable, readonly],
  }),
  "block-dirty-bitmap-enable": command(BlockDirtyBitmap, empty, {
    doc: "Records from now on.",
    errors: [...notFound, ...unusable],
  }),
  "block-dirty-bitmap-disable": command(BlockDirtyBitmap, empty, {
    doc: "Records no more; what is dirty stays so.",
    errors: [...notFound, ...unusable],
  }),
  "block-dirty-bitmap-merge": command(BlockDirtyBitmapMerge, empty, {
    doc: "Calls dirty in one bitmap what is so in others; all are taken or none.",
    errors: [
      ...notFound,
      ...unusable,
      readonly,
      "`Bitmaps are of different sizes (destination size is A, source size is B) and can't be merged`",
    ],
  }),
  "x-debug-block-dirty-bitmap-sha256": command(BlockDirtyBitmap, BlockDirtyBitmapSha256, {
    features: ["unstable"],
    doc: "A checksum of the bits as they are in memory.",
    errors: notFound,
  }),
} as const;
