/**
 * Block status: what a range is made of. `layerStatus` is one layer's view, `chainStatus` what a user sees
 * through all backing files, `chainDepth` which layer provides it.
 */
import { assert, chain, type MaybePromise } from "../base/mod.ts";
import type { BlockNode, Edge } from "./node.ts";
import { Placed, PlacementRecord } from "./placement.ts";
import type { BlockStatus } from "./types.ts";

/** Extents that `chainStatus` joins at most in one answer. */
const MAX_JOINED = 256;

/** A status to be filled in. */
export function emptyStatus(): BlockStatus {
  return { length: 0, allocated: false, data: false, zero: false };
}

/** What an extent can be made of. */
const Contents = {
  data: { allocated: true, data: true, zero: false },
  /** Data that is known to be zeroes. */
  zeroData: { allocated: true, data: true, zero: true },
  /** Zeroes without data, which this layer says itself. */
  zeroes: { allocated: true, data: false, zero: true },
  /** This layer has nothing; what is below it shows. */
  deferred: { allocated: false, data: false, zero: false },
  /** This layer has nothing, nor can any below it. */
  nothing: { allocated: false, data: false, zero: true },
} as const;

function fill(out: BlockStatus, length: number, contents: typeof Contents[keyof typeof Contents]) {
  out.length = length;
  out.allocated = contents.allocated;
  out.data = contents.data;
  out.zero = contents.zero;
  delete out.offset;
  delete out.file;
}

/** The status of the front part of [offset, offset+length), as `node` itself tells. */
export function layerStatus(
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): MaybePromise<void> {
  assert(length > 0, "status of nothing");
  const { instance } = node;
  const size = instance.size;
  if (offset >= size) return fill(out, length, Contents.nothing);
  const inside = Math.min(length, size - offset);
  if (instance.kind === "format") {
    const place = new PlacementRecord().begin(inside);
    const located = instance.locate(offset, inside, place);
    return chain(located, () => placedStatus(node, place, precise, out));
  }
  fill(out, inside, Contents.data);
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

/** What a format's answer says. */
function placedStatus(
  node: BlockNode,
  place: PlacementRecord,
  precise: boolean,
  out: BlockStatus,
): MaybePromise<void> {
  switch (place.kind) {
    case Placed.child:
      return childStatus(node, place, precise, out);
    case Placed.zero:
      return fill(out, place.length, place.allocated ? Contents.zeroes : Contents.nothing);
    case Placed.unallocated:
      // Where there is no layer below, what nobody has written reads as zeroes.
      return fill(
        out,
        place.length,
        place.child === undefined ? Contents.nothing : Contents.deferred,
      );
    default:
      assert(place.kind === Placed.encoded, "locate gave no answer");
      return fill(out, place.length, Contents.data);
  }
}

/** Data in a child: a transparent node shows the child's status, others their own, zeroes excepted. */
function childStatus(
  node: BlockNode,
  place: PlacementRecord,
  precise: boolean,
  out: BlockStatus,
): MaybePromise<void> {
  const { at, length } = place;
  const edge = place.child!;
  const transparent = isTransparent(node, edge);
  const own = (size: number, zero: boolean) => {
    fill(out, size, zero ? Contents.zeroData : Contents.data);
    out.offset = at;
    out.file = edge.node;
  };
  if (!transparent && !precise) return own(length, false);
  const asked = layerStatus(edge.node, at, length, precise, out);
  return transparent ? asked : chain(asked, () => own(out.length, out.zero));
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
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): MaybePromise<void> {
  return chain(
    throughLayers(node, offset, length, precise, out),
    () => out.length < length ? joinMore(node, offset, length, precise, out) : undefined,
  );
}

async function joinMore(
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
): Promise<void> {
  const next = emptyStatus();
  for (let i = 0; i < MAX_JOINED && out.length < length; i++) {
    await throughLayers(node, offset + out.length, length - out.length, precise, next);
    if (
      next.allocated !== out.allocated || next.data !== out.data || next.zero !== out.zero ||
      next.file !== out.file ||
      (out.offset !== undefined && next.offset !== out.offset + out.length)
    ) break;
    out.length += next.length;
  }
}

/**
 * Asks the layers from `node` down until one provides the front part. Its depth: 1 is `node`, 0 none; layers that
 * another context has are counted only if `counting`.
 */
function throughLayers(
  node: BlockNode,
  offset: number,
  length: number,
  precise: boolean,
  out: BlockStatus,
  counting = false,
  depth = 1,
): MaybePromise<number> {
  const layer = skipFilters(node);
  const elsewhere = counting ? layer.elsewhere : undefined;
  if (elsewhere?.depth !== undefined && offset < elsewhere.size) {
    const asked = elsewhere.depth(offset, Math.min(length, elsewhere.size - offset), out);
    return asked.then((below) => below === 0 ? 0 : depth - 1 + below);
  }
  return chain(layerStatus(layer, offset, length, precise, out), () => {
    assert(out.length > 0 && out.length <= length, "status outside the question");
    const below = out.allocated ? undefined : backing(layer);
    // Beyond the end of a short layer everything is zero, whatever lies below it.
    if (below !== undefined && offset < layer.size) {
      return throughLayers(below.node, offset, out.length, precise, out, counting, depth + 1);
    }
    // As in QEMU a layer that is too short for its overlay is what makes the rest zero.
    if (depth > 1 && offset >= layer.size) return depth;
    // A format's holes read as zeroes; a protocol says itself what is to be found in its own.
    if (!out.allocated && !out.data && layer.instance.kind === "format") out.zero = true;
    return out.allocated ? depth : 0;
  });
}

/** Which layer provides the front part: 1 is the node itself; 0 none. */
export async function chainDepth(
  node: BlockNode,
  offset: number,
  length: number,
): Promise<{ depth: number; length: number }> {
  const out = emptyStatus();
  const depth = await throughLayers(node, offset, length, false, out, true);
  let total = out.length;
  for (let i = 0; i < MAX_JOINED && total < length; i++) {
    const more = await throughLayers(node, offset + total, length - total, false, out, true);
    if (more !== depth) break;
    total += out.length;
  }
  return { depth, length: total };
}
