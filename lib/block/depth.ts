/**
 * How deep nodes may be stacked. A request goes down its nodes by plain calls, so the stack sets a limit;
 * management tools keep to chains of 200 images.
 */
import { CommandError } from "../base/mod.ts";
import type { BlockNode } from "./node.ts";

/** Most nodes from a user down to the last child. */
export const MAX_DEPTH = 500;

/** Length of the longest path from a node along `next`, itself included. */
type Longest = (node: BlockNode) => number;

function longest(next: (node: BlockNode) => Iterable<BlockNode>): Longest {
  const known = new Map<BlockNode, number>();
  const measure = (node: BlockNode): number => {
    const before = known.get(node);
    if (before !== undefined) return before;
    let most = 0;
    for (const one of next(node)) most = Math.max(most, measure(one));
    known.set(node, most + 1);
    return most + 1;
  };
  return measure;
}

function* childrenOf(node: BlockNode): Iterable<BlockNode> {
  for (const edge of node.children) yield edge.node;
}
function* parentsOf(node: BlockNode): Iterable<BlockNode> {
  for (const parent of node.parents) if ("parent" in parent) yield parent.parent;
}

/** Measures from nodes down to their last children; good for as long as nodes that were measured stay as they are. */
export function heights(): Longest {
  return longest(childrenOf);
}

/** Refuses `child` below `parent` where the stack of nodes would become too deep. */
export function checkDepth(parent: BlockNode, child: BlockNode, height = heights()): void {
  if (longest(parentsOf)(parent) + height(child) <= MAX_DEPTH) return;
  throw new CommandError(
    `Node '${child.name}' cannot be a child of '${parent.name}': more than ${MAX_DEPTH} nodes deep`,
  );
}
