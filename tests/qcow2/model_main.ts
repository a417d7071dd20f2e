/** More random operations: `deno run -A tests/qcow2/model_main.ts [--seeds=N] [--first=N] [--operations=N] [WORD]`. */
import { TestDir } from "../harness/dir.ts";
import { attempt, named, say, wanted } from "../harness/many.ts";
import { cases } from "./cases.ts";
import { ModelRun } from "./model.ts";

const { numbers, words } = wanted({ seeds: 5, first: 1, operations: 400 });
for (const image of named(cases, words)) {
  let good = 0;
  for (let seed = numbers.first; seed < numbers.first + numbers.seeds; seed++) {
    await attempt(`seed ${seed}: ${image.name}`, async () => {
      await using dir = TestDir.make();
      const run = await ModelRun.start(image, seed, dir);
      await run.run(numbers.operations);
      await run.askQemu();
      good++;
    });
  }
  say(`${good} runs of ${numbers.operations} operations: ${image.name}`);
}
