/** Steps of `deno task ok` and `deno task test`: programs that are run one after another, and how they went. */
import { readJunit, type TestCase } from "./junit.ts";
import { say } from "./say.ts";

/** The root of the project, with a slash at its end. */
export const root: string = new URL("../", import.meta.url).pathname;

/** How a step went. */
export interface Outcome {
  readonly name: string;
  readonly ok: boolean;
  readonly seconds: number;
  /** The tests it ran; of a check, the check itself. */
  readonly cases: readonly TestCase[];
}

const decoder = new TextDecoder();

/** Milliseconds after which a step is ended: the longest takes three minutes. A test that hangs must not hang CI. */
const STEP_LIMIT = 15 * 60_000;

async function run(args: readonly string[], env: Record<string, string>) {
  const started = performance.now();
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), STEP_LIMIT);
  const output = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: root,
    // The launcher takes the deno that runs the tests.
    env: { NO_COLOR: "1", QSD_DENO: Deno.execPath(), ...env },
    stdout: "piped",
    stderr: "piped",
    signal: limit.signal,
  }).output();
  clearTimeout(timer);
  return {
    ok: output.success,
    late: limit.signal.aborted,
    signal: output.signal,
    text: decoder.decode(output.stdout) + decoder.decode(output.stderr),
    seconds: (performance.now() - started) / 1000,
  };
}

/** Most lines shown of a suite that failed: readers of CI logs want the reason, not the run. */
const SHOWN_LINES = 400;

/**
 * What is worth reading of the output of a failed `deno test`: from its errors on, the first `limit` lines. A run
 * that did not come to a list of errors (deno ended before) shows its last lines instead.
 */
export function failureText(output: string, limit = SHOWN_LINES): string {
  const lines = output.trimEnd().split("\n");
  const at = lines.lastIndexOf(" ERRORS ");
  const part = lines.slice(Math.max(at, 0));
  const left = part.length - limit;
  if (left <= 0) return part.join("\n");
  return at < 0
    ? [`(${left} lines before these)`, ...part.slice(-limit)].join("\n")
    : [...part.slice(0, limit), `(${left} more lines)`].join("\n");
}

function report(name: string, ok: boolean, seconds: number, text: string, count = ""): void {
  if (!ok) say(text);
  say(
    `${ok ? "ok    " : "FAILED"} ${name.padEnd(10)} ${seconds.toFixed(1).padStart(6)} s  ${count}`,
  );
}

/** Runs deno with `args` as a check: it passes or fails as a whole. Its output is shown if it fails. */
export async function check(name: string, args: readonly string[]): Promise<Outcome> {
  let result = await run(args, {});
  if (result.signal !== null && !result.late) {
    // Seen with deno lint, once in some forty runs, after its work was done.
    say(`       ${name}: deno itself crashed (${result.signal}); once more`);
    result = await run(args, {});
  }
  const { ok, text, seconds } = result;
  report(name, ok, seconds, text);
  return { name, ok, seconds, cases: [{ name, outcome: ok ? "passed" : "failed", seconds }] };
}

/** Runs the tests under `paths`, without the type check, and counts them. */
export async function tests(
  name: string,
  paths: readonly string[],
  env: Record<string, string> = {},
): Promise<Outcome> {
  const junit = await Deno.makeTempFile({ suffix: ".xml" });
  try {
    const args = [
      "test",
      "-A",
      "--no-check",
      "--permit-no-files",
      "--preload=tests/harness/suppressed.ts",
      `--junit-path=${junit}`,
      ...paths,
    ];
    const { ok, late, text, seconds } = await run(args, env);
    const cases = readJunit(await Deno.readTextFile(junit));
    // A file that cannot be loaded, or a run that was cut short, has no test to fail.
    if (!ok && !cases.some((one) => one.outcome === "failed")) {
      const why = late ? `ended after ${STEP_LIMIT / 60_000} minutes` : "could not be run";
      cases.push({ name: `${name}: ${why}`, outcome: "failed", seconds });
    }
    report(name, ok, seconds, failureText(text), countLine(cases));
    return { name, ok, seconds, cases };
  } finally {
    await Deno.remove(junit);
  }
}

/** The checks that come before tests: format, lint, types, tidy. */
export async function checks(): Promise<Outcome[]> {
  return [
    await check("format", ["fmt", "--check"]),
    await check("lint", ["lint", "--quiet"]),
    await check("types", ["check", "."]),
    await check("tidy", ["run", "-A", "--no-check", "tools/tidy.ts"]),
  ];
}

/** `N passed, N failed`, and `, N skipped` if any. */
export function countLine(cases: readonly TestCase[]): string {
  const count = (outcome: string) => cases.filter((one) => one.outcome === outcome).length;
  const skipped = count("skipped");
  return `${count("passed")} passed, ${count("failed")} failed` +
    (skipped > 0 ? `, ${skipped} skipped` : "");
}
