/** The daemon's options: pass 1 over the command line, and what pass 2 has to do, in order. */
import { getopt, type OptionSpec } from "./getopt.ts";
import { helpText } from "./help.ts";

/** Every option, in the order in which the help lists them. */
const optionSpecs: readonly OptionSpec[] = [
  { name: "blockdev", takesArgument: true },
  { name: "chardev", takesArgument: true },
  { name: "config", takesArgument: true, inFull: true },
  { name: "daemonize", takesArgument: false },
  { name: "export", takesArgument: true },
  { name: "help", short: "h", takesArgument: false },
  { name: "monitor", takesArgument: true },
  { name: "nbd-server", takesArgument: true },
  { name: "object", takesArgument: true },
  { name: "pidfile", takesArgument: true },
  { name: "trace", short: "T", takesArgument: true },
  { name: "version", short: "V", takesArgument: false },
];

/** What pass 2 has to do. */
export interface Option {
  /** The option's full name; `positional` for an argument that is none: `Unexpected argument`. */
  readonly name: string;
  readonly argument: string;
  /** Where it stands, as typed: messages about it begin with this. */
  readonly typed: string;
}

/** What pass 1 has found: the options of pass 2, in order. */
export interface CommandLine {
  readonly daemonize: boolean;
  /** The last one given. */
  readonly pidfile?: string;
  readonly options: readonly Option[];
}

/**
 * Pass 1: help, version and every mistake of syntax, in order, the first of them wins; or what is to be done.
 * `text` goes to stdout, with status 0; `problem` to stderr after the program's name, with status 1.
 */
export function parseCommandLine(
  program: string,
  args: readonly string[],
  version: string,
): CommandLine | { readonly text: string } | { readonly problem: string } {
  const options: Option[] = [];
  let daemonize = false;
  let pidfile: string | undefined;
  for (const met of getopt(args, optionSpecs)) {
    if (met.kind === "error") return { problem: met.message };
    if (met.kind === "positional") {
      options.push({ name: "positional", argument: met.value, typed: met.value });
      continue;
    }
    switch (met.name) {
      case "help":
        return { text: helpText(program) };
      case "version":
        return { text: versionText(version) };
      case "daemonize":
        daemonize = true;
        break;
      case "pidfile":
        pidfile = met.value;
        break;
      default:
        options.push({ name: met.name, argument: met.value, typed: met.typed });
    }
  }
  return { daemonize, options, ...(pidfile === undefined ? {} : { pidfile }) };
}

/** Two lines; the first in the form that scripts know, with the level of QEMU that qsd is compatible with. */
function versionText(version: string): string {
  return `qemu-storage-daemon version 7.2.22 (qsd ${version})\n` +
    "qsd, a storage daemon compatible with qemu-storage-daemon; see LICENSE for its terms\n";
}
