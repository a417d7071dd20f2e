/** Reads whose data is sent from the page cache. */
import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import {
  concat,
  framings,
  noise,
  readBack,
  reply,
  request,
  TestServer,
  withServer,
} from "./testing.ts";
import { Cmd, CmdFlag } from "./wire.ts";

const MiB = 1024 * 1024;

/** A server whose disk is full of noise that can be sent from its file. */
function withFile(test: (server: TestServer, disk: Uint8Array) => Promise<void>): Promise<void> {
  return withServer(async (server) => {
    const { backend } = server;
    const disk = noise(backend.size);
    backend.bytes.set(disk);
    backend.touch(0, backend.size);
    backend.locatable = true;
    await test(server, disk);
  }, { size: 8 * MiB });
}

/** What arrived at the disk, without status requests. */
const reads = ({ backend }: TestServer) => backend.calls.filter((call) => !/^status/.test(call));

for (const framing of framings) {
  const extended = framing === "extended";
  Deno.test(`${framing}: large reads are sent from the file, among small ones`, () =>
    withFile(async (server, disk) => {
      const client = await server.enter({ framing });
      const asks: [number, number][] = [];
      // Together below what makes a trial of copying.
      for (let i = 0; i < 10; i++) {
        asks.push([i * 77_777, 65_536], [i * 512, 512], [i * 65_536 + 3, 300_001]);
      }
      asks.push([5, 3 * MiB], [8 * MiB - 65_536, 65_536]);
      const parts = asks.map(([offset, length]) => request(Cmd.read, offset, length, { extended }));
      const sent = client.send(concat(parts));
      for (const [offset, length] of asks) {
        const data = await readBack(client, offset, length);
        assert.ok(Buffer.compare(data, disk.subarray(offset, offset + length)) === 0, `${offset}`);
      }
      await sent;
      for (const call of reads(server)) assert.match(call, /^locate|^read \d+ 512$/);
    }));

  Deno.test(`${framing}: what cannot be sent any more when its turn comes is read`, () =>
    withFile(async (server, disk) => {
      const { backend, context } = server;
      const client = await server.enter({ framing });
      for (const latency of ["at once", "later"]) {
        backend.locatable = true;
        backend.later = undefined;
        // More than the socket takes: the rest is queued when the file goes out of reach.
        const asks = concat(
          Array.from({ length: 8 }, () => request(Cmd.read, 0, MiB, { extended })),
        );
        await client.send(asks);
        const first = await readBack(client, 0, MiB);
        assert.ok(Buffer.compare(first, disk.subarray(0, MiB)) === 0);
        backend.locatable = false;
        if (latency === "later") backend.later = () => context.loop.sleep(1000);
        backend.calls.length = 0;
        for (let i = 1; i < 8; i++) {
          const data = await readBack(client, 0, MiB);
          assert.ok(Buffer.compare(data, disk.subarray(0, MiB)) === 0, `${latency} ${i}`);
        }
        assert.match(reads(server)[0]!, /^read/);
      }
    }));

  Deno.test(`${framing}: a file cut short underneath reads as zeroes from there on`, () =>
    withFile(async (server, disk) => {
      const client = await server.enter({ framing });
      const { backend } = server;
      backend.cutFile(2 * MiB);
      // The node itself pads, as a file's does; its memory ends with the file.
      backend.read = (_offset, iov) => server.context.sys.fill(iov.addresses[0]!, 0, iov.total);
      await client.send(request(Cmd.read, MiB, 2 * MiB, { extended }));
      const data = await readBack(client, MiB, 2 * MiB);
      assert.ok(Buffer.compare(data.subarray(0, MiB), disk.subarray(MiB, 2 * MiB)) === 0);
      assert.ok(data.subarray(MiB).every((byte) => byte === 0));
    }));

  Deno.test(`${framing}: a read that fails after its reply began ends the connection, nothing else`, () =>
    withFile(async (server) => {
      const { backend } = server;
      for (const later of [undefined, () => server.context.loop.sleep(0)]) {
        backend.locatable = true;
        const client = await server.enter({ framing });
        await client.send(
          concat(Array.from({ length: 8 }, () => request(Cmd.read, 0, MiB, { extended }))),
        );
        await readBack(client, 0, MiB);
        backend.locatable = false;
        backend.later = later;
        backend.failing = (op) => op === "read" ? "EIO" : undefined;
        const rest = await client.rest();
        assert.ok(rest.length < 7 * MiB);
        await server.allGone();
        backend.later = backend.failing = undefined;
        const other = await server.enter();
        await other.send(request(Cmd.read, 0, 512));
        assert.equal((await reply(other, 512)).error, 0);
        other.close();
        await server.allGone();
      }
    }));
}

Deno.test("a client that goes while data is sent or fetched for it leaves nothing behind", () =>
  withFile(async (server) => {
    const { backend, context } = server;
    for (const fetched of [false, true]) {
      backend.locatable = true;
      const client = await server.enter();
      await client.send(concat(Array.from({ length: 8 }, () => request(Cmd.read, 0, MiB))));
      await client.receive(4096);
      const held: (() => void)[] = [];
      if (fetched) {
        backend.locatable = false;
        backend.later = () => new Promise((done) => held.push(done));
        const taking = client.receive(MiB);
        while (backend.inFlight === 0) await context.loop.sleep(1000);
        client.hangUp();
        await taking;
      }
      client.close();
      await context.loop.sleep(1000);
      backend.later = undefined;
      for (const resolve of held) resolve();
      await server.allGone();
    }
  }));

Deno.test("a client that never takes data sent from the file holds back nobody else", () =>
  withFile(async (server) => {
    const greedy = await server.enter();
    await greedy.send(concat(Array.from({ length: 1000 }, () => request(Cmd.read, 0, MiB))));
    const other = await server.enter({ framing: "structured" });
    await other.send(request(Cmd.read, 0, MiB, { flags: CmdFlag.df }));
    assert.equal((await readBack(other, 0, MiB)).length, MiB);
    assert.ok(server.context.buffers.inUse < 8 * MiB);
  }));
