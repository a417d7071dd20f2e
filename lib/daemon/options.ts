/** Stand-in until lib/cli is there. */
import type { Schema } from "../qmp/schema/core.ts";
import { type KeyvalValue, visitKeyval } from "../qmp/schema/visit_keyval.ts";

/** An option of pass 2. */
export interface Option {
  readonly name: string;
  readonly argument: string;
  readonly typed: string;
}
/** Pass 1. */
export interface CommandLine {
  readonly daemonize: boolean;
  readonly pidfile?: string;
  readonly options: readonly Option[];
}

/** Parses. */
export function parseCommandLine(
  _program: string,
  args: readonly string[],
): CommandLine | { text: string } | { problem: string } {
  const options: Option[] = [];
  let daemonize = false;
  let pidfile: string | undefined;
  for (let i = 0; i < args.length; i++) {
    const name = args[i]!.slice(2);
    if (!args[i]!.startsWith("--")) return { problem: `${args[i]}: Unexpected argument` };
    if (name === "help" || name === "version") return { text: "qsd\n" };
    if (name === "daemonize") daemonize = true;
    else if (name === "pidfile") pidfile = args[++i];
    else if (["blockdev", "nbd-server", "export", "chardev", "monitor"].includes(name)) {
      const argument = args[++i] ?? "";
      options.push({ name, argument, typed: `--${name} ${argument}` });
    } else return { problem: `unrecognized option '${args[i]}'` };
  }
  return { daemonize, options, ...(pidfile === undefined ? {} : { pidfile }) };
}

/** Keyval. */
export function parseValue<T>(text: string, implied: string | undefined, schema: Schema<T>): T {
  const tree: Record<string, KeyvalValue> = {};
  for (const [i, part] of text.split(",").entries()) {
    const at = part.indexOf("=");
    const key = at < 0 && i === 0 ? implied! : part.slice(0, at);
    const path = key.split(".");
    let into = tree;
    for (const fragment of path.slice(0, -1)) {
      into = (into[fragment] ??= {}) as Record<string, KeyvalValue>;
    }
    into[path.at(-1)!] = part.slice(at + 1);
  }
  return visitKeyval(schema, tree);
}
