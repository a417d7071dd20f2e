/** `--object` of commands on images: what was asked for is made, or help printed. */
import { parseObject } from "../cli/mod.ts";
import { ObjectRegistry } from "../qom/mod.ts";
import type { Context } from "../sys/mod.ts";
import type { Output } from "./words.ts";

/** Makes the objects, in their order. True: help was printed instead, and nothing is left to do. Throws CommandError. */
export function makeObjects(
  context: Context,
  words: Output,
  given: readonly string[],
): boolean {
  const objects = new ObjectRegistry(context);
  for (const argument of given) {
    const parsed = parseObject(argument);
    if (!("help" in parsed)) objects.add(parsed.options);
    else {
      words.out(objects.classes.help(parsed.wanted));
      return true;
    }
  }
  return false;
}
