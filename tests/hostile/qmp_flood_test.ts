/** Monitors that are flooded by clients who never look at an answer: memory, and everybody else. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { noise } from "../harness/images.ts";
import { QmpClient } from "../harness/qmp.ts";
import { until, within } from "../harness/wait.ts";

const MIB = 1048576;
/**
 * Most that the peak of the process may grow. What a monitor may hold is small: an unfinished value (the
 * floods here have values of 4 MiB at most), 64 KiB of answers and one more, 1 MiB of events; the rest is for
 * garbage that waits for its collection. A daemon that keeps what it is sent would need some 100 MiB and more.
 */
const LIMIT = 64 * MIB;
/** Bytes of each flood, if the monitor takes them. */
const FLOOD = 256 * MIB;
/** How long a flood goes on when the monitor does not take it. */
const FLOOD_MS = 1_500;

/** A daemon with monitors to attack beside the one that proves that it is well. */
const start = (...names: string[]) =>
  Daemon.start({
    args: names.flatMap((name) => [
      "--chardev",
      `socket,id=${name},path=${name},server=on,wait=off`,
      "--monitor",
      name,
    ]),
  });

/** A connection that sends `piece` over and over, and reads nothing. */
class Flood implements AsyncDisposable {
  /** Bytes that the monitor, or the socket before it, has taken. */
  sent = 0;
  private over = false;
  private readonly done: Promise<void>;

  private constructor(private readonly conn: Deno.Conn, first: string, piece: Uint8Array) {
    this.done = this.run(new TextEncoder().encode(first), piece).catch(() => {});
  }

  static async start(path: string, first: string, piece: Uint8Array): Promise<Flood> {
    return new Flood(await Deno.connect({ transport: "unix", path }), first, piece);
  }

  /** Waits until everything was taken, or for `FLOOD_MS`: bounded is also who stops reading. */
  async settled(): Promise<void> {
    await within(this.done, FLOOD_MS, "the flood").catch(() => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.over = true;
    this.conn.close();
    await this.done;
  }

  private async run(first: Uint8Array, piece: Uint8Array): Promise<void> {
    await this.write(first);
    while (!this.over && this.sent < FLOOD) await this.write(piece);
  }

  private async write(bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const sent = await this.conn.write(bytes.subarray(done));
      done += sent;
      this.sent += sent;
    }
  }
}

/** `text` until there are at least `bytes` of it. */
function repeated(text: string, bytes: number): Uint8Array {
  return new TextEncoder().encode(text.repeat(Math.ceil(bytes / text.length)));
}

const NEGOTIATE = '{"execute":"qmp_capabilities"}';
const WITH_OOB = '{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}';
/** 4 MiB in one string: within the limits, and its echo is as large. */
const LARGE = `{"execute":"query-version","id":"${"x".repeat(4 * MIB)}"}`;

/** What is sent: once at first, then over and over. */
const floods: Readonly<Record<string, readonly [first: string, piece: Uint8Array]>> = {
  "noise": ["", noise(MIB, 5)],
  "strays, each an error to answer": [NEGOTIATE, repeated("%", 65536)],
  "brackets without end": [NEGOTIATE, repeated("[", 65536)],
  "closing braces": ["", repeated("}", 65536)],
  "commands with long answers": [NEGOTIATE, repeated('{"execute":"query-qmp-schema"}', 65536)],
  "commands before the negotiation": ["", repeated('{"execute":"query-version"}', 65536)],
  "commands with long ids, which are echoed": [NEGOTIATE, repeated(LARGE, 1)],
  "commands out of band": [
    WITH_OOB,
    repeated('{"exec-oob":"query-yank","id":1}{"exec-oob":"no-such","id":2}', 65536),
  ],
};

for (const [name, [first, piece]] of Object.entries(floods)) {
  Deno.test({
    name: `a monitor flooded with ${name} by a client that never reads grows by 64 MiB at most`,
    // The original holds every answer until it is read.
    ignore: ON_ORIGINAL,
    fn: () => floodOne(first, piece),
  });
}

async function floodOne(first: string, piece: Uint8Array): Promise<void> {
  await using daemon = await start("bad");
  await daemon.qmp.execute("query-qmp-schema");
  const before = daemon.peak();
  {
    await using flood = await Flood.start(daemon.file("bad"), first, piece);
    for (let at = 0; at < 50; at++) {
      await within(daemon.qmp.execute("query-block-exports"), 2_000, "an answer meanwhile");
    }
    await flood.settled();
    await within(daemon.qmp.execute("query-block-exports"), 2_000, "an answer afterwards");
    assert.ok(flood.sent >= first.length + 65536, `only ${flood.sent} bytes were sent`);
  }
  const grown = daemon.peak() - before;
  assert.ok(grown < LIMIT, `the peak grew by ${(grown / MIB).toFixed(1)} MiB`);
  // The monitor is as new for the next client.
  await using next = await QmpClient.open(daemon.file("bad"));
  assert.deepEqual(await next.execute("query-block-exports"), []);
}

Deno.test({
  name: "events that a monitor does not read are dropped beyond a MiB, and the log says so",
  ignore: ON_ORIGINAL,
  fn: dropEvents,
});

async function dropEvents(): Promise<void> {
  await using daemon = await start("bad");
  const { qmp } = daemon;
  await qmp.execute("blockdev-add", { driver: "null-co", "node-name": "n", size: 512 });
  await qmp.execute("nbd-server-start", {
    addr: { type: "unix", data: { path: daemon.file("nbd") } },
  });
  // What the commands themselves need shows without anybody on the other monitor: the heap has its size then.
  await makeEvents(qmp, 12_000);
  const before = daemon.peak();
  using deaf = await Deno.connect({ transport: "unix", path: daemon.file("bad") });
  await deaf.write(new TextEncoder().encode(NEGOTIATE));
  await makeEvents(qmp, 8_000);
  const grown = daemon.peak() - before;
  assert.ok(grown < LIMIT, `the peak grew by ${(grown / MIB).toFixed(1)} MiB`);
  const { status, stderr } = await drainedEnd(daemon, deaf);
  assert.equal(status, 0, stderr);
  assert.match(stderr, /monitor 'bad': its client reads too slowly, \d+ events were dropped/);
}

/** Lets `count` events of some 350 bytes happen, one for each export that comes and goes. */
async function makeEvents(qmp: QmpClient, count: number): Promise<void> {
  for (let at = 0; at < count; at += 500) {
    // An export goes after its command was answered: none has the name of another.
    const rounds = Array.from({ length: 500 }, (_, i) => `e${"i".repeat(220)}${at + i}`).map((id) =>
      JSON.stringify({
        execute: "block-export-add",
        arguments: { type: "nbd", id, "node-name": "n", name: id },
      }) +
      JSON.stringify({ execute: "block-export-del", arguments: { id } })
    );
    await qmp.send(rounds.join(""));
    for (let answers = 0; answers < 1000; answers++) {
      const reply = await qmp.reply();
      assert.ok("return" in reply, JSON.stringify(reply));
    }
    await until(() => qmp.events.length >= 500, "the events");
    qmp.events.length = qmp.lines.length = 0;
  }
}

/** The client reads at last; then the daemon is stopped. */
async function drainedEnd(daemon: Daemon, deaf: Deno.Conn) {
  const into = new Uint8Array(65536);
  const reading = (async () => {
    while (await deaf.read(into) !== null);
  })().catch(() => {});
  await until(() => daemon.stderr.includes("dropped"), "the log to say what was dropped");
  const ended = await daemon.stop();
  await reading;
  return ended;
}
