/** More of it: `deno run -A tests/vhost/shared_main.ts [--seeds=N] [--first=N] [--rounds=N] [WORD]`. */
import { parseArgs } from "node:util";
import { layouts, runShared } from "./shared.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: "5" },
    first: { type: "string", default: "1" },
    rounds: { type: "string", default: "400" },
  },
});
const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
let failures = 0;
for (const layout of layouts) {
  if (!positionals.every((word) => layout.name.includes(word))) continue;
  for (let i = 0; i < Number(values.seeds); i++) {
    const seed = Number(values.first) + i;
    try {
      const { met, alone } = await runShared(layout, seed, Number(values.rounds));
      say(`seed ${seed}, ${met + alone} sectors, ${met} of them met writes: ${layout.name}`);
    } catch (error) {
      failures++;
      say(`FAILED with seed ${seed}: ${layout.name}: ${(error as Error).stack}`);
    }
  }
}
Deno.exitCode = failures === 0 ? 0 : 1;
