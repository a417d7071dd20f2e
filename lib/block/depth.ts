/**
 * How deep nodes may be stacked. A request goes down its nodes by plain calls, so the stack sets a limit;
 * management tools keep to chains of 200 images.
 */
import { CommandError } from "../base/mod.ts";
import type { BlockNode } from "./node.ts";

/** Most nodes from a user down to the last child. */
export const MAX_DEPTH = 500;

/** Length of the longest path from `node` along `next`, itself included; stops counting at the limit. */
function longest(node: BlockNode, next: (node: BlockNode) => Iterable<BlockNode>): number {
  let level = new Set([node]);
  let depth = 0;
  while (level.size > 0 && depth <= MAX_DEPTH) {
    depth++;
    const below = new Set<BlockNode>();
    for (const at of level) for (const one of next(at)) below.add(one);
    level = below;
  }
  return depth;
}

function* childrenOf(node: BlockNode): Iterable<BlockNode> {
  for (const edge of node.children) yield edge.node;
}
function* parentsOf(node: BlockNode): Iterable<BlockNode> {
  for (const parent of node.parents) if ("parent" in parent) yield parent.parent;
}

/** Refuses `child` below `parent` where the stack of nodes would become too deep. */
export function checkDepth(parent: BlockNode, child: BlockNode): void {
  if (longest(parent, parentsOf) + longest(child, childrenOf) <= MAX_DEPTH) return;
  throw new CommandError(
    `Node '${child.name}' cannot be a child of '${parent.name}': more than ${MAX_DEPTH} nodes deep`,
  );
}
