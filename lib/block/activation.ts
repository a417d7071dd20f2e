/**
 * Handing images over between processes (blockdev-set-active, QEMU 10.0): an inactive node is only read, needs and
 * locks nothing, and shares everything. Above an inactive node all nodes are inactive too. Runs in the graph's
 * queue, with everything drained; either all nodes change or none.
 */
import { CommandError } from "../base/mod.ts";
import { Backend } from "./backend.ts";
import { handOverBitmaps, loadBitmaps } from "./bitmaps/mod.ts";
import type { DrainedSection } from "./graph_types.ts";
import { type BlockNode, childrenFirst } from "./node.ts";
import type { PermissionPlan } from "./permission_update.ts";

/** What activation needs of the graph. */
export interface ActivationGraph {
  readonly seam: { flush(node: BlockNode): unknown };
  drain(): Promise<DrainedSection>;
  updatePermissions(plan: PermissionPlan): Promise<void>;
  /** Length or limits of the node may have changed. */
  changed(node: BlockNode): void;
}

/** Activates `nodes` and all nodes below them. Throws CommandError or BlockError with nothing changed. */
export async function activate(
  graph: ActivationGraph,
  nodes: readonly BlockNode[],
): Promise<void> {
  const order = childrenFirst(nodes).filter((node) => !node.active);
  await whileDrained(graph, async () => {
    await settle(graph, order, true);
    const done: BlockNode[] = [];
    const loaded = new Set<BlockNode>();
    try {
      for (const node of order) {
        await node.instance.activate?.();
        done.push(node);
        node.refreshLimits();
        await loadBitmaps(node);
        loaded.add(node);
      }
    } catch (error) {
      for (const node of done.reverse()) {
        if (loaded.has(node)) await handOverBitmaps(node);
        await node.instance.inactivate?.();
      }
      await settle(graph, order, false);
      throw error;
    }
    for (const node of order) graph.changed(node);
  });
}

/** Inactivates `nodes`, and of the nodes below them those that nothing active uses. Throws as `activate`. */
export async function inactivate(
  graph: ActivationGraph,
  nodes: readonly BlockNode[],
): Promise<void> {
  await whileDrained(graph, async () => {
    const order = toInactivate(nodes);
    const withoutBitmaps: BlockNode[] = [];
    const inactive = new Set<BlockNode>();
    try {
      for (const node of order) {
        await handOverBitmaps(node);
        withoutBitmaps.push(node);
        await graph.seam.flush(node);
        await node.instance.inactivate?.();
        inactive.add(node);
      }
      await settle(graph, order, false);
    } catch (error) {
      for (const node of withoutBitmaps.reverse()) {
        if (inactive.has(node)) await node.instance.activate?.();
        await loadBitmaps(node);
      }
      throw error;
    }
  });
}

async function whileDrained(graph: ActivationGraph, act: () => Promise<void>): Promise<void> {
  const section = await graph.drain();
  try {
    await act();
  } finally {
    section.end();
  }
}

/** Takes or gives up permissions, and with them locks. */
async function settle(
  graph: ActivationGraph,
  nodes: readonly BlockNode[],
  active: boolean,
): Promise<void> {
  await graph.updatePermissions({ nodes: new Map(nodes.map((node) => [node, { active }])) });
  for (const node of nodes) node.common.active = active;
}

/** The nodes that become inactive, each before those that it stands on. Throws where one of `nodes` cannot. */
function toInactivate(nodes: readonly BlockNode[]): BlockNode[] {
  const asked = new Set(nodes);
  const chosen = new Set<BlockNode>();
  for (const node of childrenFirst(nodes).reverse()) {
    if (!node.active) continue;
    const user = node.parents.find((parent) =>
      parent instanceof Backend
        ? parent.options.allowInactive !== true
        : parent.parent.active && !chosen.has(parent.parent)
    );
    if (user === undefined) {
      chosen.add(node);
    } else if (asked.has(node)) {
      const who = user instanceof Backend ? user.describe : user.parent.describe;
      throw new CommandError(`Node '${node.name}' is in use by ${who}, which needs it active`);
    }
  }
  return [...chosen];
}
