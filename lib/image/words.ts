/** Command lines of commands on images: options in any order among the operands, as getopt takes them. */
import { CommandError } from "../base/mod.ts";

/** Where words go. */
export interface Output {
  out(text: string): void;
  /** A line on standard error. */
  err(line: string): void;
}

/** Which options a command has. */
export interface OptionNames {
  /** Short names, as `-f`, and long ones that have no short one. */
  readonly names: readonly string[];
  /** Those of them that take a value. */
  readonly withValue: readonly string[];
  /** Long names of short ones. */
  readonly long: Readonly<Record<string, string>>;
}

/** A command line, taken apart. Values of an option in the order in which they were given; `""`: it takes none. */
export interface Words {
  readonly operands: readonly string[];
  readonly given: ReadonlyMap<string, readonly string[]>;
}

const TRY = "Try 'PROGRAM COMMAND --help' for more information";

/** An error in how the command is used, with a hint at its help. */
export function usageError(message: string): CommandError {
  return new CommandError(message, "GenericError", [TRY]);
}

/** An option, and its value as far as it is in the same word. */
function split(word: string, names: OptionNames): { option: string; value: string | undefined } {
  if (word.startsWith("--")) {
    const equals = word.indexOf("=");
    const name = equals < 0 ? word : word.slice(0, equals);
    const option = names.long[name] ?? (names.names.includes(name) ? name : undefined);
    if (option === undefined) throw usageError(`unrecognized option '${word}'`);
    const value = equals < 0 ? undefined : word.slice(equals + 1);
    if (value !== undefined && !names.withValue.includes(option)) {
      throw usageError(`option '${name}' doesn't allow an argument`);
    }
    return { option, value };
  }
  const option = word.slice(0, 2);
  if (!names.names.includes(option)) throw usageError(`unrecognized option '${word}'`);
  return { option, value: word.length > 2 ? word.slice(2) : undefined };
}

/** Takes it apart; letters without a value may be in one word. Throws CommandError. */
export function parseWords(args: readonly string[], names: OptionNames): Words {
  const operands: string[] = [];
  const given = new Map<string, string[]>();
  const words = [...args];
  while (words.length > 0) {
    const word = words.shift()!;
    if (word === "--") {
      operands.push(...words);
      break;
    }
    if (!word.startsWith("-") || word === "-") {
      operands.push(word);
      continue;
    }
    const { option, value } = split(word, names);
    const values = given.get(option) ?? [];
    given.set(option, values);
    if (!names.withValue.includes(option)) {
      values.push("");
      if (value !== undefined) words.unshift(`-${value}`);
      continue;
    }
    const taken = value ?? words.shift();
    if (taken === undefined) throw usageError(`missing argument for option '${word}'`);
    values.push(taken);
  }
  return { operands, given };
}

/** Whether the result is to be JSON. Throws CommandError. */
export function outputIsJson({ given }: Words): boolean {
  const output = given.get("--output")?.at(-1) ?? "human";
  if (output !== "human" && output !== "json") {
    throw new CommandError("--output must be used with human or json as argument.");
  }
  return output === "json";
}

/** How the image is named and opened, and the objects that its options may refer to: alike for all commands. */
export interface ImageAccess {
  /** The image's name is options. */
  readonly imageOpts: boolean;
  readonly forceShare: boolean;
  readonly objects: readonly string[];
}

/** What is said of it. Throws CommandError. */
export function accessOf({ given }: Words): ImageAccess {
  const imageOpts = given.has("--image-opts");
  if (imageOpts && given.has("-f")) {
    throw new CommandError("--image-opts and --format are mutually exclusive");
  }
  return { imageOpts, forceShare: given.has("-U"), objects: given.get("--object") ?? [] };
}

/** The only operand. Throws CommandError. */
export function onlyImage({ operands }: Words): string {
  const [image] = operands;
  if (image === undefined || operands.length > 1) throw usageError("Expecting one image file name");
  return image;
}
