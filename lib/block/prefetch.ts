/** Prefetching: advice that goes down the chain to whoever can take it. */
import type { MaybePromise } from "../base/mod.ts";
import type { BlockNode } from "./node.ts";
import { Placed, PlacementRecord } from "./placement.ts";
import type { Seam } from "./seam.ts";

/** Brings [offset, offset+length) into the cache of the drivers below that have one. */
export function prefetchRange(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): MaybePromise<void> {
  const { instance } = node;
  const inside = Math.min(length, instance.size - offset);
  if (inside <= 0) return undefined;
  if (instance.kind === "io") {
    const result = instance.prefetch?.(offset, inside);
    return result === undefined ? undefined : seam.track(node, "prefetch", offset, inside, result);
  }
  return throughFormat(seam, node, offset, inside);
}

async function throughFormat(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): Promise<void> {
  const { instance } = node;
  if (instance.kind !== "format") return;
  const place = new PlacementRecord();
  for (let done = 0; done < length; done += place.length) {
    await instance.locate(offset + done, length - done, place.begin(length - done));
    if (place.kind === Placed.child) {
      await prefetchRange(seam, place.child!.node, place.at, place.length);
    } else if (place.kind === Placed.unallocated && place.child !== undefined) {
      await prefetchRange(seam, place.child.node, offset + done, place.length);
    }
  }
}
