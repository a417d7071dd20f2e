import assert from "node:assert/strict";
import { chance } from "../base/mod.ts";
import {
  defaultChildPermissions,
  type PermissionGraph,
  permissionNames,
  type PermissionNode,
  type Permissions,
  type PermissionState,
  resolvePermissions,
} from "./permissions.ts";
import { type ChildRole, Perm } from "./types.ts";

const R = Perm.consistentRead, W = Perm.write, U = Perm.writeUnchanged, Z = Perm.resize;
const ALL = Perm.all;

Deno.test("defaults by role, for every case of the rules", () => {
  // role, the parents' needs and shares, read-only; what is needed and shared of the child
  const table: [ChildRole[], number, number, boolean, number, number][] = [
    [["filtered"], R | W, ALL & ~Z, false, R | W, ALL & ~Z],
    [["filtered", "primary"], 0, ALL, false, 0, ALL],
    [["data", "filtered"], W, 0, false, W, 0],
    // A backing file: read if we are read; others may write only if our users let each other write.
    [["cow"], R | W, ALL, false, R, ALL],
    [["cow"], 0, ALL & ~W, false, 0, R | U],
    [["cow"], R | Z, R, true, R, R | U],
    // Metadata: read always; written and grown whenever the image is writable. Never shared.
    [["metadata", "data"], 0, ALL, false, R | W | Z, R | U],
    [["metadata"], 0, ALL, true, R, R | U],
    [["metadata", "data", "primary"], R | W, ALL & ~Z, false, R | W | Z, R | U],
    // Data by itself: grows with writes, others may write but not resize.
    [["data"], 0, ALL, false, 0, ALL & ~Z],
    [["data"], R, ALL, false, R, ALL & ~Z],
    [["data"], W, ALL, false, W | Z, ALL & ~Z],
    [["data"], U, ALL, false, U | W | Z, ALL & ~Z],
    [["data"], Z, ALL, false, W | Z, ALL & ~Z],
  ];
  for (const [role, needed, shared, readOnly, wantNeeded, wantShared] of table) {
    assert.deepEqual(
      defaultChildPermissions(role, { needed, shared, readOnly }),
      { needed: wantNeeded, shared: wantShared },
      `${role} needed ${needed} shared ${shared} read-only ${readOnly}`,
    );
  }
});

interface Node extends PermissionNode {
  readonly name: string;
  settled: Permissions;
}
interface Edge {
  readonly parent: Node | undefined;
  readonly child: Node;
  readonly name: string;
  settled: Permissions;
  derive(parents: Permissions): Permissions;
}
const nothing = (): Permissions => ({ needed: 0, shared: ALL });

function node(name: string, more: Partial<PermissionNode> = {}): Node {
  return { name, readOnly: false, forceShare: false, ...more, settled: nothing() };
}
function user(child: Node, needed: number, shared: number): Edge {
  const derive = () => ({ needed, shared });
  return { parent: undefined, child, name: "root", settled: nothing(), derive };
}
function link(parent: Node, child: Node, role: ChildRole[], name = "file"): Edge {
  const derive = (parents: Permissions) =>
    defaultChildPermissions(role, { ...parents, readOnly: parent.readOnly });
  return { parent, child, name, settled: nothing(), derive };
}

/** A graph of these edges, which counts how often an edge was derived. */
class Graph implements PermissionGraph<Node, Edge> {
  derived = 0;
  constructor(readonly edges: Edge[]) {}
  facts = (node: Node) => node;
  above = (node: Node) => this.edges.filter((edge) => edge.child === node);
  below = (node: Node) => this.edges.filter((edge) => edge.parent === node);
  child = (edge: Edge) => edge.child;
  parent = (edge: Edge) => edge.parent;
  describe = ({ parent, name }: Edge) => ({
    parent: parent === undefined ? "an unnamed block device" : `node '${parent.name}'`,
    name,
  });
  settled = (node: Node) => node.settled;
  settledEdge = (edge: Edge) => edge.settled;
  derive(edge: Edge, parents: Permissions): Permissions {
    this.derived++;
    return edge.derive(parents);
  }
}

/** What becomes of a graph that is new altogether. */
function resolve(nodes: Node[], edges: Edge[]): PermissionState<Node, Edge> {
  return resolvePermissions(new Graph(edges), { nodes, edges });
}

Deno.test("permissions run down a chain, whatever the order of the edges", () => {
  const [top, mid, file] = [node("top"), node("mid"), node("file")];
  const edges = [
    link(mid, file, ["metadata", "data"]),
    user(top, R | W, ALL & ~Z),
    link(top, mid, ["filtered"]),
  ];
  for (const list of [edges, [...edges].reverse()]) {
    const state = resolve([file, top, mid], list);
    assert.deepEqual(state.nodes.get(top), { needed: R | W, shared: ALL & ~Z });
    assert.deepEqual(state.nodes.get(mid), { needed: R | W, shared: ALL & ~Z });
    assert.deepEqual(state.nodes.get(file), { needed: R | W | Z, shared: R | U });
  }
});

Deno.test("a node that nobody uses needs nothing and shares everything", () => {
  const state = resolve([node("n")], []);
  assert.deepEqual([...state.nodes.values()], [{ needed: 0, shared: ALL }]);
});

Deno.test("two users that exclude each other are told apart in QEMU's words", () => {
  const r = node("r");
  const f = node("f");
  assert.throws(
    () =>
      resolve([r], [
        user(r, R | W, ALL & ~Z),
        user(r, Z, ALL),
      ]),
    {
      message: "Permission conflict on node 'r': permissions 'resize' are both required by " +
        "an unnamed block device (uses node 'r' as 'root' child) and unshared by " +
        "an unnamed block device (uses node 'r' as 'root' child).",
    },
  );
  assert.throws(
    () =>
      resolve([r, f], [
        link(r, f, ["metadata"]),
        user(f, R | W, ALL),
      ]),
    {
      message: "Permission conflict on node 'f': permissions 'write' are both required by " +
        "an unnamed block device (uses node 'f' as 'root' child) and unshared by " +
        "node 'r' (uses node 'f' as 'file' child).",
    },
  );
});

Deno.test("one user may need what it does not share", () => {
  const n = node("n");
  const state = resolve([n], [user(n, ALL, 0)]);
  assert.deepEqual(state.nodes.get(n), { needed: ALL, shared: 0 });
});

Deno.test("a read-only node refuses writers, with another text when it becomes read-only", () => {
  const ro = node("n", { readOnly: true });
  for (const needed of [W, U]) {
    assert.throws(() => resolve([ro], [user(ro, needed, ALL)]), {
      message: "Block node is read-only",
    });
  }
  const next = node("n", { readOnly: true, becomesReadOnly: true });
  assert.throws(() => resolve([next], [user(next, W, ALL)]), {
    message: "Read-only block node 'n' cannot support read-write users",
  });
  resolve([ro], [user(ro, R | Z, ALL)]);
});

Deno.test("parents of a force-share node exclude nobody; users from outside are taken at their word", () => {
  const n = node("n", { readOnly: true, forceShare: true });
  const [one, two] = [node("one", { readOnly: true }), node("two", { readOnly: true })];
  const edges = [link(one, n, ["filtered"]), link(two, n, ["filtered"])];
  edges.push(user(one, R, 0), user(two, R, 0));
  const state = resolve([one, two, n], edges);
  assert.deepEqual(state.nodes.get(n), { needed: R, shared: ALL });
  assert.throws(() => resolve([n], [user(n, R, 0), user(n, R, 0)]), {
    message: /^Permission conflict on node 'n'/,
  });
});

Deno.test("every set of permissions has its name", () => {
  assert.equal(permissionNames(ALL), "consistent read, write, write unchanged, resize");
  assert.equal(permissionNames(W | Z), "write, resize");
  assert.equal(permissionNames(0), "");
});

/** As resolvePermissions on everything, and kept. */
function settle(graph: Graph, changes: { nodes: Node[]; edges: Edge[] }): void {
  const state = resolvePermissions(graph, changes);
  for (const [node, permissions] of state.nodes) node.settled = permissions;
  for (const [edge, permissions] of state.edges) edge.settled = permissions;
}

Deno.test("what changes is found from where it begins: as if all had been resolved anew", () => {
  const pick = chance(11);
  const roles: ChildRole[][] = [["filtered"], ["cow"], ["data"], ["metadata", "data"]];
  const nodes = Array.from({ length: 12 }, (_, i) => node(`n${i}`));
  const graph = new Graph([]);
  let refused = 0;
  for (let step = 0; step < 3000; step++) {
    const [upper, lower] = [pick(nodes.length), pick(nodes.length)];
    if (pick(3) === 0 && graph.edges.length > 0) {
      const [gone] = graph.edges.splice(pick(graph.edges.length), 1);
      settle(graph, { nodes: [gone!.child], edges: [] });
    } else {
      const edge = upper >= lower
        ? user(nodes[lower]!, pick(16), ALL & ~pick(16))
        : link(nodes[upper]!, nodes[lower]!, roles[pick(4)]!);
      graph.edges.push(edge);
      try {
        settle(graph, { nodes: [], edges: [edge] });
      } catch {
        refused++;
        graph.edges.pop();
      }
    }
    const whole = resolve(nodes, graph.edges);
    for (const one of nodes) assert.deepEqual(one.settled, whole.nodes.get(one), one.name);
    for (const one of graph.edges) assert.deepEqual(one.settled, whole.edges.get(one), one.name);
  }
  assert.ok(refused > 100 && refused < 2000, `${refused} refused`);
});

Deno.test("a chain grows at its end in steps of the same cost, however long it is", () => {
  const graph = new Graph([]);
  let below = node("base");
  const costs: number[] = [];
  for (let i = 0; i < 100; i++) {
    const above = node(`n${i}`);
    const edge = link(above, below, ["cow"]);
    graph.edges.push(edge);
    graph.derived = 0;
    settle(graph, { nodes: [], edges: [edge] });
    costs.push(graph.derived);
    below = above;
  }
  assert.deepEqual(new Set(costs), new Set([costs.at(-1)!]));
  assert.ok(costs[0]! <= 2, `${costs[0]} edges are derived`);
});
