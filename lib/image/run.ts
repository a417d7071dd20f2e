/** From the arguments of a command on images to its exit status. */
import { CommandError } from "../base/mod.ts";
import {
  type Context,
  createContext,
  environment,
  exit,
  programArguments,
  writeStderr,
  writeStdout,
} from "../sys/mod.ts";
import { checkCommand } from "./check.ts";
import { measureCommand, measureUsage } from "./measure.ts";
import type { Output } from "./words.ts";
import { checkUsage } from "./options.ts";
import { snapshotCommand, snapshotUsage } from "./snapshot.ts";

/** A command: how it is used, and what runs it; that returns the exit status and throws CommandError, with hints. */
interface ImageCommand {
  readonly usage: string;
  run(context: Context, program: string, words: Output, args: readonly string[]): Promise<number>;
}

const commands: Readonly<Record<string, ImageCommand>> = {
  check: { usage: checkUsage, run: checkCommand },
  measure: { usage: measureUsage, run: measureCommand },
  snapshot: { usage: snapshotUsage, run: snapshotCommand },
};

/** Runs the command that the first argument of this process names, to its end. */
export async function runImageCommand(): Promise<never> {
  const program = (environment("QSD_NAME") ?? "qsd").replace(/^.*\//s, "");
  const [word = "", ...args] = programArguments();
  const { usage, run } = commands[word]!;
  const err = (line: string) => void writeStderr(`${line}\n`);
  const context = createContext({ name: program });
  let status = 1;
  try {
    if (args[0] === "--help" || args[0] === "-h") {
      status = writeStdout(usage.replace("PROGRAM", () => program)) ? 0 : 1;
    } else {
      const out = (text: string) => void writeStdout(text);
      status = await run(context, program, { out, err }, args);
    }
  } catch (error) {
    if (error instanceof CommandError) {
      err(`${program}: ${error.message}`);
      for (const hint of error.hints) {
        err(hint.replace("PROGRAM", () => program).replace("COMMAND", () => word));
      }
    } else err(error instanceof Error ? error.stack ?? error.message : String(error));
  }
  await context.close();
  exit(status);
}
