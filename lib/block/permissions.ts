/**
 * Permissions: what every parent needs of a node and lets others do with it. A pure function over a graph and what
 * has changed in it; the graph applies its result.
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

/**
 * A graph as it is to be, whose nodes and edges are opaque. An edge goes to a node from a node (what it needs follows
 * from the node's own parents) or from a user (what it needs is what it says).
 */
export interface PermissionGraph<N, E> {
  /** What is to be checked of a node. */
  facts(node: N): PermissionNode;
  /** The edges that lead to the node. */
  above(node: N): readonly E[];
  /** The edges that leave it. */
  below(node: N): readonly E[];
  child(edge: E): N;
  /** Undefined: the edge is a user's. */
  parent(edge: E): N | undefined;
  /** How messages call the parent ("node 'x'", "an unnamed block device"), and the edge. */
  describe(edge: E): { readonly parent: string; readonly name: string };
  /** From the cumulative permissions of the parent (none needed, all shared for users). */
  derive(edge: E, parents: Permissions): Permissions;
  /** What all users of a node together need and share, as it was settled last. */
  settled(node: N): Permissions;
  /** What an edge needs and shares, as it was settled last. */
  settledEdge(edge: E): Permissions;
}

/** What has changed since permissions were settled last. */
export interface PermissionChanges<N, E> {
  /** Nodes that lost a user. */
  readonly nodes: Iterable<N>;
  /** Edges that are new, lead elsewhere, or need something else than before. */
  readonly edges: Iterable<E>;
}

/** What is different afterwards, by node and by edge; nodes are in the order parents before children. */
export interface PermissionState<N, E> {
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
    // So may another length, whose new end must read as zeroes.
    if ((needed & (Perm.writeUnchanged | Perm.resize)) !== 0) needed |= Perm.write;
    if ((needed & Perm.write) !== 0) needed |= Perm.resize;
    shared &= ~Perm.resize;
  }
  return { needed, shared };
}

/** `nodes`, each before those of them that it stands on. The graph has no cycles. */
function parentsFirst<N, E>(graph: PermissionGraph<N, E>, nodes: ReadonlySet<N>): N[] {
  const order: N[] = [];
  const seen = new Set<N>();
  const visit = (node: N): void => {
    if (!nodes.has(node) || seen.has(node)) return;
    seen.add(node);
    for (const edge of graph.below(node)) visit(graph.child(edge));
    order.push(node);
  };
  for (const node of nodes) visit(node);
  return order.reverse();
}

/** What a node's users need and share together. */
function together(users: Iterable<Permissions>): Permissions {
  const sum: Permissions = { needed: Perm.none, shared: Perm.all };
  for (const { needed, shared } of users) {
    sum.needed |= needed;
    sum.shared &= shared;
  }
  return sum;
}

/**
 * Resolves what `changes` mean: only nodes whose permissions they touch are looked at, so that growing a long chain
 * at its end costs no more than growing a short one. Throws CommandError with QEMU's text where two users of a node
 * exclude each other, or where a read-only node would be written.
 */
export function resolvePermissions<N, E>(
  graph: PermissionGraph<N, E>,
  changes: PermissionChanges<N, E>,
): PermissionState<N, E> {
  const edges = new Map<E, Permissions>();
  const nodes = new Map<N, Permissions>();
  const waiting = new Set<N>(changes.nodes);
  const edgeNow = (edge: E) => edges.get(edge) ?? graph.settledEdge(edge);
  const place = (edge: E) => {
    const parent = graph.parent(edge);
    const child = graph.child(edge);
    const parents = parent === undefined
      ? together([])
      : nodes.get(parent) ?? graph.settled(parent);
    const { needed, shared } = graph.derive(edge, parents);
    // As in QEMU, nodes share by force what their parents among the nodes would not; exports are asked.
    const forced = parent !== undefined && graph.facts(child).forceShare;
    edges.set(edge, { needed, shared: forced ? Perm.all : shared });
    waiting.add(child);
  };
  for (const edge of changes.edges) place(edge);
  for (const node of waiting) {
    waiting.delete(node);
    const sum = together(graph.above(node).map(edgeNow));
    const before = nodes.get(node) ?? graph.settled(node);
    nodes.set(node, sum);
    if (sum.needed === before.needed && sum.shared === before.shared) continue;
    for (const edge of graph.below(node)) place(edge);
  }
  const order = parentsFirst(graph, new Set(nodes.keys()));
  for (const node of order) check(graph, node, nodes.get(node)!, edgeNow);
  return { nodes: new Map(order.map((node) => [node, nodes.get(node)!])), edges };
}

/** Throws where the users of `node` want what cannot be. */
function check<N, E>(
  graph: PermissionGraph<N, E>,
  node: N,
  sum: Permissions,
  edgeNow: (edge: E) => Permissions,
): void {
  const { name, readOnly, becomesReadOnly } = graph.facts(node);
  if ((sum.needed & ~sum.shared) !== 0) refuseConflict(graph, node, edgeNow);
  if (readOnly && (sum.needed & (Perm.write | Perm.writeUnchanged)) !== 0) {
    throw new CommandError(
      becomesReadOnly === true
        ? `Read-only block node '${name}' cannot support read-write users`
        : "Block node is read-only",
    );
  }
}

/** Throws the conflict between two different users of `node`, if there is one. */
function refuseConflict<N, E>(
  graph: PermissionGraph<N, E>,
  node: N,
  edgeNow: (edge: E) => Permissions,
): void {
  const users = graph.above(node);
  const { name } = graph.facts(node);
  for (const a of users) {
    for (const b of users) {
      if (a === b) continue;
      const clash = edgeNow(a).needed & ~edgeNow(b).shared;
      if (clash === 0) continue;
      const as = (edge: E) => {
        const who = graph.describe(edge);
        return `${who.parent} (uses node '${name}' as '${who.name}' child)`;
      };
      throw new CommandError(
        `Permission conflict on node '${name}': permissions '${permissionNames(clash)}' ` +
          `are both required by ${as(a)} and unshared by ${as(b)}.`,
      );
    }
  }
}
