/** `qsd qmp SOCKET [COMMAND [ARGUMENT...]]`. */
import { CommandError } from "../base/mod.ts";
import type { Context } from "../sys/mod.ts";
import { QmpConnection } from "./connection.ts";
import { resultText, Session } from "./session.ts";
import { runScript, Shell } from "./shell.ts";
import type { Terminal } from "./terminal.ts";

/** How it is used. */
export const qmpUsage = `Usage: PROGRAM qmp SOCKET [COMMAND [ARGUMENT]...]
Speaks QMP with a running daemon.

  SOCKET    the monitor's socket: PATH, HOST:PORT, or @NAME for an abstract socket
  COMMAND   a QMP command; without one: a prompt with completion (Tab) and history,
            or, when standard input is no terminal, a command on each of its lines
  ARGUMENT  JSON ('{"node-name": "disk"}'), or member=value as the daemon's schema
            has it; members of members are written a.b=value, and so are elements
            of lists: a.0=value

The result goes to standard output as JSON. An error goes to standard error, with status 1.
`;

/** Runs it; returns the exit status. Throws CommandError. */
export async function qmpCommand(
  context: Context,
  terminal: Terminal,
  args: readonly string[],
): Promise<number> {
  const [socket, command, ...words] = args;
  if (socket === undefined) throw new CommandError("the socket is missing; see 'qmp --help'");
  const connection = await QmpConnection.open(context, socket);
  try {
    const session = new Session(connection);
    if (command !== undefined) {
      const result = await session.run(command, words);
      return terminal.write(`${resultText(result, terminal.size().columns)}\n`) ? 0 : 1;
    }
    if (!terminal.interactive) return await runScript(session, terminal);
    return await new Shell(context, session, terminal).run();
  } finally {
    connection.onClose = () => {};
    connection.close();
  }
}
