/** For the other tests here: character devices with monitors on them. */
import { createContext, type OwnedContext } from "../sys/mod.ts";
import { parseQemuOpts } from "../cli/mod.ts";
import { CommandRegistry, compatibleVersion, controlHandlers, QmpServer } from "../qmp/mod.ts";
import { controlCommands } from "../qmp/schema/control.ts";
import { chardevHandlers, type ChardevMade, ChardevRegistry } from "./mod.ts";

/** Ends the negotiation. */
export const negotiate = '{"execute":"qmp_capabilities"}\n';

/** What a test works with. */
export interface Setup {
  readonly context: OwnedContext;
  readonly chardevs: ChardevRegistry;
  readonly qmp: QmpServer;
  readonly dir: string;
  readonly info: string[];
  readonly add: (text: string) => Promise<ChardevMade>;
  readonly monitor: (id: string) => void;
  readonly commands: ReturnType<typeof chardevHandlers>;
  readonly stop: () => void;
}

/** Runs a test, and closes everything after it. */
export async function withSetup(run: (setup: Setup) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const messages: string[] = [];
  const note = (line: string) => void messages.push(line);
  const context = createContext({ name: "test", log: { error: note, warn: note, info: note } });
  const chardevs = new ChardevRegistry(context);
  const commands = new CommandRegistry();
  const version = compatibleVersion("0");
  commands.register(
    controlCommands,
    controlHandlers({ commands, events: {}, version, quit: () => {} }),
  );
  const qmp = new QmpServer({ context, commands, events: {}, version });
  let stop = () => {};
  const stopped = new Promise<void>((resolve) => stop = resolve);
  const around = { daemonized: false, stopped, info: note };
  const add = (text: string) => chardevs.add(parseQemuOpts(text, "backend"), around);
  const monitor = (id: string) =>
    void qmp.addMonitor({ name: id, pretty: false }, (user) => chardevs.attach(id, user));
  try {
    const handlers = chardevHandlers(chardevs, around);
    await run({
      commands: handlers,
      context,
      chardevs,
      qmp,
      dir,
      info: messages,
      add,
      monitor,
      stop,
    });
  } finally {
    qmp.close();
    chardevs.close();
    await context.close();
    await Deno.remove(dir, { recursive: true });
  }
}

/** Reads lines from a connection until `count` are there. */
export async function lines(connection: Deno.Conn, count: number): Promise<string[]> {
  let text = "";
  const piece = new Uint8Array(65536);
  while (text.split("\r\n").length <= count) {
    const got = await connection.read(piece);
    if (got === null) break;
    text += new TextDecoder().decode(piece.subarray(0, got));
  }
  return text.split("\r\n").slice(0, -1);
}
/** Sends text. */
export const write = (connection: Deno.Conn, text: string): Promise<number> =>
  connection.write(new TextEncoder().encode(text));
