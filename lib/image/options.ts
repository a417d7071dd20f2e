/** The command line of `qsd check`. */
import { CommandError } from "../base/mod.ts";
import type { CheckFix } from "../block/drivers/mod.ts";

/** How it is used. */
export const checkUsage = `Usage: PROGRAM check [OPTION]... IMAGE
Checks an image that nobody writes to for errors, as qemu-img check does.

  -f FORMAT         the image's format; by default it is found out by its first bytes
  -r leaks|all      repairs: clusters that are lost only, or everything that can be
  -U                does not lock the image, nor cares for others' locks
  -q                says nothing on standard output
  --output=human|json

Exit status: 0 without errors, 1 when the check could not be done, 2 with errors,
3 with leaked clusters only, 63 when images of the format cannot be checked.
`;

/** The command line, parsed. */
export interface CheckArguments {
  readonly image: string;
  readonly format: string | undefined;
  readonly fix: CheckFix;
  readonly json: boolean;
  readonly quiet: boolean;
  readonly forceShare: boolean;
}

/** Long names of the options. */
const LONG: Readonly<Record<string, string>> = {
  "--format": "-f",
  "--repair": "-r",
  "--force-share": "-U",
  "--quiet": "-q",
  "--output": "--output",
};
const WITH_VALUE = ["-f", "-r", "--output"];
const TRY = "Try 'PROGRAM check --help' for more information";

function usageError(message: string): CommandError {
  return new CommandError(message, "GenericError", [TRY]);
}

/** An option, and its value as far as it is in the same word. */
function split(word: string): { option: string; value: string | undefined } {
  if (word.startsWith("--")) {
    const equals = word.indexOf("=");
    const name = equals < 0 ? word : word.slice(0, equals);
    const option = LONG[name];
    if (option === undefined) throw usageError(`unrecognized option '${word}'`);
    const value = equals < 0 ? undefined : word.slice(equals + 1);
    if (value !== undefined && !WITH_VALUE.includes(option)) {
      throw usageError(`option '${name}' doesn't allow an argument`);
    }
    return { option, value };
  }
  const option = word.slice(0, 2);
  if (!["-f", "-r", "-U", "-q"].includes(option)) {
    throw usageError(`unrecognized option '${word}'`);
  }
  return { option, value: word.length > 2 ? word.slice(2) : undefined };
}

/** Parses it; options and the image in any order, letters without a value in one word. Throws CommandError. */
export function parseCheckArguments(args: readonly string[]): CheckArguments {
  const images: string[] = [];
  const given = new Map<string, string>();
  const words = [...args];
  while (words.length > 0) {
    const word = words.shift()!;
    if (word === "--") {
      images.push(...words);
      break;
    }
    if (!word.startsWith("-") || word === "-") {
      images.push(word);
      continue;
    }
    const { option, value } = split(word);
    if (!WITH_VALUE.includes(option)) {
      given.set(option, "");
      if (value !== undefined) words.unshift(`-${value}`);
      continue;
    }
    const taken = value ?? words.shift();
    if (taken === undefined) {
      throw usageError(`missing argument for option '${word}'`);
    }
    given.set(option, taken);
  }
  return settle(images, given);
}

function settle(images: readonly string[], given: ReadonlyMap<string, string>): CheckArguments {
  const fix = given.get("-r") ?? "none";
  if (given.has("-r") && fix !== "leaks" && fix !== "all") {
    throw usageError(`Unknown option value for -r (expecting 'leaks' or 'all'): ${fix}`);
  }
  const output = given.get("--output") ?? "human";
  if (output !== "human" && output !== "json") {
    throw new CommandError("--output must be used with human or json as argument.");
  }
  const [image] = images;
  if (image === undefined || images.length > 1) throw usageError("Expecting one image file name");
  return {
    image,
    format: given.get("-f"),
    fix: fix as CheckFix,
    json: output === "json",
    quiet: given.has("-q"),
    forceShare: given.has("-U"),
  };
}
