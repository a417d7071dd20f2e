/** Hostile monitors: broken JSON, depth, size, and hanging up at the worst moment. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { noise } from "../harness/images.ts";
import { QmpClient } from "../harness/qmp.ts";
import { until } from "../harness/wait.ts";

/** A daemon with a second monitor to attack; the first one proves that it is well. */
const start = () =>
  Daemon.start({
    args: ["--chardev", "socket,id=bad,path=bad,server=on,wait=off", "--monitor", "bad"],
  });

/** A monitor serves one client at a time: call it when no other is connected to `bad`. */
async function well(daemon: Daemon): Promise<void> {
  assert.deepEqual(await daemon.qmp.execute("query-block-exports"), []);
  await using next = await QmpClient.open(daemon.file("bad"));
  assert.deepEqual(await next.execute("query-block-exports"), []);
}

Deno.test("nesting beyond the limit is a parse error, and the session goes on", async () => {
  await using daemon = await start();
  for (const open of ["[", '{"a":']) {
    await using qmp = await QmpClient.open(daemon.file("bad"));
    await qmp.send(open.repeat(100_000));
    assert.match((await qmp.reply()).error.desc, /nesting|JSON/i);
    // 0xff resets the parser, as clients do to resynchronise.
    await qmp.send(new Uint8Array([0xff]));
    await qmp.send('{"execute":"query-block-exports","id":"sync"}\n');
    let reply;
    do reply = await qmp.reply(); while (reply.id !== "sync");
    assert.deepEqual(reply.return, []);
  }
  await well(daemon);
});

Deno.test("nesting within the limit is understood", async () => {
  await using daemon = await start();
  {
    await using qmp = await QmpClient.open(daemon.file("bad"));
    for (const depth of [500, 1000, 1023]) {
      const id = "[".repeat(depth) + "]".repeat(depth);
      await qmp.send(`{"execute":"query-block-exports","id":${id}}\n`);
      assert.equal(JSON.stringify((await qmp.reply()).id), id);
    }
  }
  await well(daemon);
});

// The original takes time that grows with the square of a token's length.
Deno.test("a token of a megabyte is understood", { ignore: ON_ORIGINAL }, async () => {
  await using daemon = await start();
  {
    await using qmp = await QmpClient.open(daemon.file("bad"));
    const name = "n".repeat(1048576);
    assert.match(await qmp.refused(name), /has not been found/);
    assert.match(await qmp.refused("blockdev-del", { "node-name": name }), /Failed to find node/);
  }
  await well(daemon);
});

// The original takes time that grows with the square of a token's length.
Deno.test(
  "a token without end is refused before it fills the memory",
  { ignore: ON_ORIGINAL },
  async () => {
    await using daemon = await start();
    const before = daemon.resident();
    {
      await using qmp = await QmpClient.open(daemon.file("bad"));
      const piece = new Uint8Array(1048576).fill(0x61);
      await qmp.send('{"execute":"');
      const flood = (async () => {
        for (let at = 0; at < 80; at++) await qmp.send(piece);
      })().catch(() => {});
      const { error } = await qmp.reply(60_000);
      await flood;
      assert.match(error.desc, /JSON|token/i);
    }
    await well(daemon);
    const grown = (daemon.resident() - before) / 1048576;
    assert.ok(grown < 600, `grew by ${grown} MiB`);
  },
);

// The original answers a new client with errors of the one before.
Deno.test("noise harms nobody", { ignore: ON_ORIGINAL }, async () => {
  await using daemon = await start();
  for (let seed = 1; seed <= 30; seed++) {
    await using qmp = await QmpClient.open(daemon.file("bad"));
    await qmp.send(noise(seed * 300, seed)).catch(() => {});
  }
  await well(daemon);
});

Deno.test("every truncation of a request is waited for, and forgotten with its sender", async () => {
  await using daemon = await start();
  const request =
    '{"execute":"nbd-server-start","arguments":{"addr":{"type":"unix","data":{"path":"no"}}}}';
  for (let length = 0; length < request.length; length += 3) {
    await using qmp = await QmpClient.open(daemon.file("bad"));
    await qmp.send(request.slice(0, length));
  }
  await well(daemon);
  assert.ok(!await Deno.stat(daemon.file("no")).then(() => true, () => false));
});

Deno.test("a client that hangs up in the middle of its commands harms nobody", async () => {
  await using daemon = await start();
  for (let at = 0; at < 40; at++) {
    const qmp = await QmpClient.open(daemon.file("bad"));
    const name = `n${at}`;
    const add = { driver: "null-co", "node-name": name, size: 512 };
    await qmp.send(
      JSON.stringify({ execute: "blockdev-add", arguments: add }) +
        JSON.stringify({ execute: "query-named-block-nodes" }) +
        JSON.stringify({ execute: "blockdev-del", arguments: { "node-name": name } }),
    );
    await qmp.close();
  }
  await well(daemon);
});

Deno.test("a monitor that never reads its answers holds back nobody", async () => {
  await using daemon = await start();
  const conn = await Deno.connect({ transport: "unix", path: daemon.file("bad") });
  const text = new TextEncoder().encode(
    '{"execute":"qmp_capabilities"}' + '{"execute":"query-qmp-schema"}'.repeat(200),
  );
  const sent = conn.write(text).catch(() => 0);
  for (let at = 0; at < 50; at++) await daemon.qmp.execute("query-version");
  const before = daemon.resident();
  for (let at = 0; at < 50; at++) await daemon.qmp.execute("query-block-exports");
  assert.ok(daemon.resident() - before < 64 * 1048576);
  conn.close();
  await sent;
  await well(daemon);
});

Deno.test("a hundred clients of one monitor, one after the other, leave no descriptor behind", async () => {
  await using daemon = await start();
  await well(daemon);
  const before = daemon.descriptors();
  for (let at = 0; at < 100; at++) {
    await using qmp = await QmpClient.connect(daemon.file("bad"));
    if (at % 2 === 0) await qmp.negotiate();
  }
  await well(daemon);
  await until(() => daemon.descriptors() <= before + 1, "descriptors to be closed");
});
