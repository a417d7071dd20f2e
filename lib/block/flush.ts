/** Flushes: a node's own part, one at a time and not without need, then what lies below it. */
import type { MaybePromise } from "../base/mod.ts";
import { Bounded } from "./bounded.ts";
import type { BlockNode } from "./node.ts";
import type { Seam } from "./seam.ts";
import { Perm } from "./types.ts";

/** Makes every write to `node` that has completed durable. */
export function flushNode(seam: Seam, node: BlockNode): MaybePromise<void> {
  // Others may have written there: only its own context knows whether there is something to flush.
  if (node.elsewhere !== undefined) {
    return seam.track(node, "flush", 0, 0, Promise.resolve(node.elsewhere.flush!()));
  }
  const own = flushOwn(seam, node, node.writeGeneration);
  if (own === undefined) return flushChildren(seam, node);
  return own.then(() => flushChildren(seam, node));
}

/** `covering`: the writes that had completed when it was asked for. */
function flushOwn(seam: Seam, node: BlockNode, covering: number): MaybePromise<void> {
  const instance = node.instance;
  if (instance.flush === undefined || node.flushedGeneration >= covering) return undefined;
  if (instance.kind === "io" && node.common.noFlush) return undefined;
  // One flush at a time: whoever comes meanwhile waits and looks again whether it was covered.
  if (node.flushing !== undefined) {
    const again = () => flushOwn(seam, node, covering);
    return node.flushing.then(again, again);
  }
  const generation = node.writeGeneration;
  const result = instance.flush();
  if (result === undefined) {
    node.flushedGeneration = generation;
    return undefined;
  }
  node.flushing = seam.track(node, "flush", 0, 0, result).then(
    () => {
      node.flushedGeneration = generation;
      node.flushing = undefined;
    },
    (error) => {
      node.flushing = undefined;
      throw error;
    },
  );
  return node.flushing;
}

function flushChildren(seam: Seam, node: BlockNode): MaybePromise<void> {
  let bounded: Bounded | undefined;
  for (const edge of node.children) {
    if ((edge.needed & (Perm.write | Perm.writeUnchanged)) === 0) continue;
    if (node.children.length === 1) return seam.flush(edge.node);
    (bounded ??= new Bounded()).run(() => seam.flush(edge.node));
  }
  return bounded?.finish();
}
