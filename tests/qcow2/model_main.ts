/** More random operations: `deno run -A tests/qcow2/model_main.ts [--seeds=N] [--first=N] [--operations=N] [WORD]`. */
import { parseArgs } from "node:util";
import { TestDir } from "../harness/dir.ts";
import { cases } from "./cases.ts";
import { ModelRun } from "./model.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: "5" },
    first: { type: "string", default: "1" },
    operations: { type: "string", default: "400" },
  },
});
const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
let failures = 0;
for (const image of cases) {
  if (!positionals.every((word) => image.name.includes(word))) continue;
  let good = 0;
  for (let i = 0; i < Number(values.seeds); i++) {
    const seed = Number(values.first) + i;
    await using dir = TestDir.make();
    try {
      const run = await ModelRun.start(image, seed, dir);
      await run.run(Number(values.operations));
      await run.askQemu();
      good++;
    } catch (error) {
      failures++;
      say(`FAILED with seed ${seed}: ${(error as Error).stack}`);
      say(`  because ${((error as Error).cause as Error | undefined)?.stack}`);
    }
  }
  say(`${good} runs of ${values.operations} operations: ${image.name}`);
}
Deno.exitCode = failures === 0 ? 0 : 1;
