/**
 * Closing nodes that nobody holds: parents before their children, which are closed in turn unless somebody else holds
 * them. In the graph's queue only. Failures are logged: there is nobody left who could be told.
 */
import { storeBitmaps } from "./bitmaps/mod.ts";
import { Bounded } from "./bounded.ts";
import type { BlockNode } from "./node.ts";
import { type OpenGraph, unlink } from "./open.ts";
import type { Places } from "./places.ts";

/** What closing needs of the graph. */
export interface ClosingGraph extends OpenGraph {
  readonly places: Places;
  /** Nobody finds the node any more. */
  remove(node: BlockNode): void;
}

/** Whether somebody wants the node to be there. */
const isHeld = (node: BlockNode): boolean => node.monitorOwned || node.parents.length > 0;

/** Closes `node`, if nobody holds it any more, and then what it held. */
export async function disposeNode(graph: ClosingGraph, node: BlockNode): Promise<void> {
  if (node.closed || isHeld(node)) return;
  await close(graph, node);
  for (const child of await forget(graph, node)) await disposeNode(graph, child);
}

/**
 * Closes all nodes of a graph. Those that have no parents are closed several at once, so that their flushes share
 * what the disk does for each; then come those that have none left.
 */
export async function closeNodes(graph: ClosingGraph, nodes: readonly BlockNode[]): Promise<void> {
  for (const node of nodes) node.monitorOwned = false;
  let free = nodes.filter((node) => !isHeld(node));
  while (free.length > 0) {
    const closing = new Bounded();
    for (const node of free) await closing.run(() => close(graph, node));
    await closing.finish();
    const below = new Set<BlockNode>();
    for (const node of free) for (const child of await forget(graph, node)) below.add(child);
    free = [...below].filter((node) => !isHeld(node));
  }
}

/** Makes what was written to `node` durable and closes its driver. Its children stay as they are. */
async function close(graph: ClosingGraph, node: BlockNode): Promise<void> {
  await guard(graph, "lost persistent bitmaps of", node, () => storeBitmaps(node));
  await guard(graph, "flushing", node, () => graph.seam.flush(node));
  node.closed = true;
  await guard(graph, "closing", node, () => node.instance.close());
}

/** Takes a closed node out of the graph. Returns the children that it had. */
async function forget(graph: ClosingGraph, node: BlockNode): Promise<BlockNode[]> {
  const below = [...node.children];
  for (const edge of below) unlink(edge);
  graph.remove(node);
  const released = below.map((edge) => edge.node);
  const permissions = () => graph.updatePermissions({ released });
  await guard(graph, "giving up the permissions of", node, permissions);
  await guard(graph, "forgetting", node, () => graph.places.settle());
  return released;
}

async function guard(
  graph: ClosingGraph,
  what: string,
  node: BlockNode,
  act: () => unknown,
): Promise<void> {
  try {
    await act();
  } catch (error) {
    graph.context.log.warn(`${what} node '${node.name}': ${String(error)}`);
  }
}
