/** What peers and disks do at the wrong moment: nobody else may notice, and nothing may be left behind. */
import assert from "node:assert/strict";
import type { IoVec } from "../base/mod.ts";
import { SysError } from "../sys/mod.ts";
import { Connection, TURN_BYTES } from "./connection.ts";
import { concat, handshake, request, TestServer } from "./testing.ts";
import { AGAIN, type Transport } from "./transport.ts";
import { Cmd, Opt } from "./wire.ts";
import { optionMessage } from "./testing_wire.ts";

const MiB = 1024 * 1024;

/** A stream that the test plays: what comes in, and what becomes of what goes out. */
class PlayedTransport implements Transport {
  ready: Transport["ready"] = () => {};
  wanted = { read: true, write: false };
  sent = 0;
  closed = false;
  /** What `send` does with so many bytes. */
  take: (length: number) => number = (length) => length;
  #incoming: Uint8Array = new Uint8Array(0);

  constructor(private readonly server: TestServer) {}

  /** `bytes` arrive. */
  feed(bytes: Uint8Array): void {
    this.#incoming = concat([this.#incoming, bytes]);
    this.ready(true, false, false);
  }
  receive(address: number, length: number): number {
    const part = this.#incoming.subarray(0, length);
    if (part.length === 0) return AGAIN;
    this.server.context.sys.viewAt(address, part.length).set(part);
    this.#incoming = this.#incoming.subarray(part.length);
    return part.length;
  }
  send(_address: number, length: number): number {
    const taken = this.take(length);
    if (taken > 0) this.sent += taken;
    return taken;
  }
  sendv(iov: IoVec): number {
    return this.send(0, iov.total);
  }
  interest(read: boolean, write: boolean): void {
    this.wanted = { read, write };
  }
  close(): void {
    this.closed = true;
  }

  /** Lets the loop turn, as a level-triggered one, until `condition` holds; at most some hundred times. */
  async until(condition: () => boolean, what: string): Promise<void> {
    for (let i = 0; i < 300 && !condition(); i++) {
      const { read, write } = this.wanted;
      if (!this.closed && (read || write)) this.ready(read, write, false);
      await this.server.context.loop.sleep(0);
    }
    assert.ok(condition(), what);
  }
}

/** Runs `body` with a client that the test plays. */
function played(
  name: string,
  body: (server: TestServer, transport: PlayedTransport, connection: Connection) => Promise<void>,
  size = 4 * MiB,
): void {
  Deno.test(name, async () => {
    const server = new TestServer(size);
    try {
      const transport = new PlayedTransport(server);
      const connection = new Connection(server.context, transport, server, "played");
      server.connections.add(connection);
      await body(server, transport, connection);
    } finally {
      await server.close();
    }
  });
}

/** The disk answers when the test says so, by operation. */
function hold(server: TestServer): Map<string, (() => void)[]> {
  const held = new Map<string, (() => void)[]>();
  server.backend.later = (op) =>
    new Promise((resolve) => held.set(op, [...held.get(op) ?? [], resolve]));
  return held;
}

played("a client whose replies fail amid a large write is let go", async (server, transport) => {
  transport.feed(handshake("disk"));
  const held = hold(server);
  transport.feed(request(Cmd.read, 0, 512));
  transport.feed(request(Cmd.write, 0, MiB, { data: new Uint8Array(100) }));
  transport.take = () => -32;
  held.get("read")![0]!();
  await transport.until(() => transport.closed, "the connection stays for ever");
});

played("a client that is gone amid a large write is let go", async (_server, transport) => {
  transport.feed(handshake("disk"));
  transport.feed(request(Cmd.write, 0, MiB, { data: new Uint8Array(100) }));
  transport.ready(false, false, true);
  await transport.until(() => transport.closed, "the connection stays for ever");
});

played(
  "hanging up does not wait for a client that takes no replies, whatever completes later",
  async (server, transport, connection) => {
    transport.feed(handshake("disk", { framing: "structured" }));
    server.backend.touch(0, 4 * MiB);
    const held = hold(server);
    transport.take = () => AGAIN;
    transport.feed(request(Cmd.read, 0, MiB));
    transport.feed(request(Cmd.read, MiB, MiB));
    const [first, second] = held.get("status")!;
    server.backend.later = undefined;
    first!();
    await transport.until(() => server.backend.calls.length >= 4, "the first read goes on");
    connection.shutdown();
    second!();
    await transport.until(() => transport.closed, "the connection stays for ever");
  },
);

played("options without end are answered a few in a turn", async (server, transport) => {
  let listed = 0;
  const list = server.list.bind(server);
  server.list = () => {
    listed++;
    return list();
  };
  const count = 1000;
  transport.feed(concat([
    Uint8Array.of(0, 0, 0, 3),
    ...Array.from({ length: count }, () => optionMessage(Opt.list)),
  ]));
  assert.ok(listed > 0 && listed <= 64, `${listed} in one turn`);
  await transport.until(() => listed === count, "not all were answered");
});

for (const framing of ["structured", "extended"] as const) {
  played(`${framing}: a large read leaves turns to others`, async (server, transport) => {
    transport.feed(handshake("disk", { framing }));
    server.backend.touch(0, 32 * MiB);
    transport.feed(request(Cmd.read, 0, 32 * MiB, { extended: framing === "extended" }));
    assert.ok(transport.sent <= 2 * TURN_BYTES, `${transport.sent} bytes in one turn`);
    await transport.until(() => transport.sent > 32 * MiB, "the read never ends");
  }, 32 * MiB);
}

played("status of a fragmented disk leaves turns to others", async (server, transport) => {
  transport.feed(handshake("disk", { framing: "structured", contexts: ["base:allocation"] }));
  for (let at = 0; at < 64 * MiB; at += 128 * 1024) server.backend.touch(at, 1);
  const asked = () => server.backend.calls.filter((call) => call.startsWith("status")).length;
  const count = 20;
  const before = transport.sent;
  transport.feed(
    concat(Array.from({ length: count }, () => request(Cmd.blockStatus, 0, 64 * MiB))),
  );
  assert.ok(asked() <= 4096, `${asked()} questions in one turn`);
  await transport.until(() => transport.sent - before >= count * 1024 * 8, "not all were answered");
}, 64 * MiB);

played("memory that runs out fails the request alone", async (server, transport) => {
  transport.feed(handshake("disk"));
  const { sent } = transport;
  server.backend.read = () => {
    throw new SysError("mmap", 12);
  };
  transport.feed(request(Cmd.read, 0, 512));
  server.backend.write = () => Promise.reject(new SysError("mmap", 12));
  transport.feed(request(Cmd.write, 0, 512, { data: new Uint8Array(512) }));
  await transport.until(() => transport.sent === sent + 2 * 16, "no answer");
});

Deno.test("a client that hangs up while its request is slow keeps the loop from nothing", async () => {
  const server = new TestServer(4 * MiB);
  const { counters } = server.context.loop;
  const client = await server.enter();
  const held = hold(server);
  await client.send(request(Cmd.read, 0, 512));
  for (let i = 0; i < 300 && !held.has("read"); i++) await server.context.loop.sleep(0);
  client.close();
  // It parks as soon as there is nothing to do; a hang-up that is reported again and again is something.
  const { parks } = counters;
  for (let i = 0; i < 100 && counters.parks < parks + 3; i++) {
    await server.context.loop.sleep(5e6); // wakes it, so that it can park again
  }
  assert.ok(counters.parks >= parks + 3, "the loop never rests");
  held.get("read")![0]!();
  await server.allGone();
  await server.close();
});
