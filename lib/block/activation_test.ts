import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { Bits } from "./bitmaps/bits.ts";
import { DirtyBitmap } from "./bitmaps/mod.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import { ioError, MemoryDisk, testGraph, windowDriver } from "./testing.ts";
import { type BitmapStore, Perm } from "./types.ts";

const R = Perm.consistentRead, W = Perm.write;
const writer = { describe: "an unnamed block device", needed: R | W, shared: R };
const raw = (name: string, more: Record<string, unknown> = {}) => ({
  driver: "raw",
  "node-name": name,
  ...more,
  file: { driver: "memory", disk: "d", "node-name": `${name}-file` },
});
/** Names of the active nodes, oldest first. */
const active = (graph: ReturnType<typeof testGraph>["graph"]) =>
  graph.nodes().filter((node) => node.active).map((node) => node.name).reverse();

Deno.test("an inactive node holds no permissions, is read, and refuses every change", async () => {
  const d = new MemoryDisk(1 << 20);
  const { graph, add, memory } = testGraph({ d });
  await add(raw("r", { active: false }));
  assert.deepEqual(active(graph), [], "children inherit it");
  const backend = await graph.backend("r", { ...writer, allowInactive: true });
  assert.deepEqual(d.permissions, { needed: 0, shared: Perm.all });
  const iov = IoVec.of(memory(512).address, 512);
  assert.equal(backend.read(0, iov), undefined);
  assert.equal(backend.flush(), undefined);
  const refused = { errno: "EPERM", message: /node 'r' is inactive/ };
  assert.throws(() => backend.write(0, iov), refused);
  assert.throws(() => backend.writeZeroes(0, 512), refused);
  assert.throws(() => backend.discard(0, 512), refused);
  await backend.detach();
  await assert.rejects(graph.resize("r", 1 << 21), { message: "Node 'r' is inactive" });
  await graph.closeAll();
});

Deno.test("activating takes the permissions that users want, children first; inactivating gives them up", async () => {
  const d = new MemoryDisk(1 << 20);
  const { graph, add, memory } = testGraph({ d });
  await add(raw("r", { active: false }));
  const backend = await graph.backend("r", { ...writer, allowInactive: true });
  await graph.setActive(graph.find("r"), true);
  assert.deepEqual(active(graph), ["r-file", "r"]);
  assert.deepEqual(d.permissions, { needed: R | W, shared: R });
  const iov = IoVec.of(memory(512).address, 512);
  assert.equal(backend.write(0, iov), undefined);
  await graph.setActive(graph.find("r"), false);
  assert.deepEqual(active(graph), [], "the file goes with its only user");
  assert.deepEqual(d.permissions, { needed: 0, shared: Perm.all });
  assert.throws(() => backend.write(0, iov), { errno: "EPERM" });
  await graph.setActive(undefined, true);
  await graph.setActive(undefined, true);
  assert.equal(backend.write(0, iov), undefined);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("a user without leave for it keeps its node active, and cannot attach to an inactive one", async () => {
  const { graph, add } = testGraph({ d: new MemoryDisk(1 << 20) });
  await add(raw("r"));
  await add({ driver: "raw", "node-name": "top", file: "r" });
  const backend = await graph.backend("r-file", { ...writer, needed: R, shared: Perm.all });
  await assert.rejects(graph.setActive(graph.find("r-file"), false), {
    message: "Node 'r-file' is in use by node 'r', which needs it active",
  });
  await assert.rejects(graph.setActive(graph.find("r"), false), {
    message: "Node 'r' is in use by node 'top', which needs it active",
  });
  await assert.rejects(graph.setActive(undefined, false), {
    message: "Node 'r-file' is in use by an unnamed block device, which needs it active",
  });
  assert.deepEqual(active(graph), ["r-file", "r", "top"], "all or none");
  await graph.setActive(graph.find("top"), false);
  assert.deepEqual(active(graph), ["r-file"], "what others use stays");
  await assert.rejects(graph.backend("r", writer), { message: "Node 'r' is inactive" });
  await backend.detach();
  await graph.closeAll();
});

Deno.test("an active node does not stand on an inactive one", async () => {
  const { graph, add } = testGraph({ d: new MemoryDisk(1 << 20) });
  await add(raw("r", { active: false }));
  const message = "Inactive 'r' can't be a file child of active 'top'";
  await assert.rejects(add({ driver: "raw", "node-name": "top", file: "r" }), { message });
  await add({ driver: "raw", "node-name": "top", file: "r", active: false });
  await assert.rejects(
    graph.reopen([{ driver: "raw", "node-name": "top", file: "r", active: true }]),
    { message: "Cannot change the option 'active'" },
  );
  await graph.reopen([{ driver: "raw", "node-name": "top", file: "r" }]);
  assert.deepEqual(active(graph), [], "a reopen leaves it as it is");
  await graph.closeAll();
});

Deno.test("a driver that cannot take its permissions leaves every node inactive", async () => {
  const d = new MemoryDisk(1 << 20);
  const { graph, add } = testGraph({ d });
  await add(raw("r", { active: false }));
  const backend = await graph.backend("r", { ...writer, allowInactive: true });
  d.refusePermissions = () => ioError();
  await assert.rejects(graph.setActive(undefined, true), { message: /injected EIO/ });
  assert.deepEqual(active(graph), []);
  assert.deepEqual(d.permissions, { needed: 0, shared: Perm.all });
  d.refusePermissions = undefined;
  await graph.setActive(undefined, true);
  assert.deepEqual(active(graph), ["r-file", "r"]);
  await backend.detach();
  await graph.closeAll();
});

/** As `raw`, with a bitmap that the image keeps. `told`: what was asked of that. */
function keeper(told: string[]): DriverDefinition<never> {
  const bitmaps: BitmapStore = {
    load() {
      told.push("load");
      const bits = new Bits(1 << 20, 65536);
      const options = { name: "b", persistent: true, recording: true };
      return Promise.resolve([new DirtyBitmap(bits, options)]);
    },
    store: (all) => Promise.resolve(void told.push(`store ${all.length}`)),
    checkNew: () => {},
    checkSize: () => {},
    remove: () => Promise.resolve(),
    claim: () => Promise.resolve(),
    resume: () => Promise.resolve(),
  };
  return defineDriver({
    ...windowDriver,
    name: "keeper",
    async open(open, options) {
      return { ...await windowDriver.open(open, options), size: 1 << 20, bitmaps };
    },
  }) as DriverDefinition<never>;
}

Deno.test("a node that cannot be flushed stays active, with its bitmaps recording", async () => {
  const d = new MemoryDisk(1 << 20);
  const told: string[] = [];
  const { graph, add, memory } = testGraph({ d }, [keeper(told)]);
  await add({ driver: "keeper", "node-name": "k", file: { driver: "memory", disk: "d" } });
  const backend = await graph.backend("k", { ...writer, allowInactive: true });
  const iov = IoVec.of(memory(512).address, 512);
  assert.equal(backend.write(0, iov), undefined);
  told.length = 0;
  d.fault = ({ op }) => op === "flush" ? ioError() : undefined;
  await assert.rejects(graph.setActive(graph.find("k"), false), { message: "injected EIO" });
  d.fault = undefined;
  assert.equal(graph.find("k")!.active, true);
  assert.deepEqual(told, ["store 1", "load"], "the image says again that it is in use");
  const bitmap = graph.find("k")!.bitmaps?.find("b");
  assert.equal(backend.write(1 << 19, iov), undefined);
  assert.equal(bitmap?.bits.has(1 << 19), true, "or an incremental backup would miss this write");
  await backend.detach();
  await graph.closeAll();
});
