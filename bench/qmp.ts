/** What a QMP client sees of a daemon's speed: the time to its greeting, and to a reply. */
import { TextLineStream } from "./lines.ts";
import { type Kind, signalChild } from "./servers.ts";

/** Milliseconds from spawning the program to its QMP greeting on standard output. */
export async function startToGreeting(kind: Kind): Promise<number> {
  const begin = performance.now();
  const child = new Deno.Command(kind.program, {
    args: ["--chardev", "stdio,id=s", "--monitor", "chardev=s"],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const killer = setTimeout(() => signalChild(child, "SIGKILL"), 10_000);
  const lines = new TextLineStream(child.stdout)[Symbol.asyncIterator]();
  try {
    const { value, done } = await lines.next();
    const ms = performance.now() - begin;
    if (done || !String(value).includes('"QMP"')) throw new Error(`${kind.name}: no QMP greeting`);
    return ms;
  } finally {
    signalChild(child, "SIGTERM");
    await child.stdin.close().catch(() => {});
    await lines.return?.();
    await child.status;
    clearTimeout(killer);
  }
}

/** A QMP session on a Unix socket; one command at a time. */
export class QmpClient {
  readonly #connection: Deno.UnixConn;
  readonly #lines: AsyncIterator<string>;

  private constructor(connection: Deno.UnixConn) {
    this.#connection = connection;
    this.#lines = new TextLineStream(connection.readable)[Symbol.asyncIterator]();
  }

  /** Connects and negotiates capabilities. */
  static async connect(path: string): Promise<QmpClient> {
    const client = new QmpClient(await Deno.connect({ transport: "unix", path }));
    await client.#lines.next();
    await client.execute("qmp_capabilities");
    return client;
  }

  /** Sends a command and waits for its reply, passing over events. */
  async execute(command: string, args?: Record<string, unknown>): Promise<unknown> {
    const text = new TextEncoder().encode(
      JSON.stringify({ execute: command, arguments: args }) + "\n",
    );
    await this.#connection.write(text);
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error("QMP: the daemon hung up");
      const reply = JSON.parse(value) as { return?: unknown; error?: { desc: string } };
      if (reply.error) throw new Error(`QMP: ${reply.error.desc}`);
      if ("return" in reply) return reply.return;
    }
  }

  /** Milliseconds of `query-version` round trips, one after another (2 ms apart), until `done` is true. */
  async roundTrips(done: () => boolean): Promise<number[]> {
    const times: number[] = [];
    while (!done()) {
      const begin = performance.now();
      await this.execute("query-version");
      times.push(performance.now() - begin);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    return times;
  }

  /** Closes the session. */
  async close(): Promise<void> {
    await this.#lines.return?.();
    try {
      this.#connection.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error; // the stream's end closed it
    }
  }
}
