/**
 * Permissions: what every parent needs of a node and lets others do with it. A pure function over the
 * edges of a graph; the graph applies its result. qsd-facts 3.5.
 */
import { CommandError } from "../base/mod.ts";
import { type ChildRole, Perm } from "./types.ts";

/** Needed and shared Perm bits. */
export interface Permissions {
  needed: number;
  shared: number;
}

/** A node, as far as permissions go. */
export interface PermissionNode {
  readonly name: string;
  readonly readOnly: boolean;
  /** Its users share everything, whatever they say (force-share). */
  readonly forceShare: boolean;
  /** It is being made read-only now (reopen): another message. */
  readonly becomesReadOnly?: boolean;
}

/** An edge: from a node (what it needs follows from its own parents) or from a user (what it says). */
export interface PermissionEdge<N extends PermissionNode> {
  /** How messages call the parent: "node 'x'", "an unnamed block device". */
  readonly describe: string;
  readonly parent?: N;
  readonly child: N;
  readonly name: string;
  /** From the cumulative permissions of the parent (none needed, all shared for users). */
  derive(parents: Permissions): Permissions;
}

/** The outcome, by node and by edge. */
export interface PermissionState<N extends PermissionNode, E extends PermissionEdge<N>> {
  readonly nodes: Map<N, Permissions>;
  readonly edges: Map<E, Permissions>;
}

const NAMES: readonly (readonly [number, string])[] = [
  [Perm.consistentRead, "consistent read"],
  [Perm.write, "write"],
  [Perm.writeUnchanged, "write unchanged"],
  [Perm.resize, "resize"],
];

/** The permissions in `bits`, as QEMU lists them in messages. */
export function permissionNames(bits: number): string {
  return NAMES.filter(([bit]) => (bits & bit) !== 0).map(([, name]) => name).join(", ");
}

/** What a node needs and shares on a child by the child's role, unless its driver says otherwise. */
export function defaultChildPermissions(
  role: readonly ChildRole[],
  parents: Permissions & { readOnly: boolean },
): Permissions {
  let { needed, shared } = parents;
  if (role.includes("filtered")) return { needed, shared };
  if (role.includes("cow")) {
    // A backing file is only read. Others may change it only where our own users expect changes.
    return {
      needed: needed & Perm.consistentRead,
      shared: Perm.consistentRead | Perm.writeUnchanged |
        ((shared & Perm.write) !== 0 ? Perm.write | Perm.resize : 0),
    };
  }
  if (role.includes("metadata")) {
    // Metadata is read at any time, and is written and grows whenever the image is writable.
    needed |= Perm.consistentRead;
    if (!parents.readOnly) needed |= Perm.write | Perm.resize;
    shared &= ~(Perm.write | Perm.resize);
  } else if (role.includes("data")) {
    // Any write may have to grow the file, even one that changes nothing visible.
    if ((needed & Perm.writeUnchanged) !== 0) needed |= Perm.write;
    if ((needed & Perm.write) !== 0) needed |= Perm.resize;
    shared &= ~Perm.resize;
  }
  return { needed, shared };
}

/** Parents before children. The graph has no cycles: children exist before their parents refer to them. */
function topological<N extends PermissionNode>(
  nodes: Iterable<N>,
  edges: readonly PermissionEdge<N>[],
): N[] {
  const waiting = new Map<N, number>();
  const below = new Map<N, N[]>();
  for (const node of nodes) waiting.set(node, 0);
  for (const edge of edges) {
    if (edge.parent === undefined) continue;
    waiting.set(edge.child, (waiting.get(edge.child) ?? 0) + 1);
    const list = below.get(edge.parent);
    if (list === undefined) below.set(edge.parent, [edge.child]);
    else list.push(edge.child);
  }
  const order = [...waiting].filter(([, count]) => count === 0).map(([node]) => node);
  for (let i = 0; i < order.length; i++) {
    for (const child of below.get(order[i]!) ?? []) {
      const left = waiting.get(child)! - 1;
      waiting.set(child, left);
      if (left === 0) order.push(child);
    }
  }
  return order;
}

/**
 * Resolves the permissions of a whole graph. Throws CommandError with QEMU's text where two users of a
 * node exclude each other, or where a read-only node would be written.
 */
export function resolvePermissions<N extends PermissionNode, E extends PermissionEdge<N>>(
  nodes: Iterable<N>,
  edges: readonly E[],
): PermissionState<N, E> {
  const above = new Map<N, E[]>();
  const from = new Map<N, E[]>();
  const state: PermissionState<N, E> = { nodes: new Map(), edges: new Map() };
  const place = (edge: E, parents: Permissions) => {
    const { needed, shared } = edge.derive(parents);
    // As in QEMU, nodes share by force what their parents among the nodes would not; exports are asked.
    const forced = edge.parent !== undefined && edge.child.forceShare;
    state.edges.set(edge, { needed, shared: forced ? Perm.all : shared });
  };
  for (const edge of edges) {
    above.set(edge.child, [...(above.get(edge.child) ?? []), edge]);
    if (edge.parent === undefined) place(edge, { needed: Perm.none, shared: Perm.all });
    else from.set(edge.parent, [...(from.get(edge.parent) ?? []), edge]);
  }
  for (const node of topological(nodes, edges)) {
    const users = above.get(node) ?? [];
    const sum: Permissions = { needed: Perm.none, shared: Perm.all };
    for (const edge of users) {
      const { needed, shared } = state.edges.get(edge)!;
      sum.needed |= needed;
      sum.shared &= shared;
    }
    if ((sum.needed & ~sum.shared) !== 0) refuseConflict(node, users, state.edges);
    if (node.readOnly && (sum.needed & (Perm.write | Perm.writeUnchanged)) !== 0) {
      throw new CommandError(
        node.becomesReadOnly === true
          ? `Read-only block node '${node.name}' cannot support read-write users`
          : "Block node is read-only",
      );
    }
    state.nodes.set(node, sum);
    for (const edge of from.get(node) ?? []) place(edge, sum);
  }
  return state;
}

/** Throws the conflict between two different users of `node`, if there is one. */
function refuseConflict<N extends PermissionNode, E extends PermissionEdge<N>>(
  node: N,
  users: readonly E[],
  permissions: ReadonlyMap<E, Permissions>,
): void {
  for (const a of users) {
    for (const b of users) {
      if (a === b) continue;
      const clash = permissions.get(a)!.needed & ~permissions.get(b)!.shared;
      if (clash === 0) continue;
      const as = (edge: E) => `${edge.describe} (uses node '${node.name}' as '${edge.name}' child)`;
      throw new CommandError(
        `Permission conflict on node '${node.name}': permissions '${permissionNames(clash)}' ` +
          `are both required by ${as(a)} and unshared by ${as(b)}.`,
      );
    }
  }
}
