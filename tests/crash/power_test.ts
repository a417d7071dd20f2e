/** Power cuts: a seeded share of what `tests/crash/power_main.ts` does. */
import { lacks } from "../harness/tools.ts";
import { cutPower } from "./power.ts";
import { scenarios } from "./scenarios.ts";

const ignore = lacks("crash/power", "qemu-img");

for (const scenario of scenarios) {
  Deno.test({
    name: `the power may be cut at any time: ${scenario.name}`,
    ignore,
    fn: async () => {
      await cutPower(scenario, { seed: 1, cuts: 120, qemuEvery: 40, reopenEvery: 20 });
    },
  });
}
