/** From the arguments of a command on images to its exit status. */
import { CommandError } from "../base/mod.ts";
import {
  createContext,
  environment,
  exit,
  programArguments,
  writeStderr,
  writeStdout,
} from "../sys/mod.ts";
import { checkCommand } from "./check.ts";
import { checkUsage } from "./options.ts";

/** Runs the command that the first argument of this process names, to its end. */
export async function runImageCommand(): Promise<never> {
  const program = (environment("QSD_NAME") ?? "qsd").replace(/^.*\//s, "");
  const args = programArguments().slice(1);
  const err = (line: string) => void writeStderr(`${line}\n`);
  const context = createContext({ name: program });
  let status = 1;
  try {
    if (args[0] === "--help" || args[0] === "-h") {
      status = writeStdout(checkUsage.replace("PROGRAM", () => program)) ? 0 : 1;
    } else {
      const out = (text: string) => void writeStdout(text);
      status = await checkCommand(context, program, { out, err }, args);
    }
  } catch (error) {
    if (error instanceof CommandError) {
      err(`${program}: ${error.message}`);
      for (const hint of error.hints) err(hint.replace("PROGRAM", () => program));
    } else err(error instanceof Error ? error.stack ?? error.message : String(error));
  }
  await context.close();
  exit(status);
}
