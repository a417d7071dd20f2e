import assert from "node:assert/strict";
import { testContext } from "../../testing_context.ts";
import type { Child } from "../../mod.ts";
import { StagedSlices } from "./staged.ts";

Deno.test("many pieces that a file takes at once are written over several turns: others get theirs", async () => {
  const context = testContext();
  let ns = 0;
  (context.sys as { monotonicNs(): number }).monotonicNs = () => ns;
  const turns: number[] = [];
  const file = {
    write() {
      turns.push(context.loop.counters.turns);
      ns += 100_000; // as long as the page cache takes for some of them
    },
  } as unknown as Child;
  const staged = new StagedSlices(context, file);
  const { address } = context.sys.allocate(512);
  for (let i = 0; i < 100; i++) staged.add(i * 8192, address, 512);
  staged.copy();
  await staged.write();
  staged.finish(true);
  assert.equal(turns.length, 100);
  const longest = Math.max(...turns.map((turn) => turns.filter((other) => other === turn).length));
  assert.ok(longest <= 8, `${longest} writes in one turn`);
});
