/** Writes whose payload goes through a pipe to the file. */
import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { O, type Sys } from "../sys/mod.ts";
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
        backend.failing = (op, at) => op === "pipe" && at >= failing ? "ENOSPC" : undefined;
        await client.send(write(2 * MiB, lost.subarray(0, length)));
        assert.equal((await reply(client, 0)).error, NbdErrno.ENOSPC);
        assert.equal(backend.calls.filter((call) => call.startsWith("failed")).length, 1);
        assert.equal(backend.calls.filter((call) => call.startsWith("write")).length, 0);
        backend.failing = undefined;
        backend.pipeMost = Infinity;
        await client.send(write(4 * MiB, kept));
        assert.equal((await reply(client, 0)).error, 0);
        assert.ok(Buffer.compare(backend.bytes.subarray(4 * MiB, 4 * MiB + WHOLE), kept) === 0);
        backend.bytes.fill(0, 4 * MiB, 5 * MiB);
      }
    }
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
    const open = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = open();
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
    assert.equal(open(), before);
  }));

Deno.test("a pipe takes whole pages of the file, all of a payload's end, and no trickle", () => {
  const pages: number[] = [];
  let waiting = 0;
  const sys = {
    pipe2: (flags: number) => (assert.equal(flags, O.CLOEXEC | O.NONBLOCK), [10, 11] as const),
    fcntl: () => 0,
    unread: () => waiting,
    splice: (from: number, to: number, length: number) => {
      assert.deepEqual([from, to], [5, 11]);
      pages.push(length);
      return length;
    },
    close: (fd: number) => pages.push(-fd),
  } as unknown as Sys;
  const pipe = PayloadPipe.open(sys, 5);
  assert.ok(typeof pipe === "object");
  const fill = (inSocket: number, position: number, left: number) => {
    waiting = inSocket;
    return pipe.fill(position, left);
  };
  assert.equal(fill(50_000, 0, 100_000), 49_152);
  assert.equal(fill(50_000, 100, 100_000), 49_052);
  assert.equal(fill(50_000, 100, 50_000), 50_000);
  assert.equal(fill(50_000, 100, 49_999), 49_999);
  assert.equal(fill(PIPE_BYTES + 5000, 0, PIPE_BYTES + 6000), PIPE_BYTES);
  assert.equal(fill(0, 0, 100_000), 100_000, "asks what will come");
  assert.equal(fill(10_000, 0, 100_000), undefined);
  pages.length = 0;
  pipe.close();
  pipe.close();
  assert.deepEqual(pages, [-10, -11]);
});
