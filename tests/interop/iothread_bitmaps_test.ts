/** Dirty bitmaps of nodes that run in IOThreads: real clients write, what was written is found, and stored. */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { statusOf } from "../harness/iothreads.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CHUNK, CMD, view } from "../harness/nbd_wire.ts";
import { lacks, ok, qemuIo } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";

const ignore = lacks("interop/iothread-bitmaps", "qemu-io", "qemu-img");
const MIB = 1024 * 1024;
const CONTEXT = "qemu:dirty-bitmap:b";

/** A daemon with IOThreads t0 and t1, and node `q` (qcow2 over file) exported in t0. */
async function start(dir: TestDir): Promise<Daemon> {
  return await Daemon.start({
    dir,
    args: [
      ...["--object", "iothread,id=t0", "--object", "iothread,id=t1"],
      ...["--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=d.qcow2"],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
      ...["--export", "nbd,id=q,node-name=q,iothread=t0,writable=on"],
    ],
  });
}

/** As `start`, with a bitmap `b` of `q` that export `look`, which asks for `iothread`, shows to its clients. */
async function startWithBitmap(dir: TestDir, iothread: string): Promise<Daemon> {
  const daemon = await start(dir);
  const { qmp } = daemon;
  await qmp.execute("block-dirty-bitmap-add", { node: "q", name: "b", granularity: 65536 });
  await qmp.execute("block-export-add", {
    type: "nbd",
    id: "look",
    name: "look",
    "node-name": "q",
    iothread,
    writable: true,
    bitmaps: ["b"],
  });
  return daemon;
}

const image = (dir: TestDir) =>
  ok("qemu-img", ["create", "-q", "-f", "qcow2", dir.file("d.qcow2"), "64M"]);
const move = (daemon: Daemon, iothread: string | null) =>
  daemon.qmp.execute("x-blockdev-set-iothread", { "node-name": "q", iothread, force: true });

async function bitmaps(daemon: Daemon): Promise<Record<string, Record<string, unknown>>> {
  const nodes = await daemon.qmp.execute("query-named-block-nodes") as Record<string, unknown>[];
  const own = nodes.find((one) => one["node-name"] === "q")!;
  const list = (own["dirty-bitmaps"] ?? []) as Record<string, unknown>[];
  return Object.fromEntries(list.map((one) => [one["name"], one]));
}

async function stored(dir: TestDir): Promise<unknown[]> {
  const info = await ok("qemu-img", ["info", "--output=json", dir.file("d.qcow2")]);
  return JSON.parse(info)["format-specific"].data.bitmaps ?? [];
}

/** The dirty runs of the whole export, as its context tells: [start, end] in MiB. */
async function dirty(daemon: Daemon, name: string, size = 64 * MIB): Promise<number[][]> {
  const peer = await NbdPeer.attach(daemon.file("nbd"), name, { contexts: [CONTEXT] });
  try {
    const runs: number[][] = [];
    for (let at = 0; at < size;) {
      const { error, chunks } = await peer.call({
        type: CMD.BLOCK_STATUS,
        offset: at,
        length: size - at,
      });
      assert.equal(error, 0);
      const { data } = chunks.find(({ type }) => type === CHUNK.BLOCK_STATUS)!;
      for (let i = 4; i < data.length; i += 8) {
        const [length, flags] = [view(data).getUint32(i), view(data).getUint32(i + 4)];
        assert.ok(length > 0);
        if (flags !== 0) runs.push([at / MIB, (at + length) / MIB]);
        at += length;
      }
    }
    return runs;
  } finally {
    peer.close();
  }
}

Deno.test({
  name: "bitmaps count what clients write wherever the node runs, and qcow2 keeps them",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    {
      await using daemon = await start(dir);
      const { qmp } = daemon;
      const add = (name: string, more: object = {}) =>
        qmp.execute("block-dirty-bitmap-add", { node: "q", name, ...more });
      await add("kept", { persistent: true });
      await add("loose", { granularity: 4096 });
      await qemuIo(daemon.uri("q"), ["write -P 1 1M 64k", "write -P 2 2M 4k"]);
      const counts = async () => {
        const { kept, loose } = await bitmaps(daemon);
        return [kept?.["count"], loose?.["count"]];
      };
      assert.deepEqual(await counts(), [131072, 69632]);
      for (const [i, iothread] of ["t1", null, "t0"].entries()) {
        await move(daemon, iothread);
        await qemuIo(daemon.uri("q"), [`write -P 3 ${8 + i}M 64k`]);
        assert.deepEqual(await counts(), [131072 + (i + 1) * 65536, 69632 + (i + 1) * 65536]);
      }
      await qmp.execute("block-dirty-bitmap-disable", { node: "q", name: "kept" });
      await qemuIo(daemon.uri("q"), ["write -P 4 20M 64k"]);
      assert.equal((await counts())[0], 5 * 65536);
      await add("gone", { persistent: true });
      await qmp.execute("block-dirty-bitmap-remove", { node: "q", name: "gone" });
      const ended = await daemon.stop();
      assert.deepEqual([ended.status, ended.stderr], [0, ""]);
    }
    assert.deepEqual(await stored(dir), [{ name: "kept", flags: [], granularity: 65536 }]);
    await ok("qemu-img", ["check", dir.file("d.qcow2")]);
    // What was stored is loaded with the image, follows it into the thread, and is stored again, freeing the old.
    await using daemon = await start(dir);
    await daemon.qmp.execute("block-dirty-bitmap-enable", { node: "q", name: "kept" });
    await qemuIo(daemon.uri("q"), ["write -P 5 30M 64k"]);
    assert.equal((await bitmaps(daemon))["kept"]!["count"], 6 * 65536);
    const ended = await daemon.stop();
    assert.deepEqual([ended.status, ended.stderr], [0, ""]);
    assert.deepEqual(await stored(dir), [{ name: "kept", flags: ["auto"], granularity: 65536 }]);
    assert.match(await ok("qemu-img", ["check", dir.file("d.qcow2")]), /No errors/);
  },
});

Deno.test({
  name: "qemu:dirty-bitmap tells of a node in a thread, while it moves under load",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    await using daemon = await startWithBitmap(dir, "t0");
    const { qmp } = daemon;
    assert.deepEqual(await dirty(daemon, "look"), []);
    let over = false;
    let moves = 0;
    const moving = (async () => {
      for (; !over; moves++) await move(daemon, ["t1", null, "t0"][moves % 3]!);
    })();
    const wanted: number[][] = [];
    try {
      for (let round = 0; round < 8 || moves < 4; round++) {
        assert.ok(round < 60, "it does not move");
        await qemuIo(daemon.uri("q"), [`aio_write -q -P 7 ${round}M 512k`, "aio_flush"]);
        wanted.push([round, round + 0.5]);
        assert.deepEqual(await dirty(daemon, "look"), wanted);
      }
    } finally {
      over = true;
      await moving;
    }
    assert.equal((await bitmaps(daemon))["b"]!["count"], wanted.length * 512 * 1024);
    assert.match(
      await qmp.refused("block-dirty-bitmap-clear", { node: "q", name: "b" }),
      /Bitmap 'b' is currently in use by another operation/,
    );
    const ended = await daemon.stop();
    assert.deepEqual([ended.status, ended.stderr], [0, ""]);
    await ok("qemu-img", ["check", dir.file("d.qcow2")]);
  },
});

Deno.test({
  name: "clients of an export with bitmaps are served in its IOThread, and see what others write",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    await using daemon = await startWithBitmap(dir, "t1");
    const turns = async () => {
      const { iothreads } = await statusOf(daemon);
      return iothreads.find(({ id }) => id === "t1")!.turns;
    };
    const peer = await NbdPeer.attach(daemon.file("nbd"), "look", { contexts: [CONTEXT] });
    try {
      const before = await turns();
      const isDirty = async () => {
        const { chunks } = await peer.call({ type: CMD.BLOCK_STATUS, offset: 0, length: 65536 });
        return view(chunks[0]!.data).getUint32(8) === 1;
      };
      // The context of a bitmap asks nothing of the node: only the client's own thread has work.
      for (let i = 0; i < 300; i++) assert.equal(await isDirty(), false);
      assert.ok(await turns() - before >= 300, `${await turns() - before} turns of the thread`);
      await qemuIo(daemon.uri("q"), ["write 0 4k"]);
      assert.equal(await isDirty(), true);
    } finally {
      peer.close();
    }
    assert.equal((await daemon.stop()).status, 0);
  },
});

for (const place of ["t1", undefined]) {
  Deno.test({
    name: `an export in ${
      place ?? "the main thread"
    } shows the bitmap of a node in t0, which grows`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      await image(dir);
      await using daemon = await Daemon.start({
        dir,
        args: [
          ...["--object", "iothread,id=t0", "--object", "iothread,id=t1"],
          ...["--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=d.qcow2"],
          // What a backup client sees; larger than the node of the bitmap.
          ...["--blockdev", "null-co,node-name=look,size=1073741824"],
          ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
          ...["--export", VhostPeer.exported("v", "q", "v", ",iothread=t0")],
        ],
      });
      const { qmp } = daemon;
      await qmp.execute("block-dirty-bitmap-add", { node: "q", name: "b", granularity: 65536 });
      await qmp.execute("block-export-add", {
        type: "nbd",
        id: "look",
        "node-name": "look",
        bitmaps: [{ node: "q", name: "b" }],
        ...(place === undefined ? {} : { iothread: place }),
      });
      const { exports } = await statusOf(daemon);
      assert.deepEqual(exports.map(({ iothread }) => iothread), ["t0", place]);
      const turns = async () =>
        (await statusOf(daemon)).iothreads.find(({ id }) => id === "t1")!.turns;
      await using guest = await VhostPeer.attach(dir.file("v"));
      const before = await turns();
      const wanted: number[][] = [];
      for (let round = 0; round < 20; round++) {
        const at = round === 0 ? 1 : 60 + 4 * round;
        // It grows by less than a word of bits, and by more.
        await qmp.execute("block_resize", { "node-name": "q", size: (at + 2 + round % 2) * MIB });
        const write = new Uint8Array(65536);
        assert.equal((await guest.disk.call({ type: 1, sector: at * 2048, write })).status, 0);
        wanted.push([at, at + 1 / 16]);
        assert.deepEqual(await dirty(daemon, "look", 1024 * MIB), wanted);
      }
      if (place === "t1") assert.ok(await turns() - before >= 20, "it is served there");
      const { status, stderr } = await daemon.stop();
      assert.deepEqual([status, stderr], [0, ""]);
    },
  });
}
