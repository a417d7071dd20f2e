/** GNU getopt_long's rules, as far as the daemon's options need them, with its messages. */

/** An option as it may be given. */
export interface OptionSpec {
  /** Without the two dashes. */
  readonly name: string;
  /** Its one-letter form, if it has one. */
  readonly short?: string;
  readonly takesArgument: boolean;
  /** It has to be written in full. QEMU does not have it: its own options keep their abbreviations so. */
  readonly inFull?: true;
}

/** What was met on the command line. `typed` is the option with its argument as the user wrote them. */
export type Met =
  | {
    readonly kind: "option";
    readonly name: string;
    readonly typed: string;
    readonly value: string;
  }
  /** An argument that is no option, where one is expected. */
  | { readonly kind: "positional"; readonly value: string }
  /** A mistake; `message` as getopt_long words it, without the program's name. */
  | { readonly kind: "error"; readonly message: string };

/**
 * Splits arguments into what was met, in order; up to `--`, or up to the first mistake. Unambiguous prefixes of
 * long options are taken; short options may be grouped.
 */
export function* getopt(args: readonly string[], specs: readonly OptionSpec[]): Generator<Met> {
  for (let at = 0; at < args.length; at++) {
    const arg = args[at]!;
    if (arg === "--") return;
    if (!arg.startsWith("-") || arg === "-") {
      yield { kind: "positional", value: arg };
      continue;
    }
    for (const { met, usedNext } of split(arg, args[at + 1], specs)) {
      if (usedNext) at++;
      yield met;
      if (met.kind === "error") return;
    }
  }
}

interface Found {
  readonly met: Met;
  /** The argument was the next word. */
  readonly usedNext: boolean;
}

function split(arg: string, next: string | undefined, specs: readonly OptionSpec[]): Found[] {
  return arg.startsWith("--") ? [long(arg, next, specs)] : short(arg, next, specs);
}

const mistake = (message: string): Found => ({
  met: { kind: "error", message },
  usedNext: false,
});

function long(arg: string, next: string | undefined, specs: readonly OptionSpec[]): Found {
  const equals = arg.indexOf("=");
  const typed = equals < 0 ? arg : arg.slice(0, equals);
  const inline = equals < 0 ? undefined : arg.slice(equals + 1);
  const name = typed.slice(2);
  const exact = specs.find((spec) => spec.name === name);
  const candidates = exact
    ? [exact]
    : specs.filter((spec) => !spec.inFull && spec.name.startsWith(name));
  if (candidates.length === 0) return mistake(`unrecognized option '${arg}'`);
  if (candidates.length > 1) {
    const names = candidates.map((spec) => ` '--${spec.name}'`).join("");
    return mistake(`option '${arg}' is ambiguous; possibilities:${names}`);
  }
  const spec = candidates[0]!;
  const option = (value: string, usedNext: boolean): Found => ({
    met: { kind: "option", name: spec.name, typed: usedNext ? `${arg} ${next}` : arg, value },
    usedNext,
  });
  if (!spec.takesArgument) {
    return inline === undefined
      ? option("", false)
      : mistake(`option '--${spec.name}' doesn't allow an argument`);
  }
  if (inline !== undefined) return option(inline, false);
  return next === undefined
    ? mistake(`option '--${spec.name}' requires an argument`)
    : option(next, true);
}

function short(arg: string, next: string | undefined, specs: readonly OptionSpec[]): Found[] {
  const found: Found[] = [];
  const letters = [...arg].slice(1);
  for (let i = 0; i < letters.length; i++) {
    const letter = letters[i]!;
    const spec = specs.find((each) => each.short === letter);
    if (spec === undefined) return [...found, mistake(`invalid option -- '${letter}'`)];
    const option = (value: string, usedNext: boolean): Found => ({
      met: { kind: "option", name: spec.name, typed: usedNext ? `${arg} ${next}` : arg, value },
      usedNext,
    });
    if (!spec.takesArgument) {
      found.push(option("", false));
      continue;
    }
    const rest = letters.slice(i + 1).join("");
    if (rest !== "") return [...found, option(rest, false)];
    if (next === undefined) {
      return [...found, mistake(`option requires an argument -- '${letter}'`)];
    }
    return [...found, option(next, true)];
  }
  return found;
}
