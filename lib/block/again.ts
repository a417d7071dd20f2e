/**
 * Closing a node's driver in one context and opening it in another. The node keeps its name, options, children and
 * permissions; only its instance is another one afterwards.
 */
import { resumeBitmaps } from "./bitmaps/mod.ts";
import type { BlockNode } from "./node.ts";
import { NodeOpenContext, type OpenGraph, Opening } from "./open.ts";
import { driverOptions } from "./options.ts";
import type { NodeRecord } from "./thread_types.ts";
import type { Child, HandedOver } from "./types.ts";

/** What a driver is given when its node is opened once more: the children are those that it had. */
class AgainContext extends NodeOpenContext {
  constructor(
    graph: OpenGraph,
    private readonly again: BlockNode,
    readonly handedOver: HandedOver | undefined,
  ) {
    super(graph, new Opening(graph), again);
  }

  override namedChild(name: string): Promise<Child | undefined> {
    return this.optionalChild(name);
  }
  override optionalChild(name: string): Promise<Child | undefined> {
    return Promise.resolve(this.again.edge(name));
  }
}

/**
 * Opens the driver of `node`, whose edges exist, with the permissions that the node has. Throws with nothing opened;
 * what was handed over is then still open, and its giver's business.
 */
export async function openAgain(
  graph: OpenGraph,
  node: BlockNode,
  record: NodeRecord,
  quiesced: boolean,
): Promise<void> {
  const open = new AgainContext(graph, node, record.handedOver);
  const instance = await node.definition.open(open, driverOptions(node.options));
  try {
    node.instance = instance;
    const { needed, shared } = node.permissions;
    (await instance.preparePermissions?.(needed, shared))?.commit();
    await resumeBitmaps(node);
    if (quiesced) await instance.quiesce?.();
  } catch (error) {
    if (record.handedOver === undefined || instance.handOver === undefined) await instance.close();
    else await instance.handOver();
    throw error;
  }
  node.drained = quiesced ? 1 : 0;
  node.closed = false;
  node.writeThreshold = record.writeThreshold;
  node.writeHighest = record.writeHighest;
}

/** Closes the driver of a drained and flushed `node`, which is to be opened again somewhere. */
export async function closeForNow(graph: OpenGraph, node: BlockNode): Promise<NodeRecord> {
  const { instance, writeThreshold, writeHighest } = node;
  let handedOver: HandedOver | undefined;
  if (instance.handOver !== undefined) {
    handedOver = await instance.handOver();
  } else {
    try {
      await instance.close();
    } catch (error) {
      // As when a node is deleted: what was acknowledged has been flushed before.
      graph.context.log.warn(`closing node '${node.name}': ${String(error)}`);
    }
  }
  return { handedOver, writeThreshold, writeHighest };
}
