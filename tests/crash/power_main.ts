/**
 * Power cuts, many of them: `deno run -A tests/crash/power_main.ts [--cuts=N] [--seed=N] [--qemu=N] [WORD]`.
 * Of every scenario whose name contains WORD, N cut points are judged (default 1000), and every N-th state is shown
 * to `qemu-img check`, too (default 1: all of them).
 */
import { parseArgs } from "node:util";
import { cutPower } from "./power.ts";
import { scenarios } from "./scenarios.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    cuts: { type: "string", default: "1000" },
    seed: { type: "string", default: "1" },
    qemu: { type: "string", default: "1" },
    reopen: { type: "string", default: "10" },
  },
});
const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
let failures = 0;
for (const scenario of scenarios) {
  if (!positionals.every((word) => scenario.name.includes(word))) continue;
  const started = performance.now();
  try {
    const judged = await cutPower(scenario, {
      seed: Number(values.seed),
      cuts: Number(values.cuts),
      qemuEvery: Number(values.qemu),
      reopenEvery: Number(values.reopen),
    });
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    say(`${judged} cuts, 0 failures, ${seconds} s: ${scenario.name}`);
  } catch (error) {
    failures++;
    say(`FAILED: ${error}`);
  }
}
Deno.exitCode = failures === 0 ? 0 : 1;
