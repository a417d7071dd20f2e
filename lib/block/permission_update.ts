/** Applying permissions to a graph: resolve, let drivers prepare, then commit or abort. */
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Backend } from "./backend.ts";
import type { BlockNode, Edge, Parent } from "./node.ts";
import { driverOptions } from "./options.ts";
import {
  defaultChildPermissions,
  type PermissionEdge,
  type Permissions,
  resolvePermissions,
} from "./permissions.ts";
import type { ChildRole, PermissionChange } from "./types.ts";

/** A node as it is to be after the change that is being prepared. */
export interface NextNode {
  readonly readOnly?: boolean;
  readonly forceShare?: boolean;
  readonly options?: BlockdevOptionsValue;
}

/** What is to be different from the graph as it stands. */
export interface PermissionPlan {
  /** What a backend will say. */
  readonly backends?: ReadonlyMap<Backend, Permissions>;
  readonly nodes?: ReadonlyMap<BlockNode, NextNode>;
  /** What children will be to their parents. */
  readonly roles?: ReadonlyMap<Edge, readonly ChildRole[]>;
  /** Where an edge or backend will point. */
  readonly targets?: ReadonlyMap<Parent, BlockNode>;
}

/** A node in the resolution: the graph's, or as it is to be. */
interface View {
  readonly node: BlockNode;
  readonly name: string;
  readonly readOnly: boolean;
  readonly forceShare: boolean;
  readonly becomesReadOnly: boolean;
  readonly options: BlockdevOptionsValue;
}
interface ViewEdge extends PermissionEdge<View> {
  readonly holder: Parent;
}

/** What `node` needs and shares on its child, given what its own parents need and share. */
export function childPermissions(
  node: BlockNode,
  name: string,
  role: readonly ChildRole[],
  parents: Permissions & { readOnly: boolean },
  options: BlockdevOptionsValue,
): Permissions {
  const own = node.definition.childPermissions;
  if (own !== undefined) return own(name, role, parents, driverOptions(options));
  return defaultChildPermissions(role, parents);
}

/** A prepared change of all permissions. */
export interface PreparedPermissions {
  commit(): void;
  abort(): void;
}

function views(nodes: Iterable<BlockNode>, plan: PermissionPlan): Map<BlockNode, View> {
  const result = new Map<BlockNode, View>();
  for (const node of nodes) {
    const next = plan.nodes?.get(node);
    const readOnly = next?.readOnly ?? node.readOnly;
    result.set(node, {
      node,
      name: node.name,
      readOnly,
      forceShare: next?.forceShare ?? node.forceShare,
      becomesReadOnly: readOnly && !node.readOnly,
      options: next?.options ?? node.options,
    });
  }
  return result;
}

function edges(
  all: ReadonlyMap<BlockNode, View>,
  backends: Iterable<Backend>,
  plan: PermissionPlan,
): ViewEdge[] {
  const result: ViewEdge[] = [];
  const target = (holder: Parent) => all.get(plan.targets?.get(holder) ?? holder.node)!;
  for (const [node, parent] of all) {
    for (const edge of node.children) {
      result.push({
        holder: edge,
        describe: node.describe,
        parent,
        child: target(edge),
        name: edge.name,
        derive: (parents) =>
          childPermissions(
            node,
            edge.name,
            plan.roles?.get(edge) ?? edge.role,
            { ...parents, readOnly: parent.readOnly },
            parent.options,
          ),
      });
    }
  }
  for (const backend of backends) {
    const said = plan.backends?.get(backend) ?? backend;
    result.push({
      holder: backend,
      describe: backend.describe,
      child: target(backend),
      name: backend.name,
      derive: () => ({ needed: said.needed, shared: said.shared }),
    });
  }
  return result;
}

/**
 * Prepares the permissions of the whole graph as `plan` will have it. Throws, with nothing changed, where
 * users exclude each other or a driver refuses. Relies on the graph not changing until commit or abort.
 */
export async function preparePermissions(
  nodes: Iterable<BlockNode>,
  backends: Iterable<Backend>,
  plan: PermissionPlan = {},
): Promise<PreparedPermissions> {
  const all = views(nodes, plan);
  const list = edges(all, backends, plan);
  const state = resolvePermissions<View, ViewEdge>(all.values(), list);
  const changes: PermissionChange[] = [];
  const abort = () => {
    for (const change of changes.reverse()) change.abort();
  };
  try {
    for (const [{ node }, { needed, shared }] of state.nodes) {
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
      for (const [{ node }, permissions] of state.nodes) node.permissions = permissions;
      for (const [edge, { needed, shared }] of state.edges) {
        edge.holder.needed = needed;
        edge.holder.shared = shared;
      }
    },
    abort,
  };
}
