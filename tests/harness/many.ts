/** More of what a test does a little of: the programs that run cases by the hundred, from a seed. */
import { parseArgs } from "node:util";

/** The command line `[--NAME=N]... [WORD]...`: numbers by name, where not given those of `defaults`; and the words. */
export function wanted<Name extends string>(
  defaults: Readonly<Record<Name, number>>,
): { numbers: Record<Name, number>; words: readonly string[] } {
  const names = Object.keys(defaults) as Name[];
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: Object.fromEntries(names.map((name) => [name, { type: "string" as const }])),
  });
  const numbers: Record<Name, number> = { ...defaults };
  for (const name of names) if (values[name] !== undefined) numbers[name] = Number(values[name]);
  return { numbers, words: positionals };
}

/** Says a line on standard output. */
export function say(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
}

/** Each of `cases` whose name has all `words`. */
export function named<Case extends { readonly name: string }>(
  cases: readonly Case[],
  words: readonly string[],
): Case[] {
  return cases.filter(({ name }) => words.every((word) => name.includes(word)));
}

/** Runs `act`. A failure is told, with `what` it was, and makes the exit status of the program 1. */
export async function attempt(what: string, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    Deno.exitCode = 1;
    const { stack, cause } = error as Error;
    say(`FAILED: ${what}: ${stack ?? error}`);
    if (cause instanceof Error) say(`  because ${cause.stack}`);
  }
}
