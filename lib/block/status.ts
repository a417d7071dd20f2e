/**
 * Block status: what a range is made of. `layerStatus` is one layer's view, `chainStatus` what a user sees
 * through all backing files, `chainDepth` which layer provides it.
 */
import { assert, type MaybePromise } from "../base/mod.ts";
import type { BlockNode, Edge } from "./node.ts";
import { Placed, PlacementRecord } from "./placement.ts";
import type { Seam } from "./seam.ts";
import type { BlockStatus, FormatInstance } from "./types.ts";

/** Extents that `chainStatus` joins at most in one answer. */
const MAX_JOINED = 256;

/** A status to be filled in. */
export function emptyStatus(): BlockStatus {
  return { length: 0, allocated: false, data: false, zero: false };
}

function fill(
  out: BlockStatus,
  length: number,
  allocated: boolean,
  data: boolean,
  zero: boolean,
): void {
  out.length = length;
  out.allocated = allocated;
  out.data = data;
  out.zero = zero;
  delete out.offset;
  delete out.file;
}

/** The status of the front part of [offset, offset+length), as `node` itself tells. */
export function layerStatus(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): MaybePromise<void> {
  assert(length > 0, "status of nothing");
  const { instance } = node;
  const size = instance.size;
  if (offset >= size) return fill(out, length, false, false, true);
  const inside = Math.min(length, size - offset);
  if (instance.kind === "format") {
    return formatStatus(seam, node, instance, offset, inside, precise, out);
  }
  fill(out, inside, true, true, false);
  if (instance.status === undefined) {
    out.offset = offset;
    out.file = node;
    return undefined;
  }
  const { requestAlignment } = node.limits;
  const result = instance.status(offset, inside, precise, out);
  const check = () => {
    assert(out.length > 0, "a driver must make progress");
    if (requestAlignment > 1) wholeBlocks(out, offset, inside, requestAlignment);
    if (out.length > inside) out.length = inside;
  };
  return result === undefined ? check() : result.then(check);
}

/** An extent that ends inside a block of the node ends with the block before; a part of a block is data. */
function wholeBlocks(out: BlockStatus, offset: number, length: number, block: number): void {
  if (out.length >= length) return;
  const end = offset + out.length;
  const cut = end - (end % block);
  if (cut > offset) {
    out.length = cut - offset;
    return;
  }
  out.length = Math.min(length, cut + block - offset);
  out.data = true;
  out.zero = false;
  out.allocated = true;
}

async function formatStatus(
  seam: Seam,
  node: BlockNode,
  instance: FormatInstance,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): Promise<void> {
  const place = new PlacementRecord().begin(length);
  const pending = instance.locate(offset, length, place);
  if (pending !== undefined) await pending;
  switch (place.kind) {
    case Placed.child:
      return await childStatus(seam, node, place, precise, out);
    case Placed.zero:
      return fill(out, place.length, place.allocated, false, true);
    case Placed.unallocated:
      // Where there is no layer below, what nobody has written reads as zeroes.
      return fill(out, place.length, false, false, place.child === undefined);
    case Placed.encoded:
      return fill(out, place.length, true, true, false);
    default:
      throw new Error("unreachable: locate gave no answer");
  }
}

/** Data in a child: a transparent node shows the child's status, others their own, zeroes excepted. */
async function childStatus(
  seam: Seam,
  node: BlockNode,
  place: PlacementRecord,
  precise: boolean,
  out: BlockStatus,
): Promise<void> {
  const { at, length } = place;
  const edge = place.child!;
  const transparent = isTransparent(node, edge);
  if (!transparent && !precise) {
    fill(out, length, true, true, false);
    out.offset = at;
    out.file = edge.node;
    return;
  }
  await layerStatus(seam, edge.node, at, length, precise, out);
  if (transparent) return;
  const { zero } = out;
  fill(out, Math.min(out.length, length), true, true, zero);
  out.offset = at;
  out.file = edge.node;
}

/** Whether the status of `edge` shows through: filters, and raw, which is but a window on its child. */
function isTransparent(node: BlockNode, edge: Edge): boolean {
  return node.definition.kind === "filter" || edge.role.includes("filtered") ||
    node.definition.name === "raw";
}

/** The layer below `node`, where it defers to: its backing file. */
function backing(node: BlockNode): Edge | undefined {
  return node.children.find((edge) => edge.role.includes("cow"));
}

/** The layer above all that a filter passes through: its filtered child, or the node itself. */
function skipFilters(node: BlockNode): BlockNode {
  let at = node;
  while (at.definition.kind === "filter") {
    const below = at.children.find((edge) => edge.role.includes("filtered"));
    if (below === undefined) break;
    at = below.node;
  }
  return at;
}

/** The front part of a range through all layers, equal neighbours joined. `allocated`: by any layer. */
export function chainStatus(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): MaybePromise<void> {
  return joined(seam, node, offset, length, precise, out);
}

async function joined(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): Promise<void> {
  await throughLayers(seam, node, offset, length, precise, out);
  const next = emptyStatus();
  for (let i = 0; i < MAX_JOINED && out.length < length; i++) {
    await throughLayers(seam, node, offset + out.length, length - out.length, precise, next);
    if (
      next.allocated !== out.allocated || next.data !== out.data || next.zero !== out.zero ||
      next.file !== out.file ||
      (out.offset !== undefined && next.offset !== out.offset + out.length)
    ) break;
    out.length += next.length;
  }
}

async function throughLayers(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): Promise<number> {
  let layer = skipFilters(node);
  let left = length;
  for (let depth = 1;; depth++) {
    await layerStatus(seam, layer, offset, left, precise, out);
    assert(out.length > 0 && out.length <= left, "status outside the question");
    const below = out.allocated ? undefined : backing(layer);
    // Beyond the end of a short layer everything is zero, whatever lies below it.
    if (below === undefined || offset >= layer.size) {
      if (!out.allocated && !out.data) out.zero = true;
      return out.allocated ? depth : 0;
    }
    left = out.length;
    layer = skipFilters(below.node);
  }
}

/** Which layer provides the front part: 1 is the node itself; 0 none. */
export async function chainDepth(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): Promise<{ depth: number; length: number }> {
  const out = emptyStatus();
  const depth = await throughLayers(seam, node, offset, length, false, out);
  let total = out.length;
  for (let i = 0; i < MAX_JOINED && total < length; i++) {
    const more = await throughLayers(seam, node, offset + total, length - total, false, out);
    if (more !== depth) break;
    total += out.length;
  }
  return { depth, length: total };
}
