/** More of it: `deno run -A tests/vhost/shared_main.ts [--seeds=N] [--first=N] [--rounds=N] [WORD]`. */
import { attempt, named, say, wanted } from "../harness/many.ts";
import { layouts, runShared } from "./shared.ts";

const { numbers, words } = wanted({ seeds: 5, first: 1, rounds: 400 });
for (const layout of named(layouts, words)) {
  for (let seed = numbers.first; seed < numbers.first + numbers.seeds; seed++) {
    await attempt(`seed ${seed}: ${layout.name}`, async () => {
      const { met, alone } = await runShared(layout, seed, numbers.rounds);
      say(`seed ${seed}, ${met + alone} sectors, ${met} of them met writes: ${layout.name}`);
    });
  }
}
