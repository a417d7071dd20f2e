import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { BlockdevRef } from "../qmp/schema/blockdev.ts";
import { struct } from "../qmp/schema/core.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import { ioError, MemoryDisk, testGraph } from "./testing.ts";
import { type IoInstance, Perm } from "./types.ts";

const writer = { describe: "a user", needed: Perm.write, shared: Perm.all };
const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 0));

/** Nodes that tell `log` when they close; a name in `failing` cannot, and one in `slow` waits for its promise. */
function told(options: { failing?: string[]; slow?: Record<string, Promise<void>> } = {}) {
  const log: string[] = [];
  const driver = (name: string, below: readonly string[]) =>
    defineDriver({
      name,
      kind: "filter",
      options: struct(
        "BlockdevOptionsTold",
        Object.fromEntries(below.map((b) => [b, BlockdevRef])),
      ),
      async open(open): Promise<IoInstance> {
        for (const child of below) await open.child(child, { role: ["data"] });
        const { nodeName } = open;
        return {
          kind: "io",
          size: 512,
          read() {},
          write() {},
          async close() {
            log.push(`${nodeName} closes`);
            await options.slow?.[nodeName];
            log.push(`${nodeName} closed`);
            if (options.failing?.includes(nodeName)) throw ioError();
          },
        };
      },
    }) as DriverDefinition<never>;
  return { log, drivers: [driver("leaf", []), driver("one", ["file"]), driver("two", ["a", "b"])] };
}

Deno.test("closing a graph flushes nodes that do not depend on each other at the same time", async () => {
  const disks = Object.fromEntries(["a", "b", "c"].map((name) => [name, new MemoryDisk(512)]));
  const { graph, add, memory } = testGraph(disks);
  const data = memory(512);
  for (const disk of Object.keys(disks)) {
    await add({ driver: "memory", "node-name": disk, disk });
    const user = await graph.backend(disk, writer);
    await user.write(0, IoVec.of(data.address, 512));
    await user.detach();
    disks[disk]!.latency = "held";
  }
  const closing = graph.closeAll();
  await Promise.all(Object.values(disks).map((disk) => disk.arrivals(1)));
  for (const disk of Object.values(disks)) disk.held[0]!.release();
  await closing;
  assert.deepEqual(Object.values(disks).map((disk) => disk.closed), [1, 1, 1]);
});

Deno.test("closing a graph closes no child before all of its parents have closed, and each node once", async () => {
  const slow = Promise.withResolvers<void>();
  const { log, drivers } = told({ slow: { slow: slow.promise } });
  const { graph, add } = testGraph({}, drivers);
  for (const name of ["shared", "other"]) await add({ driver: "leaf", "node-name": name });
  await add({ driver: "one", "node-name": "middle", file: "shared" });
  await add({ driver: "one", "node-name": "slow", file: "shared" });
  await add({ driver: "two", "node-name": "top", a: "middle", b: "other" });
  const closing = graph.closeAll();
  await turn();
  assert.ok(log.includes("top closed") && log.includes("slow closes"), log.join());
  assert.ok(!log.some((line) => /^(shared|slow) closed/.test(line)), log.join());
  slow.resolve();
  await closing;
  const at = (line: string) => log.indexOf(line);
  for (const [parent, child] of [["top", "middle"], ["top", "other"], ["middle", "shared"]]) {
    assert.ok(at(`${parent} closed`) < at(`${child} closes`), log.join());
  }
  assert.ok(at("slow closed") < at("shared closes"), log.join());
  assert.equal(log.length, 10);
  assert.deepEqual(graph.nodes(), []);
});

Deno.test("closing a graph goes on after nodes that cannot be closed, and says which they were", async () => {
  const { log, drivers } = told({ failing: ["x", "y"] });
  const { graph, add, context } = testGraph({}, drivers);
  for (const name of ["x", "y"]) await add({ driver: "leaf", "node-name": name });
  await add({ driver: "one", "node-name": "z", file: "x" });
  await graph.closeAll();
  assert.equal(log.filter((line) => line.endsWith("closed")).length, 3);
  assert.deepEqual(context.lines.filter((line) => line.startsWith("warning")).toSorted(), [
    "warning: closing node 'x': BlockError: injected EIO",
    "warning: closing node 'y': BlockError: injected EIO",
  ]);
});
