/**
 * Clients whose replies were sent from the page cache of a qcow2 image and who do not read them, while the clusters are
 * given back, written to for others, and the image is managed.
 */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD } from "../harness/nbd_wire.ts";
import { lacks, ok } from "../harness/tools.ts";
import { until, within } from "../harness/wait.ts";

const MIB = 1048576;
const LENGTH = 256 * 1024;
const CLUSTER = 64 * 1024;
const OLD = 0x41, NEW = 0x42;
const ignore = lacks("replies in sockets", "qemu-img", "qemu-io");

/** A daemon with an image whose first half holds OLD, on a Unix socket `nbd`; more words may follow. */
async function serveImage(dir: TestDir, args: readonly string[] = []): Promise<Daemon> {
  const image = dir.file("disk.qcow2");
  await ok("qemu-img", ["create", "-qf", "qcow2", image, "16M"]);
  await ok("qemu-io", ["-c", `write -P ${OLD} 0 8M`, image]);
  return await Daemon.start({
    dir,
    args: [
      ...["--blockdev", "file,node-name=file,filename=disk.qcow2"],
      ...["--blockdev", "qcow2,node-name=disk,file=file,discard=unmap"],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
      ...["--export", "nbd,id=e0,node-name=disk,writable=on"],
      ...args,
    ],
  });
}

/** Bytes of each value. */
function census(bytes: Uint8Array): Record<number, number> {
  const seen: Record<number, number> = {};
  for (const byte of bytes) seen[byte] = (seen[byte] ?? 0) + 1;
  return seen;
}

/** A client with a large reply in its socket that it has not read. */
async function stalled(daemon: Daemon): Promise<{ peer: NbdPeer; cookie: bigint }> {
  const peer = await NbdPeer.attach(daemon.file("nbd"), "disk", { structured: false });
  // Enough of them that the server sends, and does not read any more.
  for (let i = 0; i < 30; i++) await peer.read(LENGTH * i, LENGTH);
  const cookie = await peer.ask({ type: CMD.READ, offset: 0, length: LENGTH });
  // The server is at it when it has answered another client.
  using other = await NbdPeer.attach(daemon.file("nbd"), "disk");
  await other.read(0, 512);
  return { peer, cookie };
}

Deno.test({
  name: "a reply that was not read shows what it held, or zeroes, when its clusters are used again",
  ignore,
  async fn() {
    await using dir = TestDir.make();
    await using daemon = await serveImage(dir);
    const { peer, cookie } = await stalled(daemon);
    using writer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    const trimmed = await writer.call({ type: CMD.TRIM, offset: 0, length: LENGTH });
    assert.equal(trimmed.error, 0);
    await writer.flush();
    const size = () => Deno.statSync(dir.file("disk.qcow2")).size;
    const before = size();
    for (let at = 0; at < 16; at++) {
      await writer.write(8 * MIB + at * CLUSTER, new Uint8Array(CLUSTER).fill(NEW));
      await writer.flush();
    }
    assert.ok(size() <= before + 13 * CLUSTER, "the clusters are used again");
    const { error, data } = await peer.answer(cookie);
    assert.equal(error, 0);
    const seen = census(data);
    assert.equal(seen[NEW], undefined);
    assert.equal((seen[OLD] ?? 0) + (seen[0] ?? 0), LENGTH);
    peer.close();
    assert.deepEqual(census(await writer.read(8 * MIB, MIB)), { [NEW]: MIB });
    assert.equal((await daemon.stop()).status, 0);
    await ok("qemu-img", ["check", "-q", dir.file("disk.qcow2")]);
  },
});

Deno.test({
  name: "what was sent while an image was only read is looked after when it is written to",
  ignore,
  async fn() {
    await using dir = TestDir.make();
    await using daemon = await serveImage(dir);
    const { qmp } = daemon;
    const disk = { driver: "qcow2", "node-name": "disk", file: "file", discard: "unmap" };
    const file = { driver: "file", "node-name": "file", filename: "disk.qcow2" };
    const exported = { type: "nbd", "node-name": "disk" };
    const reopen = (readOnly: boolean) =>
      qmp.execute("blockdev-reopen", {
        options: [{ ...file, "read-only": readOnly }, { ...disk, "read-only": readOnly }],
      });
    await qmp.execute("block-export-del", { id: "e0" });
    await qmp.execute("blockdev-reopen", {
      options: [{ ...disk, "read-only": true }],
    });
    await qmp.execute("block-export-add", { ...exported, id: "e1", name: "disk" });
    const { peer, cookie } = await stalled(daemon);
    await reopen(false);
    await qmp.execute("block-export-add", { ...exported, id: "e2", name: "rw", writable: true });
    using writer = await NbdPeer.attach(daemon.file("nbd"), "rw");
    await writer.call({ type: CMD.TRIM, offset: 0, length: LENGTH });
    await writer.flush();
    for (let at = 0; at < 16; at++) {
      await writer.write(8 * MIB + at * CLUSTER, new Uint8Array(CLUSTER).fill(NEW));
      await writer.flush();
    }
    assert.equal(census((await peer.answer(cookie)).data)[NEW], undefined);
    peer.close();
  },
});

Deno.test({
  name: "a client that does not read its replies holds back nothing",
  ignore,
  async fn() {
    await using dir = TestDir.make();
    await using daemon = await serveImage(dir);
    const { qmp } = daemon;
    const before = daemon.descriptors();
    const clients = [await stalled(daemon), await stalled(daemon)];
    using writer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    const soon = async (command: string, args?: Record<string, unknown>) =>
      await within(qmp.execute(command, args), 5000, command);

    await writer.call({ type: CMD.TRIM, offset: 0, length: LENGTH });
    await writer.flush();
    await soon("blockdev-snapshot-internal-sync", { device: "disk", name: "s" });
    await writer.write(0, new Uint8Array(LENGTH).fill(NEW));
    await soon("blockdev-snapshot-delete-internal-sync", { device: "disk", name: "s" });
    await soon("blockdev-reopen", {
      options: [{
        driver: "qcow2",
        "node-name": "disk",
        file: "file",
        discard: "unmap",
        "lazy-refcounts": true,
      }],
    });
    await soon("block-export-add", { type: "nbd", id: "e1", "node-name": "disk", name: "other" });
    clients[0]!.peer.close();
    for (const [id, mode] of [["e1", "safe"], ["e0", "hard"]]) {
      await soon("block-export-del", { id, mode });
      await within(qmp.event("BLOCK_EXPORT_DELETED"), 5000, id!);
    }
    await soon("blockdev-del", { "node-name": "disk" });
    await soon("blockdev-del", { "node-name": "file" });
    for (const { peer } of clients) peer.close();
    writer.close();
    assert.ok(daemon.descriptors() <= before);
    assert.equal((await within(daemon.stop(), 5000, "the end")).status, 0);
    await ok("qemu-img", ["check", "-q", dir.file("disk.qcow2")]);
  },
});

Deno.test({
  name: "the daemon ends while a client does not read its replies",
  ignore,
  async fn() {
    await using dir = TestDir.make();
    await using daemon = await serveImage(dir);
    const { peer } = await stalled(daemon);
    assert.equal((await within(daemon.stop(), 5000, "the end")).status, 0);
    peer.close();
  },
});

Deno.test({
  name: "what was sent is looked after when the image moves to an IOThread",
  ignore,
  async fn() {
    await using dir = TestDir.make();
    await using daemon = await serveImage(dir, ["--object", "iothread,id=t0"]);
    const { qmp } = daemon;
    const { peer, cookie } = await stalled(daemon);
    const exported = { type: "nbd", "node-name": "disk", writable: true };
    const add = { ...exported, id: "e1", name: "moved", iothread: "t0" };
    await qmp.execute("block-export-add", add);
    using writer = await NbdPeer.attach(daemon.file("nbd"), "moved");
    await writer.call({ type: CMD.TRIM, offset: 0, length: LENGTH });
    await writer.flush();
    for (let at = 0; at < 16; at++) {
      await writer.write(8 * MIB + at * CLUSTER, new Uint8Array(CLUSTER).fill(NEW));
      await writer.flush();
    }
    const seen = census((await peer.answer(cookie)).data);
    assert.equal(seen[NEW], undefined);
    assert.equal((seen[OLD] ?? 0) + (seen[0] ?? 0), LENGTH);
    peer.close();
  },
});

/** A page of the disk as it is written: its number, over and over. */
function stamped(offset: number, length: number): Uint8Array {
  const words = new Uint32Array(length / 4);
  for (let at = 0; at < words.length; at++) words[at] = Math.floor((offset + at * 4) / 4096) + 1;
  return new Uint8Array(words.buffer);
}

/** How many words of what was read at `offset` are neither its own nor zeroes. */
function strangers(data: Uint8Array, offset: number): number {
  const words = new Uint32Array(data.slice().buffer);
  const own = new Uint32Array(stamped(offset, data.length).buffer);
  return words.reduce((sum, word, at) => sum + (word !== own[at] && word !== 0 ? 1 : 0), 0);
}

Deno.test({
  name:
    "under trims, writes and snapshots slow readers see each page's own data or zeroes, nothing else",
  ignore,
  async fn() {
    await using dir = TestDir.make();
    await using daemon = await serveImage(dir);
    const { qmp } = daemon;
    const dice = new Dice(77);
    using first = await NbdPeer.attach(daemon.file("nbd"), "disk");
    for (let at = 0; at < 16; at++) await first.write(at * MIB, stamped(at * MIB, MIB));
    let on = true;
    let steps = 0, reads = 0, foreign = 0;
    const reader = async () => {
      using peer = await NbdPeer.attach(daemon.file("nbd"), "disk", { structured: false });
      using other = await NbdPeer.attach(daemon.file("nbd"), "disk");
      while (on) {
        // The replies lie in the socket until much has been written elsewhere.
        const offsets = [0, 1, 2].map(() => dice.below(256) * CLUSTER);
        const cookies: bigint[] = [];
        for (const offset of offsets) {
          cookies.push(await peer.ask({ type: CMD.READ, offset, length: CLUSTER }));
        }
        for (const end = steps + 16; on && steps < end;) await other.read(0, 512);
        for (const [i, cookie] of cookies.entries()) {
          const { data, error } = await peer.answer(cookie);
          assert.equal(error, 0);
          foreign += strangers(data, offsets[i]!);
          reads++;
        }
      }
    };
    const writer = async () => {
      using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
      const trimmed: number[] = [];
      while (on) {
        const offset = dice.below(256) * CLUSTER;
        await peer.call({ type: CMD.TRIM, offset, length: CLUSTER });
        await peer.flush();
        steps++;
        trimmed.push(offset);
        if (trimmed.length < 4) continue;
        // Few clusters are free: they are used again soon.
        const oldest = trimmed.shift()!;
        await peer.write(oldest, stamped(oldest, CLUSTER));
      }
    };
    const work = Promise.all([reader(), reader(), reader(), writer(), writer()]);
    const more = (count: number) => {
      const end = steps + count;
      return Promise.race([until(() => steps >= end, `${count} trims`), work]);
    };
    for (let round = 0; round < 12; round++) {
      const name = `s${round}`;
      await qmp.execute("blockdev-snapshot-internal-sync", { device: "disk", name });
      await more(4);
      await qmp.execute("blockdev-snapshot-delete-internal-sync", { device: "disk", name });
      await more(64);
    }
    on = false;
    await work;
    assert.ok(reads > 50, `${reads} reads`);
    assert.equal(foreign, 0);
    assert.equal((await daemon.stop()).status, 0);
    assert.ok(!/clients do not read/.test(daemon.stderr), daemon.stderr);
    await ok("qemu-img", ["check", "-q", dir.file("disk.qcow2")]);
  },
});
