/** Helpers for this folder's tests: a channel with a scripted other side, and a server on it. */
import type { Channel, ChannelUser } from "../chardev/mod.ts";
import { CommandRegistry } from "./dispatcher.ts";
import { compatibleVersion, controlHandlers } from "./commands.ts";
import { controlCommands } from "./schema/control.ts";
import type { CommandTable, EventTable } from "./schema/registry.ts";
import { QmpServer } from "./server.ts";
import type { Context } from "../sys/mod.ts";

/** A channel in memory. */
export class FakeChannel implements Channel {
  user: ChannelUser | undefined;
  isOpen = true;
  supportsOob = true;
  paused = true;
  /** While true the other side reads nothing. */
  stalled = false;
  unsent = 0;
  disconnected = false;
  output = "";

  get congested(): boolean {
    return this.unsent > 1 << 16;
  }
  send(bytes: Uint8Array): void {
    this.output += new TextDecoder().decode(bytes);
    if (this.stalled) this.unsent += bytes.length;
  }
  pause(paused: boolean): void {
    this.paused = paused;
  }
  disconnect(): void {
    this.disconnected = true;
  }
  detach(): void {
    this.user = undefined;
  }

  /** The other side reads again. */
  readOn(): void {
    this.stalled = false;
    this.unsent = 0;
    this.user?.drained();
  }
  /** The other side writes. */
  type(text: string | Uint8Array): void {
    this.user?.received(typeof text === "string" ? new TextEncoder().encode(text) : text);
  }
  /** What has come out since the last call, a line each. */
  lines(): string[] {
    const lines = this.output.split("\r\n").filter((line) => line !== "");
    this.output = "";
    return lines;
  }
}

/** Lets everything run that can run without time passing. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 200; i++) await Promise.resolve();
}

/** A clock and timers that the test moves on by hand. */
export class FakeTime {
  now = 0;
  readonly warnings: string[] = [];
  #timers: { at: number; task: () => void }[] = [];

  /** Runs what is due within the next `ns`. */
  advance(ns: number): void {
    this.now += ns;
    const due = this.#timers.filter(({ at }) => at <= this.now);
    this.#timers = this.#timers.filter(({ at }) => at > this.now);
    for (const { task } of due) task();
  }

  /** What was traced: set `tracing` before the server is made. */
  readonly traced: string[] = [];
  tracing = false;

  get context(): Pick<Context, "sys" | "loop" | "log" | "trace"> {
    const timer = (ns: number, task: () => void) => {
      const entry = { at: this.now + ns, task };
      this.#timers.push(entry);
      return { cancel: () => void (this.#timers = this.#timers.filter((each) => each !== entry)) };
    };
    const warn = (message: string) => void this.warnings.push(message);
    return {
      sys: { realtimeUs: () => 1_000_000_000_123_456, monotonicNs: () => this.now },
      loop: { timer },
      log: { warn, error: warn, info: warn },
      trace: (name: string) => ({
        name,
        enabled: this.tracing,
        emit: (text: string) => void this.traced.push(`${name} ${text}`),
      }),
    } as unknown as Pick<Context, "sys" | "loop" | "log" | "trace">;
  }
}

/** A server with the control commands and those given. */
export function testServer(
  time: FakeTime,
  events: EventTable = {},
  more: { table: CommandTable; handlers: Record<string, unknown> } = { table: {}, handlers: {} },
): { server: QmpServer; connect: (pretty?: boolean) => FakeChannel; quits: () => number } {
  const commands = new CommandRegistry();
  const version = compatibleVersion("0.0.0");
  let quits = 0;
  const quit = () => void quits++;
  commands.register(controlCommands, controlHandlers({ commands, events, version, quit }));
  commands.register(more.table, more.handlers as never);
  const server = new QmpServer({ context: time.context, commands, events, version });
  const connect = (pretty = false) => {
    const channel = new FakeChannel();
    server.addMonitor({ name: "m", pretty }, (user) => {
      channel.user = user;
      return channel;
    });
    return channel;
  };
  return { server, connect, quits: () => quits };
}
