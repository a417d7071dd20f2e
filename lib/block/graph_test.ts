import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { MemoryDisk, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

const user = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};

Deno.test("a raw node over an inline child reads what was written", async () => {
  const disks = { d: new MemoryDisk(1 << 20) };
  const { graph, add, memory } = testGraph(disks);
  await add({ driver: "raw", "node-name": "r", file: { driver: "memory", disk: "d" } });
  const backend = await graph.backend("r", user);
  const out = memory(Uint8Array.from({ length: 4096 }, (_, i) => i % 251));
  const into = memory(4096);
  assert.equal(backend.write(8192, IoVec.of(out.address, 4096)), undefined);
  assert.equal(backend.read(8192, IoVec.of(into.address, 4096)), undefined);
  assert.deepEqual(into.bytes, out.bytes);
  assert.deepEqual(disks.d.bytes.subarray(8192, 8192 + 4096), out.bytes);
  assert.deepEqual(graph.nodes().map((node) => node.driver), ["raw", "memory"]);
  assert.match(graph.nodes()[1]!.name, /^#block0\d\d$/);
  assert.equal(backend.statistics.read.bytes, 4096);
  await assert.rejects(graph.del("r"), /^CommandError: Node r is in use$/);
  await backend.detach();
  assert.deepEqual(disks.d.permissions, { needed: 0, shared: 15 });
  await graph.del("r");
  assert.equal(disks.d.closed, 1);
  await graph.closeAll();
});
