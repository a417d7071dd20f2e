// Goal: what is done for a chain of images grows with its length, and not with its square.
import assert from "node:assert/strict";
import { int, struct } from "../qmp/schema/core.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { blockCommands } from "./commands.ts";
import { testGraph } from "./testing.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import { type FormatInstance, Perm } from "./types.ts";

/** A format without a file, above another image or not, that counts what it is asked. */
function layers() {
  const counts = { facts: 0, permissions: 0 };
  const driver = defineDriver({
    name: "layer",
    kind: "format",
    options: struct("BlockdevOptionsLayer", { size: int }),
    async open(open): Promise<FormatInstance> {
      const backing = await open.optionalChild("backing", { role: ["cow"] });
      await backing?.facts(open.round);
      return {
        kind: "format",
        size: 512,
        locate: (_start, length, out) => out.zero(length, true),
        async facts(round) {
          counts.facts++;
          const below = await backing?.facts(round);
          return { filename: `${below?.filename ?? ""}/${open.nodeName}` };
        },
        close: () => {},
      };
    },
    childPermissions(_child, _role, parents) {
      counts.permissions++;
      return { needed: parents.needed & Perm.consistentRead, shared: Perm.all };
    },
  }) as DriverDefinition<never>;
  return { counts, driver };
}

/** Options of that many images, one above the other. */
function chain(length: number): BlockdevOptionsValue {
  const options: BlockdevOptionsValue = { driver: "layer", "read-only": true };
  if (length > 1) options["backing"] = chain(length - 1);
  return options;
}

Deno.test("what a chain of images is asked while it is opened, shown and closed grows with its length", async () => {
  const { counts, driver } = layers();
  const { graph } = testGraph({}, [driver]);
  const costs = async (act: () => Promise<unknown>) => {
    counts.facts = counts.permissions = 0;
    await act();
    return { ...counts };
  };
  const query = blockCommands(graph)["query-named-block-nodes"];
  for (const length of [10, 100]) {
    const options = { ...chain(length), "node-name": "top" };
    const opened = await costs(() => graph.add(options, { monitorOwned: true }));
    assert.deepEqual(opened, { facts: length - 1, permissions: length - 1 });
    for (const flat of [true, false]) {
      const shown = await costs(async () => {
        const nodes = await query({ flat });
        assert.equal(nodes.length, length);
        const top = nodes.find((node) => node["node-name"] === "top")!;
        assert.equal(top.backing_file_depth, flat ? 0 : length - 1);
      });
      assert.deepEqual(shown, { facts: length, permissions: 0 });
    }
    const used = await costs(async () => {
      const user = { describe: "a user", needed: Perm.consistentRead, shared: Perm.all };
      await (await graph.backend("top", user)).detach();
    });
    assert.deepEqual(used, { facts: 0, permissions: 2 * (length - 1) });
    assert.deepEqual(await costs(() => graph.del("top")), { facts: 0, permissions: 0 });
    assert.equal(graph.all.size, 0);
  }
});
