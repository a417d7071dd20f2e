/** The command line of `qsd check`. */
import type { CheckFix } from "../block/drivers/mod.ts";
import {
  accessOf,
  type ImageAccess,
  onlyImage,
  outputIsJson,
  parseWords,
  usageError,
} from "./words.ts";

/** How it is used. */
export const checkUsage = `Usage: PROGRAM check [OPTION]... IMAGE
Checks an image that nobody writes to for errors, as qemu-img check does.

  -f FORMAT         the image's format; by default it is found out by its first bytes
  -r leaks|all      repairs: clusters that are lost only, or everything that can be
  --image-opts      IMAGE is options, as driver=qcow2,file.filename=NAME
  --object OBJECT   makes an object, as the daemon's option does
  -U                does not lock the image, nor cares for others' locks
  -q                says nothing on standard output
  --output=human|json

Exit status: 0 without errors, 1 when the check could not be done, 2 with errors,
3 with leaked clusters only, 63 when images of the format cannot be checked.
`;

/** The command line, parsed. */
export interface CheckArguments extends ImageAccess {
  readonly image: string;
  readonly format: string | undefined;
  readonly fix: CheckFix;
  readonly json: boolean;
  readonly quiet: boolean;
}

const names = {
  names: ["-f", "-r", "-U", "-q", "--output", "--image-opts", "--object"],
  withValue: ["-f", "-r", "--output", "--object"],
  long: { "--format": "-f", "--repair": "-r", "--force-share": "-U", "--quiet": "-q" },
};

/** Parses it; options and the image in any order. Throws CommandError. */
export function parseCheckArguments(args: readonly string[]): CheckArguments {
  const words = parseWords(args, names);
  const { given } = words;
  const fix = given.get("-r")?.at(-1) ?? "none";
  if (given.has("-r") && fix !== "leaks" && fix !== "all") {
    throw usageError(`Unknown option value for -r (expecting 'leaks' or 'all'): ${fix}`);
  }
  const json = outputIsJson(words);
  const image = onlyImage(words);
  return {
    ...accessOf(words),
    image,
    format: given.get("-f")?.at(-1),
    fix: fix as CheckFix,
    json,
    quiet: given.has("-q"),
  };
}
