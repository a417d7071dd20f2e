/** From the arguments of a client to its exit status. */
import { CommandError } from "../base/mod.ts";
import { createContext, environment, exit, programArguments } from "../sys/mod.ts";
import { qmpCommand, qmpUsage } from "./qmp_command.ts";
import { statusCommand, statusUsage } from "./status_command.ts";
import { Terminal } from "./terminal.ts";
import { harmless } from "./text.ts";

const clients = {
  qmp: { run: qmpCommand, usage: qmpUsage },
  status: { run: statusCommand, usage: statusUsage },
} as const;

/** Runs the client that the first argument of this process names, to its end. */
export async function runClient(): Promise<never> {
  const program = (environment("QSD_NAME") ?? "qsd").replace(/^.*\//s, "");
  const [name, ...args] = programArguments();
  const { run, usage } = clients[name as keyof typeof clients];
  const context = createContext({ name: program });
  const terminal = new Terminal(context);
  let status: number;
  try {
    if (args[0] === "--help" || args[0] === "-h") {
      status = terminal.write(usage.replace("PROGRAM", () => program)) ? 0 : 1;
    } else {
      status = await run(context, terminal, args);
    }
  } catch (error) {
    terminal.close();
    const known = error instanceof CommandError || (error instanceof Error && "errno" in error);
    if (!known) terminal.complain(error instanceof Error ? error.stack ?? "" : String(error));
    else terminal.complain(`${program} ${name}: ${harmless(error.message)}`);
    status = 1;
  }
  terminal.dispose();
  await context.close();
  exit(status);
}
