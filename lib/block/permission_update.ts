/** Applying permissions to a graph: resolve, let drivers prepare, then commit or abort. */
import { CommandError } from "../base/mod.ts";
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
import { type ChildRole, Perm, type PermissionChange } from "./types.ts";

/** A node as it is to be after the change that is being prepared. */
export interface NextNode {
  readonly readOnly?: boolean;
  readonly forceShare?: boolean;
  readonly active?: boolean;
  readonly options?: BlockdevOptionsValue;
}

/** What is to be different from the graph as it stands. */
export interface PermissionPlan {
  /** What a backend will say. */
  readonly backends?: ReadonlyMap<Backend, Permissions>;
  readonly nodes?: ReadonlyMap<BlockNode, NextNode>;
  /** What children will be to their parents. */
  readonly roles?: ReadonlyMap<Edge, readonly ChildRole[]>;
  /** Children that nodes will have besides those that they have. */
  readonly added?: readonly Edge[];
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
  readonly active: boolean;
  readonly options: BlockdevOptionsValue;
}
interface ViewEdge extends PermissionEdge<View> {
  readonly holder: Parent;
}

/** What a node needs and shares on its child, given what its own parents need and share. */
function childPermissions(
  { node, readOnly, active, options }: View,
  name: string,
  role: readonly ChildRole[],
  parents: Permissions,
): Permissions {
  const own = node.definition.childPermissions;
  const given = { ...parents, readOnly: readOnly || !active };
  const result = own === undefined
    ? defaultChildPermissions(role, given)
    : own(name, role, given, driverOptions(options));
  // Whoever has the image now may do anything with it.
  return active ? result : { needed: result.needed & Perm.consistentRead, shared: Perm.all };
}

/** Throws where a node that may write would stand on one that may not. */
function checkActive(parent: View, name: string, child: View): void {
  if (!parent.active || child.active) return;
  throw new CommandError(
    `Inactive '${child.name}' can't be a ${name} child of active '${parent.name}'`,
  );
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
      active: next?.active ?? node.active,
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
    const added = plan.added?.filter((edge) => edge.parent === node) ?? [];
    for (const edge of [...node.children, ...added]) {
      const child = target(edge);
      checkActive(parent, edge.name, child);
      result.push({
        holder: edge,
        describe: node.describe,
        parent,
        child,
        name: edge.name,
        derive: (parents) =>
          childPermissions(parent, edge.name, plan.roles?.get(edge) ?? edge.role, parents),
      });
    }
  }
  for (const backend of backends) {
    const { needed, shared } = plan.backends?.get(backend) ?? backend.wanted;
    const child = target(backend);
    result.push({
      holder: backend,
      describe: backend.describe,
      child,
      name: backend.name,
      // What an inactive node's user wants, it gets when the node is activated.
      derive: () => child.active ? { needed, shared } : { needed: Perm.none, shared: Perm.all },
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
      for (const [backend, wanted] of plan.backends ?? []) backend.wanted = wanted;
    },
    abort,
  };
}
