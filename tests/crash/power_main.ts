/**
 * Power cuts, many of them: `deno run -A tests/crash/power_main.ts [--cuts=N] [--seed=N] [--qemu=N] [--reopen=N] [WORD]`.
 * Of every scenario whose name contains WORD, N cut points are judged (default 1000), and every N-th state is shown
 * to `qemu-img check`, too (default 1: all of them); every N-th is opened again (default 10).
 */
import { attempt, named, say, wanted } from "../harness/many.ts";
import { cutPower } from "./power.ts";
import { scenarios } from "./scenarios.ts";

const { numbers, words } = wanted({ cuts: 1000, seed: 1, qemu: 1, reopen: 10 });
for (const scenario of named(scenarios, words)) {
  const started = performance.now();
  await attempt(scenario.name, async () => {
    const { cuts, seed, qemu: qemuEvery, reopen: reopenEvery } = numbers;
    const judged = await cutPower(scenario, { seed, cuts, qemuEvery, reopenEvery });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    say(`${judged} cuts, 0 failures, ${seconds} s: ${scenario.name}`);
  });
}
