/** `qsd qmp SOCKET` without a command: lines from a terminal, or from a file or pipe. */
import { CommandError } from "../base/mod.ts";
import { type Context, onSignals, type StopSignal } from "../sys/mod.ts";
import { commonPrefix, complete } from "./complete.ts";
import type { QmpEvent } from "./connection.ts";
import { Editor, type EditorEvent } from "./editor.ts";
import { History, historyPath } from "./history.ts";
import { KeyReader } from "./keys.ts";
import { Prompt } from "./prompt.ts";
import { eventText, resultText, type Session } from "./session.ts";
import type { Terminal } from "./terminal.ts";
import { harmless, inColumns } from "./text.ts";

/** Candidates shown at once. */
const MAX_CANDIDATES = 200;
const signalStatus: Readonly<Record<StopSignal, number>> = {
  SIGHUP: 129,
  SIGINT: 130,
  SIGTERM: 143,
};

function problemText(error: unknown): string {
  if (error instanceof CommandError) return harmless(error.message);
  throw error;
}

/** Runs the lines of standard input one after another. Returns the exit status: 1 if any was refused. */
export async function runScript(session: Session, terminal: Terminal): Promise<number> {
  const decoder = new TextDecoder();
  let text = "";
  await new Promise<void>((resolve) =>
    terminal.read((bytes) => text += decoder.decode(bytes, { stream: true }), resolve)
  );
  let status = 0;
  for (const line of text.split("\n")) {
    if (line.trim() === "" || line.trimStart().startsWith("#")) continue;
    if (line.trim() === ".quit") break;
    try {
      const shown = resultText(await session.runLine(line), terminal.size().columns);
      if (!terminal.write(`${shown}\n`)) return 1;
    } catch (error) {
      terminal.complain(`${line.trim()}: ${problemText(error)}`);
      status = 1;
      if (session.connection.closed) break;
    }
  }
  return status;
}

/** The interactive shell on a terminal. */
export class Shell {
  readonly #history: History;
  readonly #editor: Editor;
  readonly #prompt: Prompt;
  /** Replies that are waited for. */
  #running: symbol | undefined;
  #quitting = false;
  #finish: (status: number) => void = () => {};

  constructor(
    context: Context,
    private readonly session: Session,
    private readonly terminal: Terminal,
  ) {
    this.#history = new History(context.sys, historyPath());
    this.#editor = new Editor(this.#history.lines);
    this.#prompt = new Prompt((text) => terminal.write(text), () => this.#width);
  }

  get #width(): number {
    return this.terminal.size().columns;
  }

  /** Until the user leaves or the daemon hangs up. Returns the exit status. */
  async run(): Promise<number> {
    const { terminal, session } = this;
    const over = new Promise<number>((resolve) => this.#finish = resolve);
    const keys = new KeyReader((key) => this.#act(this.#editor.key(key)));
    const signals = onSignals(
      ["SIGINT", "SIGTERM", "SIGHUP"],
      (signal) => this.#finish(signalStatus[signal]),
    );
    session.connection.onEvent = (event) => this.#event(event);
    session.connection.onClose = () => this.#hungUp();
    try {
      terminal.raw();
      terminal.onResize(() => this.#redraw());
      terminal.read((bytes) => keys.feed(bytes), () => this.#finish(0));
      this.#redraw();
      return await over;
    } finally {
      this.#prompt.hide();
      signals.close();
      terminal.close();
      const problem = this.#history.save();
      if (problem !== undefined) terminal.complain(`the history could not be saved: ${problem}`);
    }
  }

  get #label(): string {
    const { search } = this.#editor;
    return search === undefined ? "qmp> " : `(search: ${search}) `;
  }

  #redraw(): void {
    if (this.#running !== undefined) return;
    this.#prompt.draw(this.#label, this.#editor.text, this.#editor.cursor);
  }

  /** Writes lines above the prompt. */
  #say(text: string): void {
    this.#prompt.hide();
    this.terminal.write(`${text.replaceAll("\n", "\r\n")}\r\n`);
    this.#redraw();
  }

  #act(event: EditorEvent | undefined): void {
    switch (event?.kind) {
      case "line":
        return void this.#line(event.text);
      case "complete":
        return void this.#complete();
      case "interrupt":
        return this.#interrupt();
      case "end":
        this.#prompt.hide();
        return this.#finish(0);
      case "clear":
        this.terminal.write("\x1b[H\x1b[2J");
        this.#prompt.hide();
        break;
    }
    this.#redraw();
  }

  #interrupt(): void {
    if (this.#running !== undefined) {
      this.#running = undefined;
      this.#say("not waited for any longer; the daemon goes on with it");
      return;
    }
    this.#prompt.leave(this.#label, `${this.#editor.text}^C`);
    this.#editor.set("");
    this.#redraw();
  }

  async #line(text: string): Promise<void> {
    if (this.#running !== undefined) {
      // Typed ahead: it stays in the line until the reply is there.
      this.#editor.set(text);
      return;
    }
    this.#prompt.leave("qmp> ", text);
    this.#history.add(text);
    this.#editor.set("");
    const line = text.trim();
    if (line === "") return this.#redraw();
    if (line === ".quit") return this.#finish(0);
    const mine = this.#running = Symbol(line);
    this.#quitting = line === "quit";
    let shown: string;
    try {
      shown = resultText(await this.session.runLine(line), this.#width);
    } catch (error) {
      shown = `error: ${problemText(error)}`;
    }
    if (this.#running === mine) {
      this.#running = undefined;
      if (!this.session.connection.closed) this.#say(shown);
    } else {
      this.#say(`reply to ${line}, late:\n${shown}`);
    }
  }

  async #complete(): Promise<void> {
    const editor = this.#editor;
    const { text, cursor } = editor;
    let schema;
    try {
      schema = await this.session.schema();
    } catch (error) {
      return this.#say(`error: ${problemText(error)}`);
    }
    if (editor.text !== text || editor.cursor !== cursor) return;
    const { from, candidates } = complete(schema, text, cursor);
    const common = commonPrefix(candidates);
    if (common.length > cursor - from) editor.replace(from, cursor, common);
    else if (candidates.length > 1) this.#offer(candidates);
    this.#redraw();
  }

  #offer(candidates: readonly string[]): void {
    const shown = candidates.slice(0, MAX_CANDIDATES).map((one) => harmless(one.trimEnd()));
    const more = candidates.length - shown.length;
    const lines = inColumns(shown, this.#width);
    this.#say(lines.join("\n") + (more > 0 ? `\n(${more} more)` : ""));
  }

  #event(event: QmpEvent): void {
    this.#say(eventText(event, this.#width));
  }

  #hungUp(): void {
    this.#running = undefined;
    this.#prompt.hide();
    this.terminal.write("the daemon has closed the connection\r\n");
    this.#finish(this.#quitting ? 0 : 1);
  }
}
