/** Applying permissions to a graph: resolve what a change touches, let drivers prepare, then commit or abort. */
import { CommandError } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { Backend } from "./backend.ts";
import type { BlockNode, Edge, Parent } from "./node.ts";
import { driverOptions } from "./options.ts";
import {
  defaultChildPermissions,
  type PermissionGraph,
  type PermissionNode,
  type Permissions,
  resolvePermissions,
} from "./permissions.ts";
import { type ChildRole, Perm, type PermissionChange } from "./types.ts";

/** A node as it is to be after the change that is being prepared. */
export interface NextNode {
  readonly readOnly?: boolean;
  readonly forceShare?: boolean;
  readonly active?: boolean;
  readonly options?: BlockdevOptionsValue;
}

/** What is different from when permissions were settled last, or is to be. */
export interface PermissionPlan {
  /** What backends will say. */
  readonly backends?: ReadonlyMap<Backend, Permissions>;
  /** Nodes that will be otherwise, or (with nothing said) are otherwise already. */
  readonly nodes?: ReadonlyMap<BlockNode, NextNode>;
  /** What children will be to their parents. */
  readonly roles?: ReadonlyMap<Edge, readonly ChildRole[]>;
  /** Children that nodes will have besides those that they have. */
  readonly added?: readonly Edge[];
  /** Where an edge or backend will point. */
  readonly targets?: ReadonlyMap<Parent, BlockNode>;
  /** Edges and backends that were linked just now. */
  readonly linked?: readonly Parent[];
  /** Nodes from which one was unlinked. */
  readonly released?: readonly BlockNode[];
}

/** A prepared change of permissions. */
export interface PreparedPermissions {
  /** Returns the nodes whose permissions, or those on whose children, may be others now. */
  commit(): ReadonlySet<BlockNode>;
  abort(): void;
}

/** A node as it is to be. */
interface View extends PermissionNode {
  readonly active: boolean;
  readonly options: BlockdevOptionsValue;
}

const NO_PARENTS: readonly Parent[] = [];

/** The graph as a plan will have it. */
class PlannedGraph implements PermissionGraph<BlockNode, Parent> {
  /** Edges and backends that will point at a node, by node. */
  readonly #arriving = new Map<BlockNode, Parent[]>();

  constructor(private readonly plan: PermissionPlan) {
    const arrive = (node: BlockNode, parent: Parent) => {
      const list = this.#arriving.get(node);
      if (list === undefined) this.#arriving.set(node, [parent]);
      else list.push(parent);
    };
    for (const [parent, node] of plan.targets ?? []) arrive(node, parent);
    for (const edge of plan.added ?? []) arrive(edge.node, edge);
  }

  /** What the plan touches. */
  changes(): { nodes: Set<BlockNode>; edges: Set<Parent> } {
    const { nodes, backends, roles, added, targets, linked, released } = this.plan;
    const edges = new Set<Parent>([
      ...linked ?? [],
      ...added ?? [],
      ...roles?.keys() ?? [],
      ...backends?.keys() ?? [],
      ...targets?.keys() ?? [],
    ]);
    for (const node of nodes?.keys() ?? []) {
      for (const edge of this.above(node)) edges.add(edge);
      for (const edge of this.below(node)) edges.add(edge);
    }
    const left = [...targets?.keys() ?? []].map((edge) => edge.node);
    return { nodes: new Set([...released ?? [], ...left, ...nodes?.keys() ?? []]), edges };
  }

  facts(node: BlockNode): View {
    const next = this.plan.nodes?.get(node);
    if (next === undefined) return node;
    const readOnly = next.readOnly ?? node.readOnly;
    return {
      name: node.name,
      readOnly,
      forceShare: next.forceShare ?? node.forceShare,
      becomesReadOnly: readOnly && !node.readOnly,
      active: next.active ?? node.active,
      options: next.options ?? node.options,
    };
  }

  above(node: BlockNode): readonly Parent[] {
    const { targets } = this.plan;
    const arriving = this.#arriving.get(node) ?? NO_PARENTS;
    if (targets === undefined || targets.size === 0) {
      return arriving.length === 0 ? node.parents : [...node.parents, ...arriving];
    }
    return [...node.parents.filter((parent) => !targets.has(parent)), ...arriving];
  }

  below(node: BlockNode): readonly Edge[] {
    const { added } = this.plan;
    if (added === undefined || added.length === 0) return node.children;
    return [...node.children, ...added.filter((edge) => edge.parent === node)];
  }

  child(edge: Parent): BlockNode {
    return this.plan.targets?.get(edge) ?? edge.node;
  }
  parent(edge: Parent): BlockNode | undefined {
    return edge instanceof Backend ? undefined : edge.parent;
  }
  describe(edge: Parent): { parent: string; name: string } {
    const parent = edge instanceof Backend ? edge.describe : edge.parent.describe;
    return { parent, name: edge.name };
  }
  settled(node: BlockNode): Permissions {
    return node.permissions;
  }
  settledEdge(edge: Parent): Permissions {
    return edge;
  }

  derive(edge: Parent, parents: Permissions): Permissions {
    const child = this.facts(this.child(edge));
    if (!(edge instanceof Backend)) return this.#ofChild(edge, child, parents);
    // What an inactive node's user wants, it gets when the node is activated.
    if (!child.active) return { needed: Perm.none, shared: Perm.all };
    return this.plan.backends?.get(edge) ?? edge.wanted;
  }

  /** What a node needs and shares on its child, given what its own parents need and share. */
  #ofChild(edge: Edge, child: View, parents: Permissions): Permissions {
    const { name, readOnly, active, options } = this.facts(edge.parent);
    // A node that may write would stand on one that may not.
    if (active && !child.active) {
      throw new CommandError(
        `Inactive '${child.name}' can't be a ${edge.name} child of active '${name}'`,
      );
    }
    // Whoever has the image now may do anything with it.
    const role = this.plan.roles?.get(edge) ?? edge.role;
    const given = { ...parents, readOnly: readOnly || !active };
    const own = edge.parent.definition.childPermissions;
    const result = own === undefined
      ? defaultChildPermissions(role, given)
      : own(edge.name, role, given, driverOptions(options));
    return active ? result : { needed: result.needed & Perm.consistentRead, shared: Perm.all };
  }
}

/**
 * Prepares the permissions of a graph as `plan` will have it. Throws, with nothing changed, where users exclude each
 * other or a driver refuses. Relies on the graph not changing until commit or abort, and on permissions being settled
 * but for what the plan names.
 */
export async function preparePermissions(plan: PermissionPlan): Promise<PreparedPermissions> {
  const graph = new PlannedGraph(plan);
  const state = resolvePermissions(graph, graph.changes());
  const changes: PermissionChange[] = [];
  const abort = () => {
    for (const change of changes.reverse()) change.abort();
  };
  try {
    for (const [node, { needed, shared }] of state.nodes) {
      if (!node.opened) continue;
      if (node.permissions.needed === needed && node.permissions.shared === shared) continue;
      const pending = node.instance.preparePermissions?.(needed, shared);
      if (pending !== undefined) changes.push(await pending);
    }
  } catch (error) {
    abort();
    throw error;
  }
  return {
    commit() {
      for (const change of changes) change.commit();
      const touched = new Set<BlockNode>();
      for (const [node, permissions] of state.nodes) {
        touched.add(node);
        node.permissions = permissions;
      }
      for (const [edge, { needed, shared }] of state.edges) {
        if (!(edge instanceof Backend)) touched.add(edge.parent);
        edge.needed = needed;
        edge.shared = shared;
      }
      for (const [backend, wanted] of plan.backends ?? []) backend.wanted = wanted;
      return touched;
    },
    abort,
  };
}
