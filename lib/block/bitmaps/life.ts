/** Bitmaps as the graph sees them: loaded with an image, stored when it is closed, handed over or made read-only. */
import { CommandError } from "../../base/mod.ts";
import { FactsRound } from "../facts.ts";
import type { BitmapStore, DriverInstance } from "../types.ts";
import { checkSizes } from "./away.ts";
import { DirtyBitmap } from "./bitmap.ts";
import { Bits, MAX_BITS, MAX_GRANULARITY, MIN_GRANULARITY } from "./bits.ts";
import { BitmapList, checkFreeName, checkNewName } from "./list.ts";

/** What bitmaps need of a node. */
export interface BitmapNode {
  readonly name: string;
  readonly size: number;
  readonly instance: DriverInstance;
  readonly readOnly: boolean;
  readonly active: boolean;
  bitmaps: BitmapList | undefined;
}

/** Takes a bitmap into the node's list. Throws CommandError if its name cannot be. */
function attachBitmap(node: BitmapNode, bitmap: DirtyBitmap): void {
  const list = node.bitmaps ?? new BitmapList();
  list.add(bitmap);
  node.bitmaps = list;
}

/** Takes a bitmap out of the node's list. */
function detachBitmap(node: BitmapNode, bitmap: DirtyBitmap): void {
  node.bitmaps?.remove(bitmap);
  if (node.bitmaps?.length === 0) node.bitmaps = undefined;
}

/** Bits for a node. Throws CommandError where so many cannot be had. */
export function makeBits(name: string, size: number, granularity: number): Bits {
  const bits = size / granularity;
  try {
    if (bits <= MAX_BITS) return new Bits(size, granularity);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  throw new CommandError(`Bitmap '${name}' would need ${Math.ceil(bits / 8)} bytes of memory`);
}

/**
 * Takes in what the node's image holds; the image then says that it is in use, if it is writable. Throws with nothing
 * taken in.
 */
export async function loadBitmaps(node: BitmapNode): Promise<void> {
  const store = node.instance.bitmaps;
  if (store === undefined || !node.active) return;
  const loaded = await store.load();
  const list = new BitmapList();
  for (const bitmap of [...node.bitmaps?.all() ?? [], ...loaded]) list.add(bitmap);
  if (!node.readOnly) await store.claim();
  for (const bitmap of loaded) bitmap.readOnly = node.readOnly;
  if (loaded.length > 0) node.bitmaps = list;
}

/** Stores the persistent bitmaps, and forgets those that are in the image only then. */
export async function storeBitmaps(node: BitmapNode): Promise<void> {
  const store = storeOf(node);
  if (store === undefined) return;
  await node.bitmaps?.store(store);
}

/** As storeBitmaps, and forgets them: another process may have the image next. */
export async function handOverBitmaps(node: BitmapNode): Promise<void> {
  await storeBitmaps(node);
  for (const bitmap of [...node.bitmaps?.all() ?? []]) {
    if (bitmap.persistent) detachBitmap(node, bitmap);
  }
}

/** The node became read-only (what was to be stored was) or writable. */
export async function reopenBitmaps(node: BitmapNode): Promise<void> {
  const persistent = node.bitmaps?.all().filter((one) => one.persistent) ?? [];
  if (persistent.length === 0) return;
  if (!node.readOnly) await node.instance.bitmaps?.claim();
  for (const bitmap of persistent) bitmap.readOnly = node.readOnly;
}

/** The node's driver was closed and opened again: the bitmaps are as they were. */
export async function resumeBitmaps(node: BitmapNode): Promise<void> {
  if (node.bitmaps !== undefined && node.active) await node.instance.bitmaps?.resume();
}

function storeOf(node: BitmapNode): BitmapStore | undefined {
  return node.readOnly || !node.active || node.bitmaps === undefined
    ? undefined
    : node.instance.bitmaps;
}

/** What block-dirty-bitmap-add takes. */
export interface NewBitmap {
  readonly name: string;
  readonly granularity: number | undefined;
  readonly persistent: boolean;
  readonly disabled: boolean;
}

/** The granularity of a bitmap that says nothing about it: that of the image, within reason. */
async function defaultGranularity(node: BitmapNode): Promise<number> {
  const { clusterSize } = await new FactsRound().of(node);
  return Math.min(Math.max(clusterSize ?? 65536, 4096), 65536);
}

/** block-dirty-bitmap-add. Throws CommandError in QEMU's words, with nothing changed. */
export async function addBitmap(node: BitmapNode, wanted: NewBitmap): Promise<void> {
  const { name, persistent } = wanted;
  if (name === "") throw new CommandError("Bitmap name cannot be empty");
  const granularity = wanted.granularity ?? await defaultGranularity(node);
  if (
    granularity < MIN_GRANULARITY || granularity > MAX_GRANULARITY ||
    (granularity & (granularity - 1)) !== 0
  ) {
    throw new CommandError("Granularity must be power of 2 and at least 512");
  }
  if (persistent) {
    const store = node.instance.bitmaps;
    if (store === undefined) {
      throw new CommandError(
        `Can't store persistent bitmaps to ${node.name}: Operation not supported`,
      );
    }
    checkFreeName(node.bitmaps, name);
    await store.checkNew(name, granularity, node.bitmaps?.all() ?? []);
  }
  checkNewName(node.bitmaps, name);
  const bits = makeBits(name, node.size, granularity);
  attachBitmap(node, new DirtyBitmap(bits, { name, persistent, recording: !wanted.disabled }));
}

/** block-dirty-bitmap-remove. Throws CommandError with nothing changed. */
export async function removeBitmap(node: BitmapNode, bitmap: DirtyBitmap): Promise<void> {
  bitmap.check({ inconsistent: true });
  // Nothing else may begin to use it meanwhile.
  bitmap.users++;
  try {
    if (bitmap.persistent) await node.instance.bitmaps?.remove(bitmap.name);
  } finally {
    bitmap.users--;
  }
  detachBitmap(node, bitmap);
}

/** Throws CommandError unless `source` can be merged into `target`; what is wrong with the target is said first. */
export function checkMerge(target: DirtyBitmap, source: DirtyBitmap): void {
  target.check();
  source.check({ readOnly: true });
  checkSizes(target.bits.size, source.bits.size);
}
