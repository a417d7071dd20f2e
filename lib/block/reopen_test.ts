import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { ioError, MemoryDisk, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

const writer = { describe: "an unnamed block device", needed: Perm.write, shared: Perm.all };

function setUp() {
  const disks = { a: new MemoryDisk(65536), b: new MemoryDisk(8192), c: new MemoryDisk(65536) };
  const made = testGraph(disks);
  const inline = { driver: "memory", disk: "a" };
  const r = (more: Record<string, unknown> = {}): BlockdevOptionsValue => ({
    driver: "raw",
    "node-name": "r",
    file: inline,
    ...more,
  });
  return { ...made, disks, inline, r };
}

Deno.test("reopen gives options that are not named their defaults, also to inline children", async () => {
  const { graph, add, r, disks } = setUp();
  await add(r({ "read-only": true, "detect-zeroes": "on" }));
  await graph.reopen([r()]);
  const [top, below] = graph.nodes();
  assert.deepEqual([top!.readOnly, below!.readOnly], [false, false]);
  assert.equal(top!.common.detectZeroes, "off");
  await graph.reopen([r({ "read-only": true, cache: { "no-flush": true } })]);
  assert.deepEqual([top!.readOnly, below!.readOnly], [true, true]);
  assert.equal(below!.common.noFlush, true);
  assert.deepEqual(disks.a.reopens, ["prepare", "commit", "prepare", "commit"]);
  await graph.closeAll();
});

Deno.test("reopen leaves discard as it is where it is not named, as QEMU does; an inline child starts from unmap", async () => {
  const { graph, add, r, inline } = setUp();
  await add(r({ discard: "unmap", file: { ...inline, discard: "ignore" } }));
  const [top, below] = graph.nodes();
  const discards = () => [top!.common.discard, below!.common.discard];
  await graph.reopen([r({ "detect-zeroes": "unmap" })]);
  assert.deepEqual(discards(), ["unmap", "unmap"]);
  assert.equal(top!.common.detectZeroes, "unmap");
  await graph.reopen([r({ discard: "ignore" })]);
  await graph.reopen([r()]);
  assert.deepEqual(discards(), ["ignore", "unmap"]);
  await graph.closeAll();
});

Deno.test("reopen replaces a child by reference and closes the inline one that nobody uses", async () => {
  const { graph, add, r, disks, memory } = setUp();
  await add(r());
  await add({ driver: "memory", "node-name": "b", disk: "b" });
  let size = 0;
  const backend = await graph.backend("r", { ...writer, onResize: (to) => void (size = to) });
  await graph.reopen([r({ file: "b" })]);
  assert.equal(disks.a.closed, 1);
  assert.equal(size, 8192);
  assert.deepEqual(graph.nodes().map((node) => node.name), ["b", "r"]);
  await backend.write(0, IoVec.of(memory(Uint8Array.of(9)).address, 1));
  assert.equal(disks.b.bytes[0], 9);
  assert.equal(disks.b.permissions.needed, Perm.write);
  await assert.rejects(graph.del("b"), { message: "Block device b is in use" });
  await backend.detach();
  await graph.closeAll();
});

Deno.test("reopen refuses in QEMU's words, and changes nothing", async () => {
  const { graph, add, r, inline } = setUp();
  await add(r());
  await add({ driver: "memory", "node-name": "b", disk: "b" });
  await add({ driver: "raw", "node-name": "top", file: "r" });
  const before = graph.nodes().map((node) => JSON.stringify(node.common));
  const table: [BlockdevOptionsValue[], string][] = [
    [[{ driver: "raw", file: "r" }], "node-name not specified"],
    [[r({ "node-name": "x" })], "Failed to find node with node-name='x'"],
    [[r({ driver: "memory" })], "Cannot change the option 'driver'"],
    [[r({ file: { ...inline, "node-name": "z" } })], "Cannot change the option 'node-name'"],
    [[r({ file: "nope" })], "Cannot find device='' nor node-name='nope'"],
    [[r({ file: "r" })], "Making 'r' a file child of 'r' would create a cycle"],
    [[r({ file: "top" })], "Making 'top' a file child of 'r' would create a cycle"],
    [
      [{ driver: "raw", "node-name": "top", file: inline }],
      "Cannot change the option 'file.driver'",
    ],
    [[r({ "read-only": true, "force-share": true })], "Cannot change the option 'force-share'"],
    [[r({ file: { ...inline, disk: "c" } })], "Parameter 'disk' cannot change"],
  ];
  for (const [list, message] of table) {
    await assert.rejects(graph.reopen(list), { name: "CommandError", message });
  }
  assert.deepEqual(graph.nodes().map((node) => JSON.stringify(node.common)), before);
  await graph.closeAll();
});

Deno.test("reopen read-only refuses while somebody writes", async () => {
  const { graph, add, r, disks } = setUp();
  await add(r());
  const backend = await graph.backend("r", writer);
  await assert.rejects(graph.reopen([r({ "read-only": true })]), {
    message: "Read-only block node 'r' cannot support read-write users",
  });
  assert.deepEqual(disks.a.reopens, ["prepare", "abort"]);
  assert.equal(graph.find("r")!.readOnly, false);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("one refusal in a list leaves all nodes as they were", async () => {
  const { graph, add, r, disks } = setUp();
  await add(r());
  await add({ driver: "memory", "node-name": "c", disk: "c" });
  disks.c.refusePermissions = () => undefined;
  await assert.rejects(
    graph.reopen([
      r({ "read-only": true }),
      { driver: "memory", "node-name": "c", disk: "elsewhere" },
    ]),
  );
  assert.equal(graph.find("r")!.readOnly, false);
  assert.deepEqual(disks.a.reopens, ["prepare", "abort"]);
  // A driver that refuses the new permissions is as good a reason.
  const backend = await graph.backend("r", writer);
  disks.c.refusePermissions = () => ioError("EAGAIN");
  await assert.rejects(graph.reopen([r({ file: "c" })]), /EAGAIN/);
  assert.equal(graph.find("r")!.children[0]!.node.driver, "memory");
  assert.equal(disks.a.permissions.needed, Perm.write);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("an empty list is a success", async () => {
  const { graph } = setUp();
  await graph.reopen([]);
  await graph.closeAll();
});
