/**
 * Broken qcow2 images, many of them: `deno run -A tests/hostile/qcow2_fuzz_main.ts [--cases=N] [--first=N]
 * [--seconds=N] [--all]`. Default: 100,000 cases, however long they take. The number of a case that goes wrong runs
 * it again with `--first=N --cases=1`.
 */
import { parseArgs } from "node:util";
import { TestDir } from "../harness/dir.ts";
import { say } from "../harness/many.ts";
import { fuzzImages, seedImages } from "./qcow2_fuzz.ts";

const { values } = parseArgs({
  options: {
    cases: { type: "string", default: "100000" },
    first: { type: "string", default: "1" },
    /** Ends after this time, and tells which case would be the next. */
    seconds: { type: "string", default: "Infinity" },
    /** Goes on after a failure, to see all of them. */
    all: { type: "boolean", default: false },
  },
});
await using dir = TestDir.make();
const images = await seedImages(dir);
const last = Number(values.first) + Number(values.cases);
const until = performance.now() + Number(values.seconds) * 1000;
let failures = 0;
let longest = 0;
let memory = 0;
let next = Number(values.first);
while (next < last && performance.now() < until) {
  try {
    await fuzzImages(images, next, Math.min(last - next, 100), (number, milliseconds) => {
      next = number + 1;
      longest = Math.max(longest, milliseconds);
      if (number % 100 === 0) memory = Math.max(memory, Deno.memoryUsage().rss);
      if (number % 10_000 === 0) say(`${number} cases`);
    });
  } catch (error) {
    failures++;
    const { message, cause } = error as Error;
    say(`FAILED: ${message}: ${(cause as Error).stack}`);
    if (!values.all) break;
    next++;
  }
}
say(
  `${failures} failures in cases ${values.first} to ${next - 1}; ` +
    `the longest took ${Math.round(longest)} ms; ` +
    `${Math.round(memory / 1048576)} MiB resident at most`,
);
Deno.exitCode = failures === 0 ? 0 : 1;
