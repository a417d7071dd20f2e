/** Writes whose payload goes through a pipe to the file. */
import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { Errno, type Sys } from "../sys/mod.ts";
import { PayloadPipe, PIPE_BYTES } from "./pipe.ts";
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
import type { Transport } from "./transport.ts";
import { Cmd, CmdFlag, NbdErrno } from "./wire.ts";

const MiB = 1024 * 1024;
const KiB = 1024;

/** A server whose disk takes writes out of a pipe. */
function withPipe(test: (server: TestServer) => Promise<void>): Promise<void> {
  return withServer(async (server) => {
    server.backend.piping = true;
    await test(server);
  }, { size: 40 * MiB });
}

/** Which bytes of each write came out of the pipe, in order. */
const piped = ({ backend }: TestServer) =>
  backend.calls.filter((call) => call.startsWith("pipe")).map((call) => call.split(" ").map(Number))
    .map(([, offset, length]) => [offset!, length!] as const);

/** A write, with its payload. */
const write = (offset: number, data: Uint8Array, flags = 0, extended = false) => {
  if (extended) flags |= CmdFlag.payloadLen;
  return request(Cmd.write, offset, data.length, { data, flags, extended });
};

const openDescriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;

/** A payload that a socket holds: the pipe gets it whole. */
const WHOLE = 128 * KiB;

/** A client whose last write was large, which tells the connection what comes. */
async function writer(server: TestServer) {
  const client = await server.enter();
  await client.send(write(0, noise(WHOLE)));
  assert.equal((await reply(client, 0)).error, 0);
  server.backend.calls.length = 0;
  return client;
}

for (const framing of framings) {
  const extended = framing === "extended";
  Deno.test(`${framing}: payloads that come through the pipe are all there, among others of all sizes`, () =>
    withPipe(async (server) => {
      const client = await server.enter({ framing });
      const disk = new Uint8Array(server.backend.size);
      const parts: Uint8Array[] = [];
      const lengths = [
        256 * KiB,
        512,
        65_536,
        300_001,
        4096,
        32 * MiB,
        20_000,
        256 * KiB,
        1,
        MiB + 7,
      ];
      let at = 0;
      for (const length of lengths) {
        const data = noise(length);
        parts.push(write(at, data, 0, extended));
        disk.set(data, at);
        at += length;
        parts.push(request(Cmd.read, at - 1, 1, { extended }));
      }
      const sent = client.send(concat(parts));
      at = 0;
      for (const length of lengths) {
        at += length;
        assert.equal((await reply(client, 0)).error, 0);
        assert.equal((await readBack(client, at - 1, 1))[0], disk[at - 1]);
      }
      await sent;
      assert.ok(Buffer.compare(server.backend.bytes, disk) === 0);
      const through = piped(server);
      assert.ok(through.reduce((sum, [, length]) => sum + length, 0) > MiB);
      for (const [, length] of through) assert.ok(length <= PIPE_BYTES);
    }));
}

Deno.test("a write that came through the pipe is counted once, and flushed if it is to be durable", () =>
  withPipe(async (server) => {
    const client = await writer(server);
    server.backend.pipeMost = 10_000;
    await client.send(write(MiB, noise(WHOLE), CmdFlag.fua));
    assert.equal((await reply(client, 0)).error, 0);
    const others = server.backend.calls.filter((call) => !call.startsWith("pipe"));
    assert.deepEqual(others, [`wrote ${WHOLE}`, "flush 0 0"]);
    assert.equal(piped(server).length, Math.ceil(WHOLE / 10_000));
  }));

Deno.test("a failed write through the pipe fails alone, and nothing of it reaches the next one", () =>
  withPipe(async (server) => {
    const { backend } = server;
    const client = await writer(server);
    const [lost, kept] = [noise(MiB, 1), noise(WHOLE, 2)];
    for (const failing of [2 * MiB, 2 * MiB + 8192]) {
      for (const length of [WHOLE, MiB]) {
        backend.calls.length = 0;
        backend.pipeMost = 4096;
        backend.failing = (_op, at) => at >= failing ? "ENOSPC" : undefined;
        await client.send(write(2 * MiB, lost.subarray(0, length)));
        assert.equal((await reply(client, 0)).error, NbdErrno.ENOSPC);
        const through = failing - 2 * MiB;
        assert.equal(backend.calls.includes(`wrote ${through}`), through > 0);
        // What is left in the pipe is tried again, once; the rest of the payload is not.
        assert.equal(backend.calls.filter((call) => call.startsWith("write")).length, 1);
        backend.failing = undefined;
        backend.pipeMost = Infinity;
        await client.send(write(4 * MiB, kept));
        assert.equal((await reply(client, 0)).error, 0);
        assert.ok(Buffer.compare(backend.bytes.subarray(4 * MiB, 4 * MiB + WHOLE), kept) === 0);
        backend.bytes.fill(0, 4 * MiB, 5 * MiB);
      }
    }
  }));

Deno.test("when data that left the pipe is lost, its write fails alone", () =>
  withPipe(async (server) => {
    const { backend } = server;
    const client = await writer(server);
    const [lost, kept] = [noise(MiB, 1), noise(WHOLE, 2)];
    for (const length of [WHOLE, MiB]) {
      backend.calls.length = 0;
      backend.losing = 2 * MiB;
      await client.send(write(2 * MiB, lost.subarray(0, length)));
      assert.equal((await reply(client, 0)).error, NbdErrno.ENOSPC);
      assert.equal(backend.calls.filter((call) => call.startsWith("write")).length, 0);
      backend.losing = Infinity;
      await client.send(write(4 * MiB, kept));
      assert.equal((await reply(client, 0)).error, 0);
      const written = backend.bytes.subarray(4 * MiB, 4 * MiB + WHOLE);
      assert.ok(Buffer.compare(written, kept) === 0);
    }
  }));

for (const errno of ["EINVAL", "ENOSYS", "EPERM", "EAGAIN"]) {
  Deno.test(`a file that takes no pages (${errno}) is written all the same, from the first byte on`, () =>
    withPipe(async (server) => {
      const { backend } = server;
      const client = await writer(server);
      for (const taken of [0, 5000]) {
        backend.pipeMost = 5000;
        backend.failing = (op, at) => op === "pipe" && at >= MiB + taken ? errno : undefined;
        const data = noise(MiB + 1, taken + 1);
        await client.send(write(MiB, data));
        assert.equal((await reply(client, 0)).error, 0);
        const written = backend.bytes.subarray(MiB, MiB + data.length);
        assert.ok(Buffer.compare(written, data) === 0);
      }
    }));
}

Deno.test("where sockets know no splice, large writes are received; it is tried once a client", () =>
  withPipe(async (server) => {
    const { backend, context } = server;
    const client = await writer(server);
    let tries = 0;
    Object.assign(context.sys, { splice: () => (tries++, -Errno.EINVAL) });
    for (let round = 0; round < 3; round++) {
      const data = noise(WHOLE, round + 1);
      await client.send(write(MiB, data));
      assert.equal((await reply(client, 0)).error, 0);
      assert.ok(Buffer.compare(backend.bytes.subarray(MiB, MiB + WHOLE), data) === 0);
    }
    assert.equal(tries, 1);
  }));

Deno.test("clients that write a lot cost a descriptor each, in the middle of a write, too", () =>
  withPipe(async (server) => {
    const first = await writer(server);
    const before = openDescriptors();
    const bytes = write(MiB, noise(WHOLE));
    const clients = [];
    for (let count = 0; count < 20; count++) {
      const client = await writer(server);
      await client.send(bytes.subarray(0, 100_000));
      clients.push(client);
    }
    const each = (openDescriptors() - before) / clients.length;
    for (const client of clients) {
      await client.send(bytes.subarray(100_000));
      assert.equal((await reply(client, 0)).error, 0);
    }
    assert.equal((openDescriptors() - before) / clients.length, each);
    assert.equal(each, 3, "our end of the pair, and what a client of this test has");
    assert.ok(piped(server).length > 0);
    first.close();
  }));

Deno.test("a disk that takes the pipe no longer, amid a write, gets the rest as it comes", () =>
  withPipe(async (server) => {
    const { backend } = server;
    const client = await writer(server);
    const data = noise(MiB);
    backend.failing = (op) => {
      if (op === "pipe") backend.piping = false; // from the next part on
      return undefined;
    };
    await client.send(write(MiB, data));
    assert.equal((await reply(client, 0)).error, 0);
    assert.ok(Buffer.compare(backend.bytes.subarray(MiB, 2 * MiB), data) === 0);
    assert.equal(piped(server).length, 1);
    assert.ok(backend.calls.some((call) => call.startsWith("write")));
  }));

Deno.test("a payload in trickles, and clients that go amid one, leave no descriptor behind", () =>
  withPipe(async (server) => {
    const { backend } = server;
    (await writer(server)).close(); // the context's pipe has been made
    await server.allGone();
    const before = openDescriptors();
    const data = noise(256 * KiB);
    for (let round = 0; round < 8; round++) {
      const client = await writer(server);
      const bytes = write(MiB, data);
      const step = [1, 100, 5000, 40_000][round % 4]!;
      for (let at = 0; at < 100_000; at += step) {
        await client.send(bytes.subarray(at, Math.min(at + step, 100_000)));
        if (at % (step * 8) === 0) await server.context.loop.sleep(1000);
        if (step === 1 && at === 2000) at = 100_000 - 2;
      }
      if (round < 4 && step > 1) {
        await client.send(bytes.subarray(100_000));
        assert.equal((await reply(client, 0)).error, 0);
        assert.ok(Buffer.compare(backend.bytes.subarray(MiB, MiB + data.length), data) === 0);
        backend.bytes.fill(0, MiB, 2 * MiB);
      }
      client.close();
      await server.allGone();
    }
    assert.equal(openDescriptors(), before);
  }));

Deno.test("a pipe takes whole pages of the file, all of a payload's end, and no trickle", () => {
  const lengths: number[] = [];
  const lent: string[] = [];
  let waiting = 0;
  const pipes = {
    available: true,
    borrow: () => (lent.push("lent"), { from: 10, into: 11 }),
    giveBack: () => lent.push("back"),
    discard: () => lent.push("discarded"),
  };
  const transport = {
    unread: () => waiting,
    splice: (to: number, length: number) => {
      assert.equal(to, 11);
      lengths.push(length);
      return length;
    },
  } as unknown as Transport;
  const pipe = new PayloadPipe(transport, { sys: {} as Sys, pipes });
  const fill = (inSocket: number, position: number, left: number, unit = 1) => {
    waiting = inSocket;
    const filled = pipe.fill(position, left, unit);
    if (filled !== undefined) {
      assert.equal(pipe.from, 10);
      pipe.took(filled);
    }
    return filled;
  };
  assert.equal(fill(50_000, 0, 100_000), 49_152);
  assert.equal(fill(50_000, 100, 100_000), 49_052);
  assert.equal(fill(50_000, 100, 50_000), 50_000);
  assert.equal(fill(50_000, 100, 49_999), 49_999);
  assert.equal(fill(PIPE_BYTES + 5000, 0, PIPE_BYTES + 6000), PIPE_BYTES);
  const KiB64 = 64 * KiB;
  assert.equal(fill(150_000, KiB64 + 100, 200_000, KiB64), 2 * KiB64 - 100, "to the end of a unit");
  assert.equal(fill(150_000, 0, 150_000, KiB64), 150_000, "or of the payload");
  assert.equal(fill(50_000, 0, 100_000, 2 * KiB64), 49_152, "unless units are large");
  assert.equal(fill(0, 0, 100_000), 100_000, "asks what will come");
  assert.equal(lent.length, 18, "lent, and given back");
  assert.equal(fill(10_000, 0, 100_000), undefined);
  assert.equal(fill(50_000, 0, 100_000, KiB64), undefined);
  assert.equal(lent.length, 18);
  waiting = 50_000;
  pipe.fill(0, 50_000, 1);
  pipe.close();
  pipe.close();
  assert.deepEqual(lent.slice(18), ["lent", "discarded"]);
});
