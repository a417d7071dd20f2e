/** A QMP client over any byte stream, for tests: commands, events, raw text. */
import assert from "node:assert/strict";
import { within } from "./wait.ts";

/** One JSON object from the server. */
// deno-lint-ignore no-explicit-any
export type Message = Record<string, any>;

/** What carries the bytes. */
export interface Duplex {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
}

/** QMP spoken by a test. Events are kept aside in `events`; everything else is a reply. */
export class QmpClient {
  /** Events received and not yet taken by {@link event}. */
  readonly events: Message[] = [];
  /** Every line as it came, without its end. */
  readonly lines: string[] = [];
  /** The bytes that ended each line, to check CRLF. */
  readonly endings = new Set<string>();
  private readonly replies: Message[] = [];
  private readonly writer: WritableStreamDefaultWriter<Uint8Array>;
  private readonly reader: ReadableStreamDefaultReader<Uint8Array>;
  private readonly pump: Promise<void>;
  private waiters: (() => void)[] = [];
  private ended = false;

  /** `mayGreetTwice`: the server has been seen to send its greeting again; a second one is dropped. */
  constructor(private readonly stream: Duplex, private readonly mayGreetTwice = false) {
    this.writer = stream.writable.getWriter();
    this.reader = stream.readable.getReader();
    this.pump = this.receive();
  }

  /** Connects to a Unix socket; the greeting is left to be read. */
  static async connect(path: string, mayGreetTwice = false): Promise<QmpClient> {
    return new QmpClient(await Deno.connect({ transport: "unix", path }), mayGreetTwice);
  }

  /** Connects, reads the greeting and negotiates. */
  static async open(path: string, mayGreetTwice = false): Promise<QmpClient> {
    const client = await QmpClient.connect(path, mayGreetTwice);
    await client.negotiate();
    return client;
  }

  /** Reads the greeting and enters command mode. */
  async negotiate(): Promise<Message> {
    const greeting = await this.reply();
    assert.ok("QMP" in greeting, JSON.stringify(greeting));
    assert.deepEqual(await this.command({ execute: "qmp_capabilities" }), { return: {} });
    return greeting;
  }

  /** Sends text as it is. */
  async send(text: string | Uint8Array): Promise<void> {
    await this.writer.write(typeof text === "string" ? new TextEncoder().encode(text) : text);
  }

  /** Sends one request object and gives the reply to it, be it a return or an error. */
  async command(request: Message, ms = 20_000): Promise<Message> {
    await this.send(JSON.stringify(request) + "\n");
    return await this.reply(ms);
  }

  /** Executes a command that must succeed; gives what it returned. */
  // deno-lint-ignore no-explicit-any
  async execute(name: string, args?: Message): Promise<any> {
    const reply = await this.command(
      args === undefined ? { execute: name } : { execute: name, arguments: args },
    );
    assert.ok("return" in reply, `${name}: ${JSON.stringify(reply)}`);
    return reply.return;
  }

  /** Executes a command that must fail; gives the error's text. */
  async refused(name: string, args?: Message): Promise<string> {
    const reply = await this.command({ execute: name, ...(args ? { arguments: args } : {}) });
    assert.ok("error" in reply, `${name} was expected to fail: ${JSON.stringify(reply)}`);
    return reply.error.desc;
  }

  /** The next message that is not an event. */
  async reply(ms = 20_000): Promise<Message> {
    await this.wait(() => this.replies.length > 0, ms, "a QMP reply");
    const reply = this.replies.shift();
    assert.ok(reply !== undefined, "the monitor closed the connection");
    return reply;
  }

  /** Waits for the next event of that name, and takes it. */
  async event(name: string, ms = 20_000): Promise<Message> {
    const find = () => this.events.findIndex((event) => event.event === name);
    await this.wait(() => find() >= 0, ms, `event ${name}`);
    const at = find();
    assert.ok(at >= 0, `the monitor closed the connection before ${name}`);
    return this.events.splice(at, 1)[0]!;
  }

  /** Ends our side of the stream; answers can still come. */
  async end(): Promise<void> {
    await this.writer.close();
  }

  /** Waits until the server has closed the connection. */
  async closed(ms = 20_000): Promise<void> {
    await within(this.pump, ms, "the monitor to close the connection");
  }

  /** Closes the connection. */
  async close(): Promise<void> {
    await this.reader.cancel().catch(() => {});
    await this.writer.close().catch(() => {});
    await this.pump;
    const closable = this.stream as Partial<Deno.Conn>;
    try {
      closable.close?.();
    } catch {
      // Closing both streams has closed the connection already.
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  private async wait(ready: () => boolean, ms: number, what: string): Promise<void> {
    const end = performance.now() + ms;
    while (!ready() && !this.ended) {
      const left = Math.max(1, end - performance.now());
      await within(new Promise<void>((go) => this.waiters.push(go)), left, what);
    }
  }

  private async receive(): Promise<void> {
    const text = new TextDecoder();
    let rest = "";
    try {
      for (;;) {
        const { value, done } = await this.reader.read();
        if (done) break;
        rest += text.decode(value, { stream: true });
        rest = this.take(rest);
      }
    } catch {
      // A reset is an end too.
    } finally {
      this.ended = true;
      this.wake();
    }
  }

  private take(text: string): string {
    for (;;) {
      const end = text.indexOf("\n");
      if (end < 0) return text;
      const crlf = text[end - 1] === "\r";
      this.endings.add(crlf ? "\r\n" : "\n");
      const line = text.slice(0, crlf ? end - 1 : end);
      text = text.slice(end + 1);
      if (this.mayGreetTwice && this.lines.length === 1 && line === this.lines[0]) continue;
      this.lines.push(line);
      if (line.trim() !== "") this.file(line);
    }
  }

  private file(line: string): void {
    let message: Message;
    try {
      message = JSON.parse(line);
    } catch {
      return; // pretty-printed, or a library's printf: it stays in `lines`
    }
    if (typeof message !== "object" || message === null) return;
    ("event" in message ? this.events : this.replies).push(message);
    this.wake();
  }

  private wake(): void {
    const waiters = this.waiters;
    this.waiters = [];
    for (const go of waiters) go();
  }
}
