import assert from "node:assert/strict";
import { CommandError } from "../base/mod.ts";
import { struct } from "../qmp/schema/core.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import { MemoryDisk, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

/** A format that takes its file, and then finds that the image is no good. */
const broken = defineDriver({
  name: "broken",
  kind: "format",
  options: struct("BlockdevOptionsBroken", {}),
  async open(open) {
    await open.child("file", { role: ["metadata", "data", "primary"] });
    throw new CommandError("Image is corrupt");
  },
}) as DriverDefinition<never>;

Deno.test("an open that fails gives back what it took of nodes that it only refers to", async () => {
  const d = new MemoryDisk(1 << 20);
  const { graph, add } = testGraph({ d }, [broken]);
  await add({ driver: "memory", "node-name": "f", disk: "d" });
  const nothing = { needed: Perm.none, shared: Perm.all };
  assert.deepEqual(d.permissions, nothing);
  await assert.rejects(add({ driver: "broken", "node-name": "b", file: "f" }), {
    message: "Image is corrupt",
  });
  assert.deepEqual(d.permissions, nothing, "or its file stays locked for other processes");
  assert.deepEqual(graph.find("f")!.permissions, nothing);
  assert.deepEqual(graph.find("f")!.parents, []);
  // The same below a node that is open by then.
  const above = { driver: "raw", "node-name": "r", file: "f" };
  await assert.rejects(add({ driver: "broken", "node-name": "b", file: above }), {
    message: "Image is corrupt",
  });
  assert.deepEqual(d.permissions, nothing);
  assert.deepEqual(graph.nodes().map(({ name }) => name), ["f"]);
  await graph.closeAll();
});
