/** `qsd status SOCKET [--watch[=SECONDS]] [--json]`. */
import { CommandError } from "../base/mod.ts";
import { writeJson } from "../qmp/json/mod.ts";
import { type Context, onSignals, type Timer } from "../sys/mod.ts";
import { QmpConnection } from "./connection.ts";
import { type Key, KeyReader } from "./keys.ts";
import { askStatus } from "./status_model.ts";
import { page, statusLines } from "./status_view.ts";
import type { Terminal } from "./terminal.ts";

/** How it is used. */
export const statusUsage = `Usage: PROGRAM status SOCKET [--watch[=SECONDS]] [--json]
Shows what a running daemon does: nodes, exports with their clients, jobs, requests.

  SOCKET           the monitor's socket: PATH, HOST:PORT, or @NAME
  --watch[=SECONDS]  again and again, by default each second, until q or Ctrl-C
  --json           as JSON, one line each time
`;

interface Options {
  readonly socket: string;
  readonly json: boolean;
  /** Nanoseconds between two looks; undefined: one look. */
  readonly everyNs: number | undefined;
}

/** Alternate screen without a cursor, and back. */
const ENTER = "\x1b[?1049h\x1b[?25l";
const LEAVE = "\x1b[?25h\x1b[?1049l";

function parseOptions(args: readonly string[]): Options {
  let socket: string | undefined;
  let json = false;
  let everyNs: number | undefined;
  for (const arg of args) {
    const watch = /^(?:--watch|-w)(?:=(.*))?$/.exec(arg);
    if (watch !== null) {
      const seconds = Number(watch[1] ?? "1");
      if (!(seconds >= 0.1 && seconds <= 86400)) {
        throw new CommandError(`--watch expects seconds from 0.1 to 86400, not '${watch[1]}'`);
      }
      everyNs = seconds * 1e9;
    } else if (arg === "--json") json = true;
    else if (arg.startsWith("-")) throw new CommandError(`unknown option '${arg}'`);
    else if (socket !== undefined) throw new CommandError(`unexpected argument '${arg}'`);
    else socket = arg;
  }
  if (socket === undefined) throw new CommandError("the socket is missing; see 'status --help'");
  return { socket, json, everyNs };
}

/** Runs it; returns the exit status. Throws CommandError. */
export async function statusCommand(
  context: Context,
  terminal: Terminal,
  args: readonly string[],
): Promise<number> {
  const options = parseOptions(args);
  const connection = await QmpConnection.open(context, options.socket);
  try {
    if (options.everyNs !== undefined) {
      const screen = terminal.interactive && !options.json;
      const watch = new Watching(
        context,
        terminal,
        connection,
        options.everyNs,
        screen,
        options.json,
      );
      return await watch.run();
    }
    const { model, json } = await askStatus(connection);
    const text = options.json
      ? writeJson(json)
      : statusLines(model, terminal.outputIsTerminal ? terminal.size().columns : 1000).join("\n");
    return terminal.write(`${text}\n`) ? 0 : 1;
  } finally {
    connection.onClose = () => {};
    connection.close();
  }
}

/** `--watch`: on a terminal it redraws in place; elsewhere, and as JSON, looks follow each other. */
class Watching {
  #lines: string[] = [];
  #top = 0;
  #timer: Timer | undefined;
  #wake: () => void = () => {};
  #over = false;
  #status = 0;

  constructor(
    private readonly context: Context,
    private readonly terminal: Terminal,
    private readonly connection: QmpConnection,
    private readonly everyNs: number,
    private readonly screen: boolean,
    private readonly json: boolean,
  ) {}

  async run(): Promise<number> {
    const { terminal, connection } = this;
    const signals = onSignals(["SIGINT", "SIGTERM", "SIGHUP"], () => this.#end(0));
    try {
      if (this.screen) {
        terminal.raw(ENTER, LEAVE);
        terminal.onResize(() => this.#look());
        const keys = new KeyReader((key) => this.#key(key));
        terminal.read((bytes) => keys.feed(bytes), () => this.#end(0));
      }
      while (!this.#over) {
        const { model, json } = await askStatus(connection);
        if (this.screen) {
          this.#lines = statusLines(model, terminal.size().columns);
          this.#draw();
        } else {
          const text = this.json ? writeJson(json) : `${statusLines(model, 1000).join("\n")}\n`;
          if (!terminal.write(`${text}\n`)) return 0;
        }
        await this.#pause();
      }
      return this.#status;
    } finally {
      signals.close();
      terminal.close();
    }
  }

  #pause(): Promise<void> {
    if (this.#over) return Promise.resolve();
    return new Promise((resolve) => {
      this.#wake = resolve;
      this.#timer = this.context.loop.timer(this.everyNs, resolve);
    });
  }

  /** Looks now instead of waiting on. */
  #look(): void {
    this.#timer?.cancel();
    this.#wake();
  }

  #end(status: number): void {
    this.#over = true;
    this.#status = status;
    this.#look();
  }

  #key(key: Key): void {
    const { rows } = this.terminal.size();
    const moves: Readonly<Record<string, number>> = { up: -1, down: 1 };
    if ("text" in key) {
      if (key.text === "q") return this.#end(0);
      if (key.text === " ") this.#top += rows - 2;
    } else if (key.name === "ctrl-c" || key.name === "ctrl-d") return this.#end(0);
    else this.#top += moves[key.name] ?? 0;
    this.#draw();
  }

  #draw(): void {
    const { rows, columns } = this.terminal.size();
    this.#top = Math.max(0, Math.min(this.#top, this.#lines.length - (rows - 1)));
    const shown = page(this.#lines, this.#top, rows, columns);
    // Each line is drawn over the old one and the rest of it cleared: nothing flickers.
    const body = shown.map((line) => `${line}\x1b[K`).join("\r\n");
    this.terminal.write(`\x1b[H${body}\x1b[J`);
  }
}
