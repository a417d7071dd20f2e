import assert from "node:assert/strict";
import { struct } from "../qmp/schema/core.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import type { DrainedSection } from "./graph_types.ts";
import { testGraph } from "./testing.ts";

/** A driver that takes its time to become quiet, until the test lets it, or fails it. */
function slow() {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const calls: string[] = [];
  const driver = defineDriver({
    name: "slow",
    kind: "protocol",
    options: struct("BlockdevOptionsSlow", {}),
    open: () => ({
      kind: "io" as const,
      size: 512,
      read() {},
      quiesce() {
        calls.push("quiesce");
        return promise;
      },
      resume: () => void calls.push("resume"),
      close() {},
    }),
  }) as DriverDefinition<never>;
  return { driver, calls, resolve, reject };
}

Deno.test("a drained section that begins within another waits for the same drivers", async () => {
  const { driver, calls, resolve } = slow();
  const { graph, add } = testGraph({}, [driver]);
  await add({ driver: "slow", "node-name": "s", "read-only": true });
  const done: string[] = [];
  const noting = async (name: string, section: Promise<DrainedSection>) => {
    await section;
    done.push(name);
    return await section;
  };
  const outer = noting("outer", graph.drain("s"));
  const inner = noting("inner", graph.drain());
  await new Promise((resolve) => setTimeout(resolve, 0)); // all that can run has run
  assert.deepEqual(calls, ["quiesce"]);
  assert.deepEqual(done, []);
  resolve();
  (await outer).end();
  assert.deepEqual(calls, ["quiesce"]);
  (await inner).end();
  assert.deepEqual(calls, ["quiesce", "resume"]);
  await graph.closeAll();
});

Deno.test("a driver that cannot become quiet fails all sections that wait for it", async () => {
  const { driver, calls, reject } = slow();
  const { graph, add } = testGraph({}, [driver]);
  await add({ driver: "slow", "node-name": "s", "read-only": true });
  const stuck = { message: "it is stuck" };
  const both = [graph.drain("s"), graph.drain("s")].map((one) => assert.rejects(one, stuck));
  reject(new Error(stuck.message));
  await Promise.all(both);
  assert.deepEqual(calls, ["quiesce"], "it was never quiet, so it is not resumed");
  assert.equal(graph.find("s")!.drained, 0);
  await graph.closeAll();
});
