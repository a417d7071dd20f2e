/**
 * blockdev-reopen: new options for open nodes, all of a list or none. Options that are not given go back to
 * their defaults. Children: the same reference keeps a child, another replaces it; an object reopens an inline
 * child.
 *
 * Everything is drained meanwhile. Order: new options are worked out, drivers prepare, permissions of the
 * graph as it will be are prepared; then drivers commit, edges move, permissions commit.
 */
import { CommandError } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { reopenBitmaps, storeBitmaps } from "./bitmaps/mod.ts";
import { checkDepth } from "./depth.ts";
import type { BlockGraph } from "./graph.ts";
import { type BlockNode, type CommonOptions, Edge } from "./node.ts";
import { link } from "./open.ts";
import { NodeContext } from "./open_context.ts";
import { commonOptions, driverOptions, type Inheritance } from "./options.ts";
import { preparePermissions } from "./permission_update.ts";
import type { NamedChild } from "./driver_types.ts";
import type { Child, ChildRole, ReopenChange } from "./types.ts";

/** A node that is reopened. */
interface Item {
  readonly node: BlockNode;
  readonly options: BlockdevOptionsValue;
  readonly common: CommonOptions;
  /** Children that point elsewhere afterwards. */
  readonly moved: Map<Edge, BlockNode>;
  /** What children will be to the node, as its driver said. */
  readonly roles: Map<Edge, readonly ChildRole[]>;
  /** Children that are given up. */
  readonly dropped: Edge[];
  /** Children that it had not before. */
  readonly added: Edge[];
}

/** Reopens all nodes of `list`, or none. An empty list is a success. In the graph's queue only. */
export async function reopenNodes(
  graph: BlockGraph,
  list: readonly BlockdevOptionsValue[],
): Promise<void> {
  const items = new Map<BlockNode, Item>();
  for (const options of list) {
    const name = options["node-name"];
    if (name === undefined) throw new CommandError("node-name not specified");
    const node = graph.find(name);
    if (node === undefined) throw new CommandError(`Failed to find node with node-name='${name}'`);
    collect(graph, items, node, options, undefined);
  }
  if (items.size === 0) return;
  const section = await graph.drain();
  try {
    for (const { node } of items.values()) await graph.seam.flush(node);
    await transact(graph, [...items.values()]);
  } finally {
    section.end();
  }
}

/** Works out what `options` mean for `node` and its inline children. Nothing is changed. */
function collect(
  graph: BlockGraph,
  items: Map<BlockNode, Item>,
  node: BlockNode,
  options: BlockdevOptionsValue,
  inheritance: Inheritance | undefined,
): void {
  if (options.driver !== node.driver) throw new CommandError("Cannot change the option 'driver'");
  const given = options["node-name"];
  if (given !== undefined && given !== node.name) {
    throw new CommandError("Cannot change the option 'node-name'");
  }
  const common = commonOptions(options, inheritance, node.common);
  if (common.forceShare !== node.common.forceShare) {
    throw new CommandError(
      options["force-share"] === undefined
        ? "Option 'force-share' cannot be reset to its default value"
        : "Cannot change the option 'force-share'",
    );
  }
  if (options["active"] !== undefined && options["active"] !== node.active) {
    throw new CommandError("Cannot change the option 'active'");
  }
  common.active = node.active;
  const item: Item = {
    node,
    options,
    common,
    moved: new Map(),
    roles: new Map(),
    dropped: [],
    added: [],
  };
  items.set(node, item);
  for (const edge of node.children) collectChild(graph, items, item, edge);
}

/** Children that a reopen may put another node in place of. */
const MOVABLE: readonly string[] = ["file", "backing"];

function collectChild(
  graph: BlockGraph,
  items: Map<BlockNode, Item>,
  item: Item,
  edge: Edge,
): void {
  const value = item.options[edge.name] as string | BlockdevOptionsValue | null | undefined;
  const inherit = { parent: item.common, role: edge.role };
  if (value === undefined && edge.role.includes("cow")) {
    throw new CommandError(`${edge.name} is missing for '${item.node.name}'`);
  }
  if (value === null) {
    item.dropped.push(edge);
  } else if (typeof value === "object") {
    if (!edge.owned) throw new CommandError(`Cannot change the option '${edge.name}.driver'`);
    collect(graph, items, edge.node, value, inherit);
  } else if (value !== undefined && value !== edge.node.name) {
    if (!MOVABLE.includes(edge.name)) {
      throw new CommandError(`Cannot change the option '${edge.name}'`);
    }
    item.moved.set(edge, target(graph, item.node, edge.name, value));
  } else if (edge.owned && !items.has(edge.node)) {
    // Kept, but what it inherits may change.
    collect(graph, items, edge.node, edge.node.options, inherit);
  }
}

/** The node that `name` refers to, as the new end of the edge `child`. */
function target(graph: BlockGraph, node: BlockNode, child: string, name: string): BlockNode {
  const found = graph.lookup(undefined, name);
  const below = new Set([found]);
  for (const at of below) for (const child of at.children) below.add(child.node);
  if (below.has(node)) {
    throw new CommandError(
      `Making '${name}' a ${child} child of '${node.name}' would create a cycle`,
    );
  }
  checkDepth(node, found);
  return found;
}

/** Prepares everything that can fail, then commits; or aborts with nothing changed. */
async function transact(graph: BlockGraph, items: readonly Item[]): Promise<void> {
  const changes: ReopenChange[] = [];
  let permissions;
  try {
    for (const item of items) {
      // A driver that becomes read-only may write for the last time before it prepares.
      if (item.common.readOnly) await storeBitmaps(item.node);
      changes.push(await prepare(graph, item));
    }
    // A dropped edge stays until after the commit: what it needs cannot be in the way of anything new.
    permissions = await preparePermissions({
      nodes: new Map(items.map(({ node, options, common }) => [
        node,
        { readOnly: common.readOnly, forceShare: common.forceShare, options },
      ])),
      roles: new Map(items.flatMap(({ roles }) => [...roles])),
      added: items.flatMap(({ added }) => added),
      targets: new Map(items.flatMap(({ moved }) => [...moved])),
    });
  } catch (error) {
    for (const change of changes.reverse()) await change.abort();
    for (const { node } of items) await reopenBitmaps(node);
    throw error;
  }
  for (const change of changes) await change.commit();
  const released: BlockNode[] = [];
  for (const item of items) released.push(...applyItem(item));
  await graph.places.publish(permissions.commit());
  const failures = await finish(changes);
  for (const { node } of items) {
    graph.changed(node);
    await reopenBitmaps(node);
  }
  if (released.length > 0) {
    await graph.updatePermissions({ released });
    for (const node of released) await graph.dispose(node);
  }
  if (failures.length > 0) throw failures[0];
}

/** What comes after the commit, for all of them; what failed. */
async function finish(changes: readonly ReopenChange[]): Promise<unknown[]> {
  const failures: unknown[] = [];
  for (const change of changes) {
    try {
      await change.finish?.();
    } catch (error) {
      failures.push(error);
    }
  }
  return failures;
}

async function prepare(graph: BlockGraph, item: Item): Promise<ReopenChange> {
  const { node } = item;
  const { instance } = node;
  if (instance.prepareReopen === undefined) {
    throw new CommandError(
      `Block format '${node.driver}' used by node '${node.name}' does not support reopening files`,
    );
  }
  const next = new ReopenContext(graph, item);
  return await instance.prepareReopen(next, driverOptions(item.options));
}

/** Gives a node its new options and children. Returns the nodes that lost a parent. */
function applyItem(item: Item): BlockNode[] {
  const { node, options, common, moved, roles, dropped, added } = item;
  const released: BlockNode[] = [];
  node.options = { ...options, "node-name": node.name };
  node.common = common;
  for (const [edge, role] of roles) edge.role = role;
  for (const [edge, next] of moved) {
    const { parents } = edge.node;
    parents.splice(parents.indexOf(edge), 1);
    released.push(edge.node);
    edge.node = next;
    edge.owned = false;
    next.parents.push(edge);
  }
  for (const edge of dropped) {
    const { parents } = edge.node;
    parents.splice(parents.indexOf(edge), 1);
    released.push(edge.node);
    node.children.splice(node.children.indexOf(edge), 1);
  }
  for (const edge of added) link(edge);
  return released;
}

/** What a driver is told of the options to come. Children it gives out are for looking at only. */
class ReopenContext extends NodeContext {
  constructor(protected override readonly graph: BlockGraph, private readonly item: Item) {
    super(graph, item.node, item.options);
  }

  protected get common(): CommonOptions {
    return this.item.common;
  }

  nameOf(named: NamedChild): Promise<string> {
    return Promise.resolve(named.filename);
  }
  async namedChild(
    name: string,
    edge: { role: readonly ChildRole[] },
    named: NamedChild | undefined,
  ): Promise<Child | undefined> {
    // What an image names is opened when the image is; later the user says what is to be there.
    if (named !== undefined && this.options[name] === undefined) {
      throw new CommandError(`${name} is missing for '${this.nodeName}'`);
    }
    return await this.optionalChild(name, edge, true);
  }

  /** `addable`: a child that the node does not have may be added. */
  optionalChild(
    name: string,
    { role }: { role: readonly ChildRole[] },
    addable = false,
  ): Promise<Child | undefined> {
    const { node, item: { moved, roles, dropped } } = this;
    const edge = node.edge(name);
    if (edge === undefined) {
      const given = this.options[name];
      if (given === undefined || given === null) return Promise.resolve(undefined);
      return addable
        ? this.#added(name, role, given)
        : Promise.reject(new CommandError(`Cannot change the option '${name}'`));
    }
    if (dropped.includes(edge)) return Promise.resolve(undefined);
    roles.set(edge, role);
    const end = moved.get(edge) ?? edge.node;
    return Promise.resolve(new Edge(this.graph.seam, node, name, role, end, edge.owned));
  }

  /** A new child, by reference. */
  // deno-lint-ignore require-await
  async #added(name: string, role: readonly ChildRole[], given: unknown): Promise<Child> {
    const { node, item: { added } } = this;
    if (typeof given !== "string") {
      throw new CommandError(`Cannot change the option '${name}.driver'`);
    }
    const end = target(this.graph, node, name, given);
    const edge = new Edge(this.graph.seam, node, name, role, end, false);
    added.push(edge);
    return edge;
  }
}
