/** Skipped suites are never silent: each leaves a line for the summary. */

const recorded = new Set<string>();

/** Notes that a suite cannot run here. Gives `true`, for Deno.test's `ignore`. */
export function skip(suite: string, reason: string): true {
  const line = `SKIP ${suite}: ${reason}`;
  if (recorded.has(line)) return true;
  recorded.add(line);
  const file = Deno.env.get("QSD_TEST_SKIPS");
  if (file === undefined) Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`));
  else Deno.writeTextFileSync(file, `${line}\n`, { append: true });
  return true;
}
