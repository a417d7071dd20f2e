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
