import assert from "node:assert/strict";
import { CommandError, IoVec } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { int, struct } from "../qmp/schema/core.ts";
import { MAX_DEPTH } from "./depth.ts";
import { ioError, MemoryDisk, testGraph } from "./testing.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import { type IoInstance, Perm } from "./types.ts";

const writer = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};
const R = Perm.consistentRead, W = Perm.write, Z = Perm.resize;

/** A driver whose open waits for the test, or fails. */
function gated() {
  const gates: { name: string; open(error?: Error): void }[] = [];
  const driver = defineDriver({
    name: "gated",
    kind: "protocol",
    options: struct("BlockdevOptionsGated", { size: int }),
    open(open): Promise<IoInstance> {
      return new Promise((resolve, reject) => {
        gates.push({
          name: open.nodeName,
          open: (error) =>
            error === undefined
              ? resolve({ kind: "io", size: 512, read() {}, write() {}, close() {} })
              : reject(error),
        });
      });
    },
  }) as DriverDefinition<never>;
  return { gates, driver };
}
const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 0));

Deno.test("a raw node over an inline child reads what was written, and dies with it", async () => {
  const disks = { d: new MemoryDisk(1 << 20) };
  const { graph, add, memory } = testGraph(disks);
  await add({ driver: "raw", "node-name": "r", file: { driver: "memory", disk: "d" } });
  const backend = await graph.backend("r", writer);
  const out = memory(Uint8Array.from({ length: 4096 }, (_, i) => i % 251));
  const into = memory(4096);
  assert.equal(backend.write(8192, IoVec.of(out.address, 4096)), undefined);
  assert.equal(backend.read(8192, IoVec.of(into.address, 4096)), undefined);
  assert.deepEqual(into.bytes, out.bytes);
  assert.deepEqual(disks.d.bytes.subarray(8192, 8192 + 4096), out.bytes);
  assert.deepEqual(graph.nodes().map((node) => node.driver), ["raw", "memory"]);
  assert.match(graph.nodes()[1]!.name, /^#block0\d\d$/);
  await backend.detach();
  assert.deepEqual(disks.d.permissions, { needed: 0, shared: Perm.all });
  await graph.del("r");
  assert.equal(disks.d.closed, 1);
  assert.deepEqual(graph.nodes(), []);
  await graph.closeAll();
});

Deno.test("blockdev-add refuses in QEMU's words, and leaves nothing behind", async () => {
  const disks = { d: new MemoryDisk(512) };
  const { graph, add } = testGraph(disks);
  const memory = { driver: "memory", disk: "d" };
  await add({ ...memory, "node-name": "taken" });
  const table: [Record<string, unknown>, string][] = [
    [{ ...memory }, "'node-name' must be specified for the root node"],
    [{ ...memory, "node-name": "taken" }, "Duplicate nodes with node-name='taken'"],
    [{ ...memory, "node-name": "#block123" }, "Invalid node-name: '#block123'"],
    [{ ...memory, "node-name": "" }, "Invalid node-name: ''"],
    [{ ...memory, "node-name": "1a" }, "Invalid node-name: '1a'"],
    [{ ...memory, "node-name": "ä" }, "Invalid node-name: 'ä'"],
    [{ ...memory, "node-name": "x".repeat(32) }, "Node name too long"],
    [
      { driver: "raw", "node-name": "r", file: "nope" },
      "Cannot find device='nope' nor node-name='nope'",
    ],
    [
      { driver: "raw", "node-name": "r", file: { ...memory, "node-name": "r" } },
      "Duplicate nodes with node-name='r'",
    ],
    [{ driver: "raw", "node-name": "r" }, 'A block device must be specified for "file"'],
    [{ driver: "nope", "node-name": "r" }, "Unknown driver 'nope'"],
    [
      { ...memory, "node-name": "n", "detect-zeroes": "unmap" },
      "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
    ],
    [
      { ...memory, "node-name": "n", "force-share": true },
      "force-share=on can only be used with read-only images",
    ],
  ];
  for (const [options, message] of table) {
    await assert.rejects(add(options as { driver: string }), { name: "CommandError", message });
  }
  await add({ ...memory, "node-name": "x".repeat(31) });
  assert.deepEqual(graph.nodes().map((node) => node.name), ["x".repeat(31), "taken"]);
  assert.equal(graph.all.size, 2);
  await graph.closeAll();
  assert.equal(disks.d.closed, 2);
});

Deno.test("blockdev-del refuses in QEMU's words", async () => {
  const { graph, add } = testGraph({ d: new MemoryDisk(512) });
  await add({
    driver: "raw",
    "node-name": "r",
    file: { driver: "memory", disk: "d", "node-name": "f" },
  });
  await add({ driver: "raw", "node-name": "top", file: "r" });
  const backend = await graph.backend("top", writer);
  const table = [
    ["nope", "Failed to find node with node-name='nope'"],
    ["top", "Node top is in use"],
    ["f", "Node f is not owned by the monitor"],
    ["r", "Block device r is in use"],
  ] as const;
  for (const [name, message] of table) await assert.rejects(graph.del(name), { message });
  await backend.detach();
  await graph.del("top");
  await graph.del("r");
  assert.equal(graph.find("f"), undefined);
  await graph.closeAll();
});

Deno.test("an inline child that others refer to outlives its parent", async () => {
  const disks = { d: new MemoryDisk(512) };
  const { graph, add } = testGraph(disks);
  const file = { driver: "memory", disk: "d", "node-name": "f" };
  await add({ driver: "raw", "node-name": "one", file });
  await add({ driver: "raw", "node-name": "two", file: "f" });
  await graph.del("one");
  assert.equal(disks.d.closed, 0);
  await graph.del("two");
  assert.equal(disks.d.closed, 1);
  await graph.closeAll();
});

Deno.test("inline children inherit, children by reference do not", async () => {
  const { graph, add } = testGraph({ d: new MemoryDisk(512) });
  const inline = (name: string) => ({ driver: "memory", disk: "d", "node-name": name });
  await add({
    driver: "raw",
    "node-name": "r",
    "read-only": true,
    "auto-read-only": true,
    "force-share": true,
    cache: { direct: true, "no-flush": true },
    "detect-zeroes": "on",
    file: inline("f"),
  });
  assert.deepEqual(graph.find("f")!.common, {
    readOnly: true,
    autoReadOnly: true,
    direct: true,
    noFlush: true,
    discard: "unmap",
    detectZeroes: "off",
    forceShare: true,
    active: true,
  });
  await add(inline("g"));
  await add({ driver: "raw", "node-name": "s", "read-only": true, file: "g" });
  assert.equal(graph.find("g")!.readOnly, false);
  assert.equal(graph.find("g")!.common.discard, "ignore");
  await graph.closeAll();
});

Deno.test("two monitors that add at the same time get one node of a name, and one refusal", async () => {
  const { gates, driver } = gated();
  const { graph, add } = testGraph({}, [driver]);
  const first = add({ driver: "gated", "node-name": "n" });
  const second = assert.rejects(add({ driver: "gated", "node-name": "n" }), {
    message: "Duplicate nodes with node-name='n'",
  });
  const third = add({ driver: "gated", "node-name": "m" });
  await turn();
  assert.deepEqual(gates.map(({ name }) => name), ["n"], "one after the other");
  assert.equal(graph.find("n"), undefined, "not visible before it is open");
  gates[0]!.open();
  await first;
  await second;
  await turn();
  gates[1]!.open();
  await third;
  assert.deepEqual(graph.nodes().map((node) => node.name), ["m", "n"]);
  await graph.closeAll();
});

Deno.test("an open that fails half way closes what it opened, and the queue goes on", async () => {
  const disks = { d: new MemoryDisk(512) };
  const { gates, driver } = gated();
  const pair = defineDriver({
    name: "pair",
    kind: "format",
    options: struct("BlockdevOptionsPair", {}),
    async open(open) {
      await open.child("file", { role: ["metadata"] });
      const second = await open.child("data-file", { role: ["data"] });
      return { kind: "format" as const, size: second.size, locate() {}, close() {} };
    },
  }) as DriverDefinition<never>;
  const { graph, add } = testGraph(disks, [driver, pair]);
  const opening = assert.rejects(
    add({
      driver: "pair",
      "node-name": "p",
      file: { driver: "memory", disk: "d" },
      "data-file": { driver: "gated" },
    }),
    { message: "no such thing" },
  );
  await turn();
  assert.deepEqual(disks.d.permissions, { needed: R | W | Z, shared: R | Perm.writeUnchanged });
  gates[0]!.open(new CommandError("no such thing"));
  await opening;
  assert.equal(disks.d.closed, 1);
  assert.equal(graph.all.size, 0);
  await add({ driver: "memory", "node-name": "p", disk: "d" });
  await graph.closeAll();
});

Deno.test("permissions follow the users: a refusal changes nothing", async () => {
  const disks = { d: new MemoryDisk(512) };
  const { graph, add } = testGraph(disks);
  await add({ driver: "raw", "node-name": "r", file: { driver: "memory", disk: "d" } });
  const first = await graph.backend("r", { ...writer, shared: Perm.all & ~Z });
  assert.deepEqual(disks.d.permissions, { needed: R | W, shared: Perm.all & ~Z });
  await assert.rejects(graph.resize("r", 1024), {
    message: "Permission conflict on node 'r': permissions 'resize' are both required by " +
      "an unnamed block device (uses node 'r' as 'root' child) and unshared by " +
      "an unnamed block device (uses node 'r' as 'root' child).",
  });
  assert.equal(graph.backends.size, 1);
  disks.d.refusePermissions = (needed) =>
    (needed & Z) !== 0 ? new CommandError('Failed to get "resize" lock') : undefined;
  await assert.rejects(first.setPermissions(R | W | Z, Perm.all), /Failed to get "resize" lock/);
  assert.deepEqual(disks.d.permissions, { needed: R | W, shared: Perm.all & ~Z });
  await first.setPermissions(R, Perm.all);
  assert.deepEqual(disks.d.permissions, { needed: R, shared: Perm.all });
  await assert.rejects(
    async () => await first.write(0, IoVec.of(0x10000, 512)),
    { errno: "EPERM" },
    "a write without the permission does not reach the child",
  );
  await first.detach();
  await graph.closeAll();
});

Deno.test("block_resize tells users and parents, and leaves nobody attached", async () => {
  const disks = { d: new MemoryDisk(4096) };
  const { graph, add } = testGraph(disks);
  await add({
    driver: "raw",
    "node-name": "r",
    file: { driver: "memory", disk: "d", "node-name": "f" },
  });
  const sizes: number[] = [];
  const backend = await graph.backend("r", { ...writer, onResize: (size) => sizes.push(size) });
  await graph.resize("r", 8192);
  await graph.resize("f", 2048);
  await graph.resize("f", 2048);
  assert.deepEqual(sizes, [8192, 2048]);
  assert.equal(backend.size, 2048);
  assert.equal(graph.backends.size, 1);
  await backend.detach();
  await add({ driver: "memory", disk: "d", "node-name": "ro", "read-only": true });
  await assert.rejects(graph.resize("ro", 4096), { message: "Image is read-only" });
  await graph.closeAll();
});

Deno.test("a node that fails to flush at the end is closed and logged", async () => {
  const disks = { d: new MemoryDisk(4096) };
  const { graph, add, context, memory } = testGraph(disks);
  await add({ driver: "memory", disk: "d", "node-name": "n" });
  const backend = await graph.backend("n", writer);
  await backend.write(0, IoVec.of(memory(512).address, 512));
  disks.d.fault = () => ioError();
  await backend.detach();
  await graph.closeAll();
  assert.equal(disks.d.closed, 1);
  assert.match(context.lines.join("\n"), /warning: flushing node 'n': .*injected EIO/);
});

Deno.test("a user without the write permission writes nothing", async () => {
  const disks = { d: new MemoryDisk(4096) };
  const { graph, add, memory } = testGraph(disks);
  await add({ driver: "memory", disk: "d", "node-name": "n", discard: "unmap" });
  const backend = await graph.backend("n", { ...writer, needed: R });
  const iov = IoVec.of(memory(512).address, 512);
  const calls = [
    () => backend.write(0, iov),
    () => backend.writeZeroes(0, 512),
    () => backend.discard(0, 512),
  ];
  for (const call of calls) {
    await assert.rejects(async () => await call(), { errno: "EPERM" });
  }
  assert.deepEqual(disks.d.calls, []);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("a node may be deleted while everything is drained", async () => {
  const disks = { d: new MemoryDisk(4096) };
  const { graph, add } = testGraph(disks);
  await add({ driver: "memory", disk: "d", "node-name": "n" });
  const section = await graph.drain();
  await graph.del("n");
  section.end();
  assert.equal(disks.d.quiesced, 1, "a closed driver is not called");
  await graph.closeAll();
});

Deno.test("a chain of 500 nodes opens, reads, tells status and closes; a longer one is refused", async () => {
  const disks = { d: new MemoryDisk(4096) };
  const { graph, add, memory } = testGraph(disks);
  let options: BlockdevOptionsValue = { driver: "memory", disk: "d" };
  for (let i = 0; i < MAX_DEPTH - 1; i++) options = { driver: "raw", file: options };
  await add({ ...options, "node-name": "top" });
  const backend = await graph.backend("top", writer);
  const iov = IoVec.of(memory(512).address, 512);
  await backend.write(0, iov);
  await backend.read(0, iov);
  await backend.flush();
  const out = { length: 0, allocated: false, data: false, zero: false };
  await backend.status(0, 4096, true, out);
  assert.deepEqual([out.length, out.data], [512, true]);
  assert.equal(graph.nodes().length, MAX_DEPTH);
  const deeper = { driver: "raw", "node-name": "over", file: { ...options, "node-name": "x" } };
  await assert.rejects(add(deeper), { message: /^Node 'x' cannot be a child of 'over': more/ });
  await assert.rejects(add({ driver: "raw", "node-name": "over", file: "top" }), {
    message: "Node 'top' cannot be a child of 'over': more than 500 nodes deep",
  });
  assert.equal(graph.nodes().length, MAX_DEPTH);
  await backend.detach();
  await graph.closeAll();
  assert.equal(disks.d.closed, 2);
});

Deno.test("a node that was deleted before it could go back from its IOThread needs no place", async () => {
  const { graph, add } = testGraph({ d: new MemoryDisk(4096) });
  await add({ driver: "memory", "node-name": "n", disk: "d" });
  const node = graph.find("n")!;
  const [deleted, moved] = await Promise.allSettled([
    graph.del("n"),
    graph.moveUnused(node, undefined),
  ]);
  assert.deepEqual([deleted.status, moved.status], ["fulfilled", "fulfilled"]);
  await graph.closeAll();
});
