/** How much memory clients can make the server use, and what long replies in one piece do about it. */
import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { concat, noise, readBack, reply, request, type TestServer, withServer } from "./testing.ts";
import { Cmd, CmdFlag } from "./wire.ts";

const MiB = 1024 * 1024;
const SIZE = 32 * MiB;

/** A server whose disk is full of noise, and answers later. */
function withSlowDisk(test: (server: TestServer, disk: Uint8Array) => Promise<void>) {
  return withServer(async (server) => {
    const { backend, context } = server;
    const disk = noise(SIZE);
    backend.bytes.set(disk);
    backend.touch(0, SIZE);
    backend.later = () => context.loop.sleep(0);
    await test(server, disk);
  }, { size: SIZE });
}

/** Replies that come in one piece whatever they hold. */
const whole = [
  { name: "a simple reply", framing: "simple", flags: 0 },
  { name: "a reply that must not be fragmented", framing: "structured", flags: CmdFlag.df },
] as const;

for (const { name, framing, flags } of whole) {
  Deno.test(`${name} of 32 MiB is right, and never in memory as a whole`, () =>
    withSlowDisk(async (server, disk) => {
      const { backend, context } = server;
      for (const latency of ["later", "at once"]) {
        if (latency === "at once") backend.later = undefined;
        const client = await server.enter({ framing });
        const asks = [0, 1, 2, 3].map((cookie) => request(Cmd.read, 0, SIZE, { cookie, flags }));
        await client.send(concat(asks));
        const other = await server.enter();
        await other.send(request(Cmd.read, 0, 4096));
        await readBack(other, 0, 4096);
        assert.ok(context.buffers.inUse < 20 * MiB, `${latency}: ${context.buffers.inUse}`);
        for (let i = 0; i < asks.length; i++) {
          const data = await readBack(client, 0, SIZE);
          assert.ok(Buffer.compare(data, disk) === 0, `${latency}: reply ${i}`);
          assert.ok(context.buffers.inUse < 20 * MiB, `${latency}: ${context.buffers.inUse}`);
        }
        client.close();
        other.close();
      }
    }));

  Deno.test(`${name} that fails in its last piece tells so, and the connection goes on`, () =>
    withSlowDisk(async (server, disk) => {
      const { backend } = server;
      const client = await server.enter({ framing });
      backend.failing = (op, offset) => op === "read" && offset >= SIZE - MiB ? "EIO" : undefined;
      await client.send(concat([
        request(Cmd.read, 0, SIZE, { flags }),
        request(Cmd.read, 512, 512, { cookie: 8 }),
      ]));
      const first = await reply(client, 512);
      const second = await reply(client, 512);
      const [failed, good] = first.cookie === 7 ? [first, second] : [second, first];
      assert.deepEqual([failed.cookie, failed.error], [7, 5]);
      assert.deepEqual([good.cookie, good.error], [8, 0]);
      assert.deepEqual(good.payload.slice(-512), disk.slice(512, 1024));
    }));
}

for (const [type, length] of [[Cmd.read, MiB], [Cmd.read, 65_536], [Cmd.write, MiB]] as const) {
  const what = `${type === Cmd.read ? "reads" : "writes"} of ${length / 1024} KiB`;
  Deno.test(`forty clients with many slow ${what} in flight share a bounded amount of memory`, () =>
    withSlowDisk(async (server) => {
      const { backend, context } = server;
      const gate = Promise.withResolvers<void>();
      backend.later = (op) => op === "status" ? Promise.resolve() : gate.promise;
      const data = type === Cmd.write ? noise(length) : undefined;
      const ask = request(type, 0, length, data && { data });
      const clients = [];
      const sending: Promise<boolean>[] = [];
      const count = 8 * MiB / Math.max(length, 128 * 1024);
      for (let i = 0; i < 40; i++) {
        const client = await server.enter({ framing: "structured" });
        clients.push(client);
        sending.push(client.send(concat(Array.from({ length: count }, () => ask))));
      }
      // Until nothing more arrives at the disk.
      for (let seen = -1; seen !== backend.calls.length;) {
        seen = backend.calls.length;
        await context.loop.sleep(10_000_000);
      }
      const { inFlight } = backend;
      const { inUse } = context.buffers;
      gate.resolve();
      backend.later = undefined;
      assert.ok(inFlight >= 40, `each has something in flight: ${inFlight}`);
      assert.ok(inUse < 96 * MiB, `${inUse / MiB} MiB`);
      for (const client of clients) {
        for (let left = count; left > 0;) {
          const { done, error } = await reply(client);
          assert.equal(error, 0);
          if (done) left--;
        }
      }
      await Promise.all(sending);
      for (const client of clients) client.close();
    }));
}
