/** Hostile requests: unknown commands and flags, impossible ranges, truncated and garbled bytes. */
import assert from "node:assert/strict";
import { noise } from "../harness/images.ts";
import { CMD, ERR, FLAG, pack, requestHeader } from "../harness/nbd_wire.ts";
import type { Request } from "../harness/nbd.ts";
import { SIZE, Target } from "./target.ts";

const MIB = 1048576;
const TOP = 2n ** 63n;

/** Requests that must fail with an error reply, after which the connection goes on. */
const refused: readonly (readonly [string, Request])[] = [
  ["read at the end", { type: CMD.READ, offset: SIZE, length: 1 }],
  ["read across the end", { type: CMD.READ, offset: SIZE - 511, length: 512 }],
  ["read of the whole and a byte", { type: CMD.READ, offset: 0, length: SIZE + 1 }],
  ["write at the end", { type: CMD.WRITE, offset: SIZE, payload: noise(512) }],
  ["write across the end", { type: CMD.WRITE, offset: SIZE - 1, payload: noise(2) }],
  ["trim past the end", { type: CMD.TRIM, offset: SIZE, length: 512 }],
  ["zeroes past the end", { type: CMD.WRITE_ZEROES, offset: SIZE - 512, length: 1024 }],
  ["zeroes of 4 GiB", { type: CMD.WRITE_ZEROES, offset: 0, length: 0xffffffff }],
  ["CVE-2025-47712: trim of 4 GiB", { type: CMD.TRIM, offset: 512, length: 0xfffffe00 }],
  ["CVE-2025-47711: block status of 4 GiB", {
    type: CMD.BLOCK_STATUS,
    offset: 0,
    length: 0xffffffff,
  }],
  ["block status of nothing", { type: CMD.BLOCK_STATUS, offset: 0, length: 0 }],
  ["cache past the end", { type: CMD.CACHE, offset: SIZE, length: 1 }],
  ["read beyond 32 MiB", { type: CMD.READ, offset: 0, length: 32 * MIB + 1 }],
  ["read of 4 GiB", { type: CMD.READ, offset: 0, length: 0xffffffff }],
  ...[TOP - 1n, TOP - 512n, TOP, 2n ** 64n - 1n, 2n ** 64n - 512n, 2n ** 53n].flatMap((
    offset,
  ): [string, Request][] => [
    [`read at ${offset}`, { type: CMD.READ, offset, length: 512 }],
    [`write at ${offset}`, { type: CMD.WRITE, offset, payload: noise(512) }],
    [`trim at ${offset}`, { type: CMD.TRIM, offset, length: 512 }],
    [`zeroes at ${offset}`, { type: CMD.WRITE_ZEROES, offset, length: 512 }],
    [`block status at ${offset}`, { type: CMD.BLOCK_STATUS, offset, length: 512 }],
    [`cache at ${offset}`, { type: CMD.CACHE, offset, length: 512 }],
  ]),
  ...[8, 9, 77, 255, 32768, 65535].map((type): [string, Request] => [
    `unknown command ${type}`,
    { type, offset: 0, length: 512 },
  ]),
  ...[32, 64, 256, 512, 4096, 32768, 65535].map((flags): [string, Request] => [
    `read with unknown flags ${flags}`,
    { type: CMD.READ, flags, offset: 0, length: 512 },
  ]),
  ["write with DF", { type: CMD.WRITE, flags: FLAG.DF, offset: 0, payload: noise(512) }],
  ["read with NO_HOLE", { type: CMD.READ, flags: FLAG.NO_HOLE, offset: 0, length: 512 }],
  ["trim with FAST_ZERO", { type: CMD.TRIM, flags: FLAG.FAST_ZERO, offset: 0, length: 512 }],
];

Deno.test("requests that cannot be served get an error of their own, and the connection goes on", async () => {
  await using target = await Target.start();
  using peer = await target.attach();
  const wrong: string[] = [];
  for (const [name, request] of refused) {
    const { error } = await peer.call(request).catch((reason: Error) => ({
      error: reason.message,
    }));
    const known: unknown[] = [ERR.EINVAL, ERR.ENOSPC, ERR.EPERM, ERR.EOVERFLOW, 95];
    if (!known.includes(error)) wrong.push(`${name}: ${error}`);
    assert.equal((await peer.read(0, 512)).length, 512, name);
  }
  assert.deepEqual(wrong, []);
  await target.finish();
});

Deno.test("a write that is too long is refused, and its payload never reaches the image", async () => {
  await using target = await Target.start();
  using peer = await target.attach();
  const payload = new Uint8Array(32 * MIB + 512).fill(0xee);
  const answer = peer.ask({ type: CMD.WRITE, offset: 0, payload }).then((cookie) =>
    peer.answer(cookie)
  );
  // Either an error and the payload skipped, or the connection closed: both are allowed by the protocol.
  const result = await answer.then(({ error }) => error, () => "closed");
  assert.ok(result === ERR.EINVAL || result === "closed", `${result}`);
  await target.finish();
});

Deno.test("CVE-2020-10761: requests at the very maximum length are served", async () => {
  await using target = await Target.start({ node: "" });
  await target.daemon.qmp.execute("blockdev-add", {
    driver: "null-co",
    "node-name": "big",
    size: 64 * MIB,
    "read-zeroes": true,
  });
  await target.daemon.qmp.execute("block-export-add", {
    type: "nbd",
    id: "big",
    "node-name": "big",
    writable: true,
  });
  using peer = await (await import("../harness/nbd.ts")).NbdPeer.attach(target.socket, "big");
  assert.equal((await peer.read(0, 32 * MIB)).length, 32 * MIB);
  await peer.write(32 * MIB, new Uint8Array(32 * MIB));
  assert.equal(
    (await peer.call({ type: CMD.READ, offset: 1, length: 32 * MIB + 1 })).error,
    ERR.EINVAL,
  );
  peer.close();
  await target.daemon.qmp.execute("block-export-del", { id: "big", mode: "hard" });
  await target.finish();
});

Deno.test("requests of no length harm nobody", async () => {
  await using target = await Target.start();
  using peer = await target.attach();
  for (const type of [CMD.READ, CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) {
    for (const offset of [0, SIZE]) {
      const request = { type, offset, length: 0, payload: new Uint8Array(0) };
      await peer.call(request);
    }
  }
  assert.equal((await peer.read(0, 512)).length, 512);
  await target.finish();
});

Deno.test("a read-only export refuses every kind of write", async () => {
  await using target = await Target.start({ writable: false });
  using peer = await target.attach();
  for (
    const request of [
      { type: CMD.WRITE, offset: 0, payload: noise(512) },
      { type: CMD.WRITE, flags: FLAG.FUA, offset: 0, payload: noise(512) },
      { type: CMD.TRIM, offset: 0, length: 512 },
      { type: CMD.WRITE_ZEROES, offset: 0, length: 512 },
    ]
  ) {
    const { error } = await peer.call(request);
    assert.ok(error === ERR.EINVAL || error === ERR.EPERM, `${request.type}: ${error}`);
  }
  await target.finish();
});

Deno.test("a request with another magic ends the connection", async () => {
  await using target = await Target.start();
  for (const magic of [0, 0x25609514, 0xffffffff]) {
    using peer = await target.attach();
    await peer.send(requestHeader({ type: CMD.READ, cookie: 1n, offset: 0, length: 512, magic }));
    await peer.untilClosed();
  }
  await target.finish();
});

Deno.test("a hang-up after every byte of a request, and in the middle of a payload, harms nobody", async () => {
  await using target = await Target.start();
  // The offset is past the end, so that even a whole request writes nothing.
  const header = requestHeader({ type: CMD.WRITE, cookie: 1n, offset: SIZE, length: 4096 });
  const request = pack(header, noise(4096));
  for (let length = 0; length <= 28 + 64; length++) {
    using peer = await target.attach();
    await peer.send(request.subarray(0, length));
  }
  const inside = requestHeader({ type: CMD.WRITE, cookie: 1n, offset: 0, length: 65536 });
  for (const length of [1, 4095, 4096, 65535]) {
    using peer = await target.attach();
    await peer.send(pack(inside, noise(length)));
  }
  await target.finish();
});

Deno.test("requests that come a byte at a time are served", async () => {
  await using target = await Target.start();
  using peer = await target.attach();
  const header = requestHeader({ type: CMD.READ, cookie: 9n, offset: 0, length: 512 });
  for (const byte of header) await peer.send(new Uint8Array([byte]));
  const reply = await peer.bytes(20 + 8 + 512);
  assert.equal(reply.length, 540);
  await target.finish();
});

Deno.test("noise in the transmission phase harms nobody", async () => {
  await using target = await Target.start();
  for (let seed = 1; seed <= 60; seed++) {
    using peer = await target.attach(seed % 2 === 0);
    await peer.send(noise(28 * seed, seed)).catch(() => {});
    await peer.shutdown().catch(() => {});
    await peer.untilClosed();
  }
  await target.finish();
});

Deno.test("random well-formed requests never break the stream or the server", async () => {
  await using target = await Target.start({ writable: false });
  using peer = await target.attach();
  const dice = new Uint32Array(noise(4 * 4 * 2000, 4711).buffer);
  for (let at = 0; at < 2000; at++) {
    const [a = 0, b = 0, c = 0, d = 0] = dice.subarray(4 * at, 4 * at + 4);
    const type = [
      CMD.READ,
      CMD.TRIM,
      CMD.CACHE,
      CMD.WRITE_ZEROES,
      CMD.BLOCK_STATUS,
      CMD.FLUSH,
      8 + a % 9,
    ][b % 7]!;
    const offset = d % 3 === 0 ? BigInt(c) << BigInt(d % 32) : BigInt(c % SIZE);
    const length = a % 5 === 0 ? b : a % 8192;
    await peer.call({ type, offset, length, flags: d % 7 === 0 ? a % 65536 : 0 });
  }
  assert.equal((await peer.read(0, 512)).length, 512);
  await target.finish();
});
