import assert from "node:assert/strict";
import {
  defaultChildPermissions,
  type PermissionEdge,
  permissionNames,
  type PermissionNode,
  type Permissions,
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
}
type Edge = PermissionEdge<Node>;

function node(name: string, more: Partial<PermissionNode> = {}): Node {
  return { name, readOnly: false, forceShare: false, ...more };
}
function user(child: Node, needed: number, shared: number): Edge {
  return {
    describe: "an unnamed block device",
    child,
    name: "root",
    derive: () => ({ needed, shared }),
  };
}
function link(parent: Node, child: Node, role: ChildRole[], name = "file"): Edge {
  return {
    describe: `node '${parent.name}'`,
    parent,
    child,
    name,
    derive: (parents: Permissions) =>
      defaultChildPermissions(role, { ...parents, readOnly: parent.readOnly }),
  };
}

Deno.test("permissions run down a chain, whatever the order of the edges", () => {
  const [top, mid, file] = [node("top"), node("mid"), node("file")];
  const edges = [
    link(mid, file, ["metadata", "data"]),
    user(top, R | W, ALL & ~Z),
    link(top, mid, ["filtered"]),
  ];
  for (const list of [edges, [...edges].reverse()]) {
    const state = resolvePermissions<Node, Edge>([file, top, mid], list);
    assert.deepEqual(state.nodes.get(top), { needed: R | W, shared: ALL & ~Z });
    assert.deepEqual(state.nodes.get(mid), { needed: R | W, shared: ALL & ~Z });
    assert.deepEqual(state.nodes.get(file), { needed: R | W | Z, shared: R | U });
  }
});

Deno.test("a node that nobody uses needs nothing and shares everything", () => {
  const state = resolvePermissions<Node, Edge>([node("n")], []);
  assert.deepEqual([...state.nodes.values()], [{ needed: 0, shared: ALL }]);
});

Deno.test("two users that exclude each other are told apart in QEMU's words", () => {
  const r = node("r");
  const f = node("f");
  assert.throws(
    () =>
      resolvePermissions<Node, Edge>([r], [
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
      resolvePermissions<Node, Edge>([r, f], [
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
  const state = resolvePermissions<Node, Edge>([n], [user(n, ALL, 0)]);
  assert.deepEqual(state.nodes.get(n), { needed: ALL, shared: 0 });
});

Deno.test("a read-only node refuses writers, with another text when it becomes read-only", () => {
  const ro = node("n", { readOnly: true });
  for (const needed of [W, U]) {
    assert.throws(() => resolvePermissions<Node, Edge>([ro], [user(ro, needed, ALL)]), {
      message: "Block node is read-only",
    });
  }
  const next = node("n", { readOnly: true, becomesReadOnly: true });
  assert.throws(() => resolvePermissions<Node, Edge>([next], [user(next, W, ALL)]), {
    message: "Read-only block node 'n' cannot support read-write users",
  });
  resolvePermissions<Node, Edge>([ro], [user(ro, R | Z, ALL)]);
});

Deno.test("parents of a force-share node exclude nobody; users from outside are taken at their word", () => {
  const n = node("n", { readOnly: true, forceShare: true });
  const [one, two] = [node("one", { readOnly: true }), node("two", { readOnly: true })];
  const edges = [link(one, n, ["filtered"]), link(two, n, ["filtered"])];
  edges.push(user(one, R, 0), user(two, R, 0));
  const state = resolvePermissions<Node, Edge>([one, two, n], edges);
  assert.deepEqual(state.nodes.get(n), { needed: R, shared: ALL });
  assert.throws(() => resolvePermissions<Node, Edge>([n], [user(n, R, 0), user(n, R, 0)]), {
    message: /^Permission conflict on node 'n'/,
  });
});

Deno.test("every set of permissions has its name", () => {
  assert.equal(permissionNames(ALL), "consistent read, write, write unchanged, resize");
  assert.equal(permissionNames(W | Z), "write, resize");
  assert.equal(permissionNames(0), "");
});
