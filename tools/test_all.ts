/**
 * `deno task test`: everything that CI runs. The checks of `deno task ok`, then every folder of tests, then what
 * was skipped and why, what was slow, and the count alone on the last line.
 */
import { installPackages } from "./packages.ts";
import { say } from "./say.ts";
import { checks, countLine, type Outcome, root, tests } from "./steps.ts";

/** The order of the suites; folders of tests/ that are not named here come after. */
const order = ["harness", "contract", "interop", "parity", "hostile", "fuzz", "crash"];

async function folders(): Promise<string[]> {
  const found: string[] = [];
  for await (const entry of Deno.readDir(`${root}tests`)) {
    if (entry.isDirectory) found.push(entry.name);
  }
  const rank = (name: string) => order.includes(name) ? order.indexOf(name) : order.length;
  return found.sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

async function hasTests(folder: string): Promise<boolean> {
  for await (const entry of Deno.readDir(folder)) {
    if (
      entry.isDirectory
        ? await hasTests(`${folder}/${entry.name}`)
        : entry.name.endsWith("_test.ts")
    ) {
      return true;
    }
  }
  return false;
}

function summarise(outcomes: readonly Outcome[], skips: readonly string[]): void {
  const cases = outcomes.flatMap((outcome) => outcome.cases);
  const failed = cases.filter((one) => one.outcome === "failed");
  if (failed.length > 0) {
    say("\nFAILED");
    for (const { name } of failed) say(`  ${name}`);
  }
  say("\nSlowest tests");
  const checkNames = new Set(outcomes.map((outcome) => outcome.name));
  const slowest = cases.filter((one) => !checkNames.has(one.name))
    .sort((a, b) => b.seconds - a.seconds).slice(0, 10);
  for (const { name, seconds } of slowest) say(`  ${seconds.toFixed(1).padStart(5)} s  ${name}`);
  if (skips.length > 0) {
    say("\nSKIPPED: these suites were not run here");
    for (const line of skips) say(`  ${line}`);
  }
  say("");
  say(countLine(cases));
}

await installPackages();
const skipFile = await Deno.makeTempFile({ suffix: ".skips" });
const env = { QSD_TEST_SKIPS: skipFile };
try {
  const outcomes = [...await checks(), await tests("unit", ["lib", "tools", "bench"], env)];
  for (const folder of await folders()) {
    if (!await hasTests(`${root}tests/${folder}`)) continue;
    outcomes.push(await tests(folder, [`tests/${folder}`], env));
  }
  const skips = [...new Set((await Deno.readTextFile(skipFile)).split("\n").filter(Boolean))];
  summarise(outcomes, skips);
  Deno.exitCode = outcomes.every((outcome) => outcome.ok) ? 0 : 1;
} finally {
  await Deno.remove(skipFile);
}
