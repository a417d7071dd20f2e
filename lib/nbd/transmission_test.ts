import assert from "node:assert/strict";
import { viewOf } from "../base/mod.ts";
import { MemoryBackend } from "../block/testing_backend.ts";
import {
  concat,
  type EnterOptions,
  framings,
  noise,
  readBack,
  type Reply,
  reply,
  request,
  withServer,
} from "./testing.ts";
import { Chunk, Cmd, CmdFlag } from "./wire.ts";

const MiB = 1024 * 1024;

const latencies = ["at once", "later"] as const;

for (const framing of framings) {
  const extended = framing === "extended";
  for (const latency of latencies) {
    Deno.test(`${framing}, ${latency}: what is written is read back, at all sizes and offsets`, () =>
      withServer(async (server) => {
        const { backend, context } = server;
        if (latency === "later") backend.later = () => context.loop.sleep(0);
        const client = await server.enter({ framing });
        const cases = [[0, 1], [5, 511], [4096, 4096], [100, 33_000], [0, 262_144], [1, 262_144], [
          77,
          1_000_003,
        ], [0, 3 * MiB]] as const;
        for (const [offset, length] of cases) {
          const data = noise(length, offset + 1);
          const flags = extended ? CmdFlag.payloadLen : 0;
          await client.send(request(Cmd.write, offset, length, { data, flags, extended }));
          assert.equal((await reply(client)).error, 0);
          await client.send(request(Cmd.read, offset, length, { extended }));
          assert.deepEqual(await readBack(client, offset, length), data);
          assert.deepEqual(backend.bytes.subarray(offset, offset + length), data);
        }
      }));
  }

  Deno.test(`${framing}: a batch of requests is answered, each with its own cookie`, () =>
    withServer(async (server) => {
      const client = await server.enter({ framing });
      const disk = noise(MiB);
      server.backend.bytes.set(disk);
      server.backend.touch(0, MiB);
      const parts: Uint8Array[] = [];
      for (let i = 0; i < 600; i++) {
        parts.push(request(Cmd.read, i * 512, 512, { cookie: i, extended }));
      }
      await client.send(concat(parts));
      for (let i = 0; i < 600; i++) {
        const { cookie, payload } = await reply(client, 512);
        assert.equal(cookie, i);
        assert.deepEqual(payload.slice(-512), disk.slice(i * 512, i * 512 + 512));
      }
      assert.equal([...server.connections][0]!.counters!.requests, 600);
    }));

  Deno.test(`${framing}: transmission cut off or spoilt at any byte harms nobody`, () =>
    withServer(async (server) => {
      const flags = extended ? CmdFlag.payloadLen : 0;
      const whole = concat([
        request(Cmd.read, 0, 700, { extended }),
        request(Cmd.write, 512, 100, { data: noise(100), flags, extended }),
        request(Cmd.blockStatus, 0, 4096, { extended }),
        request(Cmd.disc, 0, 0, { extended }),
      ]);
      for (let at = 0; at < whole.length; at++) {
        for (const value of [undefined, 0, 0xff]) {
          const client = await server.enter({ framing });
          const bytes = whole.slice(0, value === undefined ? at : whole.length);
          if (value !== undefined) bytes[at] = value;
          await client.send(bytes);
          client.halfClose();
          await client.rest();
          client.close();
        }
      }
      await server.allGone();
    }, { size: 65536 }));
}

Deno.test("invalid requests get the protocol document's errors, and their payload is drained", () =>
  withServer(async (server) => {
    const client = await server.enter({ framing: "structured" });
    const top = 2n ** 64n - 1n;
    const cases: [Uint8Array, number, RegExp][] = [
      [request(99, 0, 0), 22, /^invalid request type \(99\) received$/],
      [
        request(Cmd.read, 0, 1, { flags: 0x200 }),
        22,
        /^unsupported flags for command read \(got 0x200\)$/,
      ],
      [
        request(Cmd.write, 0, 4, { flags: 2, data: noise(4) }),
        22,
        /^unsupported flags for command write/,
      ],
      [
        request(Cmd.read, 4 * MiB, 1),
        22,
        /^operation past EOF; From: 4194304, Len: 1, Size: 4194304$/,
      ],
      [request(Cmd.read, 2n ** 63n - 1n, 2), 22, /^operation past EOF; From: 92233720368547/],
      [request(Cmd.read, top, 1), 22, /^operation past EOF/],
      [request(Cmd.trim, 4 * MiB, 512), 22, /^operation past EOF/],
      [request(Cmd.writeZeroes, 4 * MiB, 512), 28, /^operation past EOF/],
      [request(Cmd.write, 4 * MiB - 1, 4, { data: noise(4) }), 28, /^operation past EOF/],
      [request(Cmd.write, top, 40_000, { data: noise(40_000) }), 28, /^operation past EOF/],
      [
        request(Cmd.read, 0, 32 * MiB + 1),
        22,
        /^len \(33554433 \) is larger than max len \(33554432\)$/,
      ],
      [request(Cmd.cache, 0, 32 * MiB + 1), 22, /is larger than max len/],
      [
        request(Cmd.write, 0, 32 * MiB + 1, { data: new Uint8Array(32 * MiB + 1) }),
        22,
        /is larger than max len/,
      ],
      [request(Cmd.blockStatus, 0, 512), 22, /^CMD_BLOCK_STATUS not negotiated$/],
    ];
    for (const [bytes, error, message] of cases) {
      await client.send(bytes);
      const got = await reply(client);
      assert.match(got.message, message);
      assert.equal(got.error, error);
    }
    await client.send(request(Cmd.flush, 0, 0));
    assert.equal((await reply(client)).error, 0);
    assert.deepEqual(server.backend.calls, ["flush 0 0"]);
  }));

Deno.test("a read-only export takes no changes", () =>
  withServer(async (server) => {
    const client = await server.enter({ framing: "simple" });
    for (const type of [Cmd.write, Cmd.trim, Cmd.writeZeroes]) {
      const data = type === Cmd.write ? noise(512) : new Uint8Array(0);
      await client.send(request(type, 0, 512, { data }));
      assert.equal((await reply(client)).error, 1);
    }
    assert.deepEqual(server.backend.calls, []);
  }, { writable: false }));

Deno.test("holes are sent as holes, unless the client wants one piece", () =>
  withServer(async (server) => {
    server.backend.touch(65536, 65536);
    server.backend.bytes.set(noise(65536), 65536);
    const client = await server.enter({ framing: "structured" });
    await client.send(request(Cmd.read, 0, 262144));
    const types: number[] = [];
    for (let done = false; !done;) {
      const got = await reply(client);
      types.push(got.type);
      done = got.done;
    }
    assert.deepEqual(types, [Chunk.offsetHole, Chunk.offsetData, Chunk.offsetHole]);
    await client.send(request(Cmd.read, 0, 262144, { flags: CmdFlag.df }));
    const whole = await reply(client);
    assert.equal(whole.type, Chunk.offsetData);
    assert.equal(whole.done, true);
    assert.deepEqual(whole.payload.slice(8 + 65536, 8 + 131072), noise(65536));
  }));

Deno.test("flags reach the block layer", () =>
  withServer(async (server) => {
    const client = await server.enter({ framing: "structured" });
    const cases: [number, number, string][] = [
      [Cmd.write, CmdFlag.fua, "write(1) 0 512"],
      [Cmd.write, 0, "write 0 512"],
      [Cmd.writeZeroes, 0, "zeroes(2) 0 512"],
      [Cmd.writeZeroes, CmdFlag.noHole, "zeroes(0) 0 512"],
      [Cmd.writeZeroes, CmdFlag.noHole | CmdFlag.fua, "zeroes(1) 0 512"],
      [Cmd.writeZeroes, CmdFlag.fastZero, "zeroes(6) 0 512"],
      [Cmd.cache, 0, "prefetch 0 512"],
      [Cmd.trim, 0, "discard 0 512"],
    ];
    for (const [type, flags, call] of cases) {
      server.backend.calls.length = 0;
      const data = type === Cmd.write ? noise(512) : new Uint8Array(0);
      await client.send(request(type, 0, 512, { flags, data }));
      assert.equal((await reply(client)).error, 0);
      assert.deepEqual(server.backend.calls, [call]);
    }
    server.backend.calls.length = 0;
    await client.send(request(Cmd.trim, 0, 512, { flags: CmdFlag.fua }));
    await reply(client);
    assert.deepEqual(server.backend.calls, ["discard 0 512", "flush 0 0"]);
    server.backend.calls.length = 0;
    const data = noise(MiB);
    await client.send(request(Cmd.write, 0, MiB, { flags: CmdFlag.fua, data }));
    await reply(client);
    assert.equal(server.backend.calls.at(-1), "flush 0 0");
  }));

Deno.test("a writethrough export makes every write durable", () =>
  withServer(async (server) => {
    const client = await server.enter();
    await client.send(request(Cmd.write, 0, 4, { data: noise(4) }));
    await reply(client);
    assert.deepEqual(server.backend.calls, ["write(1) 0 4"]);
  }, { writethrough: true }));

for (const latency of latencies) {
  Deno.test(`errors of the disk (${latency}) reach their request alone`, () =>
    withServer(async (server) => {
      const { backend, context } = server;
      backend.touch(0, 4 * MiB);
      if (latency === "later") backend.later = () => context.loop.sleep(0);
      backend.failing = (op, offset) =>
        op === "status"
          ? undefined
          : offset >= 2 * MiB
          ? "EIO"
          : op === "flush"
          ? "ENOSPC"
          : undefined;
      for (const framing of framings.slice(0, 2)) {
        const client = await server.enter(
          {
            framing,
            contexts: framing === "simple" ? undefined : ["base:allocation"],
          } as EnterOptions,
        );
        const errors: number[] = [];
        const ask = async (bytes: Uint8Array) => {
          await client.send(bytes);
          for (;;) {
            const got = await reply(client, 4096);
            if (got.done) return errors.push(got.error);
          }
        };
        await ask(request(Cmd.read, 2 * MiB, 4096));
        await ask(request(Cmd.read, 0, 4096));
        await ask(request(Cmd.write, 2 * MiB, 16, { data: noise(16) }));
        await ask(request(Cmd.write, MiB, 2 * MiB, { data: noise(2 * MiB) }));
        await ask(request(Cmd.flush, 0, 0));
        assert.deepEqual(errors, [5, 0, 5, 5, 28]);
        if (framing === "structured") {
          await client.send(request(Cmd.read, MiB, 2 * MiB));
          let last = await reply(client);
          while (!last.done) last = await reply(client);
          assert.equal(last.message, "reading from file failed");
          backend.failing = () => "EIO";
          await client.send(request(Cmd.blockStatus, 0, MiB));
          assert.equal((await reply(client)).error, 5);
        }
      }
    }));
}

Deno.test("block status covers the range, one chunk a context, alike neighbours joined", () =>
  withServer(async (server) => {
    server.backend.touch(65536, 131072);
    const contexts = ["base:allocation", "qemu:allocation-depth"];
    const client = await server.enter({ framing: "structured", contexts });
    await client.send(request(Cmd.blockStatus, 0, 4 * MiB));
    const first = await reply(client);
    const second = await reply(client);
    assert.deepEqual(words(first), [0, 65536, 3, 131072, 0, 4 * MiB - 196608, 3]);
    assert.deepEqual(words(second), [1, 65536, 0, 131072, 1, 4 * MiB - 196608, 0]);
    assert.deepEqual([first.done, second.done], [false, true]);
    await client.send(request(Cmd.blockStatus, 65000, 4 * MiB - 65000, { flags: CmdFlag.reqOne }));
    assert.deepEqual(words(await reply(client)), [0, 536, 3]);
    assert.deepEqual(words(await reply(client)), [1, 536, 0]);
  }));

function words({ payload }: Reply): number[] {
  const view = viewOf(payload);
  return Array.from({ length: payload.length / 4 }, (_, i) => view.getUint32(4 * i));
}

Deno.test("extended block status has 64-bit extents, and a payload chooses contexts", () =>
  withServer(async (server) => {
    server.backend.touch(0, 65536);
    const contexts = ["base:allocation", "qemu:allocation-depth"];
    const client = await server.enter({ framing: "extended", contexts });
    const filter = new Uint8Array(12);
    viewOf(filter).setUint32(4, MiB);
    viewOf(filter).setUint32(8, 1);
    const extended = true;
    const flags = CmdFlag.payloadLen;
    await client.send(request(Cmd.blockStatus, 0, 12, { data: filter, flags, extended }));
    const got = await reply(client);
    assert.equal(got.type, Chunk.blockStatusExt);
    assert.equal(got.done, true);
    assert.deepEqual(words(got), [1, 2, 0, 65536, 0, 1, 0, MiB - 65536, 0, 0]);
    viewOf(filter).setUint32(8, 9);
    await client.send(request(Cmd.blockStatus, 0, 12, { data: filter, flags, extended }));
    assert.equal((await reply(client)).error, 22);
    await client.send(
      request(Cmd.blockStatus, 0, 11, { data: filter.subarray(1), flags, extended }),
    );
    assert.equal((await reply(client)).error, 22);
    await client.send(request(Cmd.writeZeroes, 0, 2 ** 40, { extended }));
    assert.equal((await reply(client)).error, 28);
    await client.send(request(Cmd.read, 0, 64, { data: noise(64), flags, extended }));
    assert.equal((await reply(client)).error, 22);
    await client.send(request(Cmd.flush, 0, 0, { extended }));
    assert.equal((await reply(client)).type, Chunk.none);
  }));

Deno.test("DISC lets requests in flight finish, and their replies leave", () =>
  withServer(async (server) => {
    const release: (() => void)[] = [];
    server.backend.later = () => new Promise((resolve) => release.push(resolve));
    const client = await server.enter();
    await client.send(concat([
      request(Cmd.write, 0, 4, { data: noise(4), cookie: 1 }),
      request(Cmd.disc, 0, 0),
    ]));
    while (release.length === 0) await server.context.loop.sleep(0);
    release[0]!();
    assert.equal((await reply(client)).cookie, 1);
    assert.equal((await client.receive(1)).length, 0);
    assert.deepEqual(server.backend.bytes.subarray(0, 4), noise(4));
  }));

Deno.test("requests sent before a half-close are answered", () =>
  withServer(async (server) => {
    const client = await server.enter();
    await client.send(request(Cmd.read, 0, 65536));
    client.halfClose();
    assert.equal((await client.rest()).length, 16 + 65536);
  }));

Deno.test("a client that vanishes amid a write or with requests in flight leaves nothing behind", () =>
  withServer(async (server) => {
    const release: (() => void)[] = [];
    const client = await server.enter();
    await client.send(request(Cmd.write, 0, MiB, { data: noise(700_000) }));
    client.close();
    await server.allGone();
    server.backend.later = () => new Promise((resolve) => release.push(resolve));
    const other = await server.enter({ framing: "structured" });
    await other.send(concat([
      request(Cmd.read, 0, MiB),
      request(Cmd.write, 0, 4, { data: noise(4) }),
      request(Cmd.flush, 0, 0),
    ]));
    while (release.length < 3) await server.context.loop.sleep(0);
    other.close();
    while (server.connections.size > 0) {
      for (const resolve of release.splice(0)) resolve();
      await server.context.loop.sleep(0);
    }
  }));

Deno.test("a client that never reads its replies is bounded, and holds back nobody else", () =>
  withServer(async (server) => {
    server.backend.touch(0, 4 * MiB);
    for (const framing of framings) {
      const extended = framing === "extended";
      const greedy = await server.enter({ framing });
      const asks = concat(
        Array.from({ length: 1000 }, () => request(Cmd.read, 0, MiB, { extended })),
      );
      await greedy.send(asks);
      const other = await server.enter();
      await other.send(request(Cmd.read, 0, 4096));
      assert.equal((await readBack(other, 0, 4096)).length, 4096);
      assert.ok(server.context.buffers.inUse < 8 * MiB, `${server.context.buffers.inUse}`);
      greedy.close();
    }
  }));

Deno.test("a node that shrinks underneath is seen by the next request", () =>
  withServer(async (server) => {
    const client = await server.enter();
    server.backend.resize(MiB);
    await client.send(request(Cmd.read, MiB, 512));
    assert.equal((await reply(client)).error, 22);
    server.backend.resize(2 * MiB);
    await client.send(request(Cmd.read, MiB, 512));
    assert.equal((await reply(client, 512)).error, 0);
  }));

Deno.test("hundreds of slow requests are bounded and all answered", () =>
  withServer(async (server) => {
    const { backend, context } = server;
    backend.later = () => context.loop.sleep(0);
    const client = await server.enter();
    const count = 500;
    const parts = Array.from(
      { length: count },
      (_, cookie) => request(Cmd.write, cookie * 4096, 4096, { data: noise(4096, cookie), cookie }),
    );
    const sending = client.send(concat(parts));
    const seen = new Set<number>();
    let most = 0;
    for (let i = 0; i < count; i++) {
      seen.add((await reply(client)).cookie);
      most = Math.max(most, backend.inFlight);
    }
    await sending;
    assert.equal(seen.size, count);
    assert.ok(most <= 128, `${most} in flight`);
    assert.ok(backend instanceof MemoryBackend);
  }));

Deno.test("aligned memory is honoured", () =>
  withServer(async (server) => {
    server.backend.limits = { ...server.backend.limits, memoryAlignment: 4096 };
    const seen: number[] = [];
    const read = server.backend.read.bind(server.backend);
    server.backend.read = (offset, iov) => {
      seen.push(iov.addresses[0]! % 4096);
      return read(offset, iov);
    };
    const client = await server.enter({ framing: "structured" });
    server.backend.touch(0, 4 * MiB);
    server.backend.bytes.set(noise(4 * MiB));
    for (const [offset, length] of [[0, 4096], [4096, 512], [0, MiB]] as const) {
      await client.send(request(Cmd.read, offset, length));
      const data = await readBack(client, offset, length);
      assert.deepEqual(data, server.backend.bytes.slice(offset, offset + length));
    }
    assert.ok(seen.length >= 3 && seen.every((rest) => rest === 0), `${seen}`);
  }));
