/** Clients that stall, never read, never negotiate, or come and go by the thousand. */
import assert from "node:assert/strict";
import { ON_ORIGINAL } from "../harness/daemon.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, goData, OPT, option, pack, requestHeader } from "../harness/nbd_wire.ts";
import { until, within } from "../harness/wait.ts";
import { footprint, SIZE, Target } from "./target.ts";

const MIB = 1048576;

/** Sends many large reads and never looks at an answer. */
async function neverReads(target: Target): Promise<NbdPeer> {
  const peer = await target.attach();
  const requests = Array.from(
    { length: 400 },
    (_, at) => requestHeader({ type: CMD.READ, cookie: BigInt(at + 1), offset: 0, length: SIZE }),
  );
  await within(peer.send(pack(...requests)), 5_000, "the requests to leave").catch(() => {});
  return peer;
}

Deno.test("a client that never reads its replies holds back nobody, and its memory is bounded", async () => {
  await using target = await Target.start();
  await target.intact();
  const before = footprint(target.daemon).resident;
  const stalled: NbdPeer[] = [];
  for (let at = 0; at < 4; at++) stalled.push(await neverReads(target));
  using peer = await target.attach();
  for (let at = 0; at < 200; at++) await within(peer.read(at * 512, 512), 2_000, "a read");
  await target.intact();
  const grown = footprint(target.daemon).resident - before;
  // 1600 MiB were asked for; 16 requests in flight a client, of 1 MiB each, may be held.
  assert.ok(grown < 160 * MIB, `grew by ${grown / MIB} MiB`);
  for (const each of stalled) each.close();
  await target.finish();
});

for (const [where, options] of [["", {}], [" in an IOThread", { iothread: "t" }]] as const) {
  Deno.test(`status tells what a client${where} does not take, and since when`, {
    ignore: ON_ORIGINAL,
  }, async () => {
    await using target = await Target.start(options);
    using _idle = await target.attach();
    using _stalled = await neverReads(target);
    const clients = async () => {
      const status = await target.daemon.qmp.execute("x-qsd-status") as {
        "nbd-server": { clients: { unsent: number; stalled: number }[] };
      };
      return status["nbd-server"].clients;
    };
    await until(async () => (await clients())[1]!.stalled > 0.3, "the client to be called stalled");
    const [idle, stalled] = await clients();
    assert.deepEqual([idle!.unsent, idle!.stalled], [0, 0]);
    assert.ok(stalled!.unsent > 65536, `${stalled!.unsent} bytes unsent`);
    const later = (await clients())[1]!;
    assert.equal(later.unsent, stalled!.unsent);
    assert.ok(later.stalled > stalled!.stalled);
  });
}

Deno.test("a client that stops in the middle of a payload holds back nobody", async () => {
  await using target = await Target.start();
  using stalled = await target.attach();
  const header = requestHeader({ type: CMD.WRITE, cookie: 1n, offset: 0, length: 65536 });
  await stalled.send(pack(header, new Uint8Array(1000)));
  await target.finish();
});

Deno.test("a thousand connects and disconnects leave no descriptor and no memory behind", async () => {
  await using target = await Target.start();
  const round = async (count: number) => {
    for (let at = 0; at < count; at++) {
      using peer = await target.connect();
      if (at % 4 === 1) await peer.hello();
      if (at % 4 === 2) {
        await peer.hello();
        await peer.go("disk");
      }
      if (at % 4 === 3) {
        await peer.hello();
        await peer.go("disk");
        await peer.read(0, 4096);
        await peer.disconnect();
      }
    }
    await target.intact();
  };
  await round(200);
  const before = footprint(target.daemon);
  await round(1000);
  const after = await until(() => {
    const now = footprint(target.daemon);
    return now.descriptors <= before.descriptors + 1 && now;
  }, "descriptors to be closed");
  const grown = after.resident - before.resident;
  assert.ok(grown < 24 * MIB, `grew by ${grown / MIB} MiB`);
  await target.finish();
});

Deno.test("CVE-2019-14850: bare connections open nothing and are forgotten", async () => {
  await using target = await Target.start();
  await target.intact();
  const before = footprint(target.daemon).descriptors;
  const peers: NbdPeer[] = [];
  for (let at = 0; at < 60; at++) peers.push(await target.connect());
  await target.intact();
  for (const peer of peers) peer.close();
  await until(() => footprint(target.daemon).descriptors <= before + 1, "descriptors to be closed");
  await target.finish();
});

Deno.test("CVE-2024-7409: max-connections holds, and a free place is given to who waits", async () => {
  await using target = await Target.start({ server: ",max-connections=2" });
  using first = await target.attach();
  const second = await target.attach();
  using third = await target.connect();
  const greeted = third.hello().then(() => true);
  // The third is in the accept queue: the others are served meanwhile, and it is not greeted.
  for (let at = 0; at < 20; at++) await first.read(0, 4096);
  const early = await Promise.race([greeted, first.read(0, 4096).then(() => false)]);
  assert.equal(early, false);
  await second.disconnect();
  assert.equal(await within(greeted, 5_000, "the waiting client to be greeted"), true);
  assert.equal((await third.go("disk")).size, SIZE);
});

Deno.test("CVE-2024-7409: a client that does not finish the handshake is dropped after ten seconds", async () => {
  await using target = await Target.start({ server: ",max-connections=3" });
  const began = performance.now();
  using silent = await target.connect();
  using slow = await target.connect();
  using good = await target.attach();
  let over = false;
  const ended = Promise.all([silent.untilClosed(30_000), slow.untilClosed(30_000)]).then(() => {
    over = true;
  });
  const drip = option(OPT.LIST, new Uint8Array(0));
  await slow.send(pack([4, 3]));
  for (let at = 0; !over; at++) {
    await slow.send(drip.subarray(at % drip.length, at % drip.length + 1)).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 250)); // so slow is the client
  }
  await ended;
  const seconds = (performance.now() - began) / 1000;
  assert.ok(seconds > 8 && seconds < 20, `dropped after ${seconds} s`);
  // One that has finished in time may be idle for as long as it likes.
  assert.equal((await good.read(0, 512)).length, 512);
  good.close();
  await target.finish();
});

/** A connection in each state of its life. */
async function everyState(target: Target): Promise<NbdPeer[]> {
  const silent = await target.connect();
  const greeted = await target.connect();
  await greeted.hello();
  const inOption = await target.connect();
  await inOption.hello();
  await inOption.send(option(OPT.GO, goData("disk")).subarray(0, 20));
  const idle = await target.attach();
  const inHeader = await target.attach();
  const header = requestHeader({ type: CMD.WRITE, cookie: 1n, offset: 0, length: 4096 });
  await inHeader.send(header.subarray(0, 10));
  const inPayload = await target.attach();
  await inPayload.send(pack(header, new Uint8Array(100)));
  const deaf = await neverReads(target);
  return [silent, greeted, inOption, idle, inHeader, inPayload, deaf];
}

// The original never answers while a client is in its handshake, or does not read.
Deno.test({
  name: "nbd-server-stop with clients in every state drops them all, and the server starts again",
  ignore: ON_ORIGINAL,
  fn: stopInEveryState,
});

async function stopInEveryState(): Promise<void> {
  await using target = await Target.start();
  const { daemon } = target;
  const peers = await everyState(target);
  await daemon.qmp.execute("nbd-server-stop");
  for (const peer of peers) await peer.untilClosed();
  for (const peer of peers) peer.close();
  assert.deepEqual(await daemon.qmp.execute("query-block-exports"), []);
  await daemon.qmp.execute("nbd-server-start", {
    addr: { type: "unix", data: { path: daemon.file("nbd") } },
  });
  await daemon.qmp.execute("block-export-add", { type: "nbd", id: "e0", "node-name": "disk" });
  await target.finish();
}

Deno.test("SIGTERM with clients in every state ends with status 0", async () => {
  await using target = await Target.start();
  const peers = await everyState(target);
  const { status, stderr } = await target.daemon.stop();
  for (const peer of peers) peer.close();
  assert.equal(status, 0, stderr);
});

Deno.test("block-export-del waits for nobody with mode=hard, and refuses with mode=safe", async () => {
  await using target = await Target.start();
  const { qmp } = target.daemon;
  using peer = await target.attach();
  await peer.read(0, 512);
  assert.equal(await qmp.refused("block-export-del", { id: "e0" }), "export 'e0' still in use");
  assert.equal((await peer.read(0, 512)).length, 512);
  await qmp.execute("block-export-del", { id: "e0", mode: "hard" });
  await qmp.event("BLOCK_EXPORT_DELETED");
  await peer.untilClosed();
});

Deno.test("clients that vanish in the middle of large reads leave the server as it was", async () => {
  await using target = await Target.start();
  await target.intact();
  const before = footprint(target.daemon).descriptors;
  for (let at = 0; at < 40; at++) {
    const peer = await neverReads(target);
    peer.close();
  }
  await until(() => footprint(target.daemon).descriptors <= before + 1, "descriptors to be closed");
  await target.finish();
});
