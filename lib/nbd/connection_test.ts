import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { Connection } from "./connection.ts";
import { concat, handshake, request, TestServer } from "./testing.ts";
import { AGAIN, type Transport } from "./transport.ts";
import { Cmd } from "./wire.ts";

/** A stream whose peer takes bytes only at every `period`th send: room appears between two sends of a turn. */
class FitfulTransport implements Transport {
  ready: Transport["ready"] = () => {};
  sent = 0;
  wanted = { read: true, write: false };
  #calls = 0;
  #incoming: Uint8Array;
  constructor(
    readonly write: (address: number, bytes: Uint8Array) => void,
    incoming: Uint8Array,
    readonly period: number,
  ) {
    this.#incoming = incoming;
  }
  receive(address: number, length: number): number {
    const take = this.#incoming.subarray(0, length);
    if (take.length === 0) return AGAIN;
    this.write(address, take);
    this.#incoming = this.#incoming.subarray(take.length);
    return take.length;
  }
  send(_address: number, length: number): number {
    if (++this.#calls % this.period !== 0) return AGAIN;
    this.sent += length;
    return length;
  }
  sendv(iov: IoVec): number {
    return this.send(0, iov.total);
  }
  interest(read: boolean, write: boolean): void {
    this.wanted = { read, write };
  }
  close(): void {}
}

for (const period of [1, 2, 3, 4]) {
  for (const framing of ["simple", "structured"] as const) {
    Deno.test(`${framing}: replies keep coming when room appears at every ${period}. send`, async () => {
      const MiB = 1024 * 1024;
      const server = new TestServer(4 * MiB);
      server.backend.touch(0, 4 * MiB);
      const { sys } = server.context;
      const reads = 40;
      const transport = new FitfulTransport(
        (address, bytes) => sys.viewAt(address, bytes.length).set(bytes),
        concat([
          handshake("disk", { framing }),
          ...Array.from({ length: reads }, (_, i) => request(Cmd.read, i * 512, 3 * MiB)),
        ]),
        period,
      );
      const connection = new Connection(server.context, transport, server, "fitful");
      server.connections.add(connection);
      // What a level-triggered loop would do: tell of readiness as long as it is wanted.
      for (let i = 0; i < 20_000 && transport.sent < reads * 3 * MiB; i++) {
        const { read, write } = transport.wanted;
        if (read || write) transport.ready(read, write, false);
        await server.context.loop.sleep(0);
      }
      assert.ok(transport.sent >= reads * 3 * MiB, `only ${transport.sent} bytes`);
      await server.close();
    });
  }
}

/** A client that asks in batches: each is received at once, whenever the one before has been received. */
class BatchTransport implements Transport {
  ready: Transport["ready"] = () => {};
  /** What happened: "receive BYTES", "empty", "send BYTES". */
  readonly log: string[] = [];
  constructor(
    readonly write: (address: number, bytes: Uint8Array) => void,
    readonly batches: Uint8Array[],
  ) {}
  receive(address: number): number {
    const batch = this.batches.shift();
    this.log.push(batch === undefined ? "empty" : `receive ${batch.length}`);
    if (batch === undefined) return AGAIN;
    this.write(address, batch);
    return batch.length;
  }
  send(_address: number, length: number): number {
    this.log.push(`send ${length}`);
    return length;
  }
  sendv(iov: IoVec): number {
    return this.send(0, iov.total);
  }
  interest(): void {}
  close(): void {}
}

/** Reads of 512 bytes. */
function batchOf(count: number): Uint8Array {
  return concat(Array.from({ length: count }, (_, i) => request(Cmd.read, i * 512, 512)));
}

/** What a connection does in one turn in which it is told that these batches can be received. */
async function logOfTurn(batches: Uint8Array[]): Promise<string[]> {
  const server = new TestServer(1024 * 1024);
  server.backend.touch(0, 1024 * 1024);
  const { sys } = server.context;
  const transport = new BatchTransport(
    (address, bytes) => sys.viewAt(address, bytes.length).set(bytes),
    [handshake("disk", { framing: "simple" })],
  );
  const connection = new Connection(server.context, transport, server, "batches");
  server.connections.add(connection);
  transport.ready(true, false, false);
  transport.log.length = 0;
  transport.batches.push(...batches);
  transport.ready(true, false, false);
  const log = [...transport.log];
  await server.close();
  return log;
}

const REPLY = 16 + 512;

Deno.test("half of a batch is answered while the client waits, and what it asks then is served in the same turn", async () => {
  assert.deepEqual(await logOfTurn([batchOf(32), batchOf(16)]), [
    `receive ${32 * 28}`,
    `send ${16 * REPLY}`,
    `send ${16 * REPLY}`,
    `receive ${16 * 28}`,
    `send ${8 * REPLY}`,
    `send ${8 * REPLY}`,
    "empty",
  ]);
});

Deno.test("a few requests are answered with one send, and the stream that was emptied is not asked again", async () => {
  for (const count of [1, 4]) {
    assert.deepEqual(await logOfTurn([batchOf(count), batchOf(1)]), [
      `receive ${count * 28}`,
      `send ${count * REPLY}`,
    ]);
  }
});
