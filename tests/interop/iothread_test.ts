/** NBD exports in IOThreads: real clients, several threads on one node, all that QMP does wherever a node runs. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noisy } from "../harness/images.ts";
import {
  addNbdExport,
  daemonWithThreads,
  moveNode,
  placeOf,
  statusOf,
} from "../harness/iothreads.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CHUNK, CMD, view } from "../harness/nbd_wire.ts";
import { lacks, ok, qemuIo } from "../harness/tools.ts";

const ignore = lacks("interop/iothread", "qemu-io", "nbdcopy", "qemu-img");
const MIB = 1024 * 1024;

Deno.test({
  name: "an export in an IOThread serves qemu-io and nbdcopy, its node runs there and comes back",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 16 * MIB, 3);
    await using daemon = await daemonWithThreads(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    assert.equal(await placeOf(daemon, "n"), "t0");
    assert.equal(await placeOf(daemon, "f"), "t0");
    // By its number the kernel knows which thread does the work.
    const { iothreads } = await statusOf(daemon);
    const ran = () =>
      iothreads.map(({ "thread-id": id }) => {
        const stat = Deno.readTextFileSync(`/proc/${daemon.pid}/task/${id}/schedstat`);
        return Number(stat.split(" ")[0]);
      });
    const before = ran();
    await qemuIo(daemon.uri("n"), [
      "write -P 0x33 1M 3M",
      "write -z 8M 1M",
      "read -P 0x33 1M 3M",
      "flush",
    ]);
    model.fill(0x33, MIB, 4 * MIB).fill(0, 8 * MIB, 9 * MIB);
    await ok("nbdcopy", [daemon.uri("n"), dir.file("copy.raw")]);
    assertSameBytes(Deno.readFileSync(dir.file("copy.raw")), model, "nbdcopy's copy");
    const [busy, idle] = ran().map((ns, i) => ns - before[i]!);
    assert.ok(busy! > idle!, `${busy} ${idle}`);
    const [exported] = (await statusOf(daemon)).exports;
    assert.equal(exported!.iothread, "t0");
    assert.ok(exported!.counters["requests"]! > 10);
    assert.equal(
      await daemon.qmp.refused("object-del", { id: "t0" }),
      "object 't0' is in use, can not be deleted",
    );
    await daemon.qmp.execute("block-export-del", { id: "e" });
    await daemon.qmp.event("BLOCK_EXPORT_DELETED");
    assert.equal(await placeOf(daemon, "n"), undefined);
    await daemon.qmp.execute("object-del", { id: "t0" });
    const ended = await daemon.stop();
    assert.deepEqual([ended.status, ended.stderr], [0, ""]);
    assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the image");
  },
});

Deno.test({
  name: "one node, exports in both threads and the main thread: all see the same data",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 8 * MIB, 5);
    await using daemon = await daemonWithThreads(dir);
    await addNbdExport(daemon, "a", { iothread: "t0", "fixed-iothread": true });
    await addNbdExport(daemon, "b", { iothread: "t1" });
    assert.equal(
      await daemon.qmp.refused("block-export-add", {
        type: "nbd",
        id: "c",
        "node-name": "n",
        iothread: "t1",
        "fixed-iothread": true,
      }),
      "Cannot change iothread of active block backend",
    );
    const places = (await statusOf(daemon)).exports.map(({ id, iothread }) => [id, iothread]);
    assert.deepEqual(places, [["a", "t0"], ["b", "t1"]]);
    assert.equal(await placeOf(daemon, "n"), "t0");
    await Promise.all(["a", "b"].map((name, which) =>
      qemuIo(
        daemon.uri(name),
        Array.from({ length: 32 }, (_, i) => {
          const at = (2 * i + which) * 128 * 1024;
          model.fill(i + 1 + 64 * which, at, at + 131072);
          return `aio_write -q -P ${i + 1 + 64 * which} ${at} 128k`;
        }).concat("aio_flush", "flush"),
      )
    ));
    for (const name of ["a", "b"]) {
      await ok("nbdcopy", [daemon.uri(name), dir.file(`${name}.raw`)]);
      assertSameBytes(Deno.readFileSync(dir.file(`${name}.raw`)), model, `export ${name}`);
    }
    const map = async (name: string) =>
      await ok("qemu-img", ["map", "-f", "raw", "--output=json", daemon.uri(name)]);
    assert.equal(await map("a"), await map("b"));
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "every thread is told the same of the layers of an image, wherever they run",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 2);
    const create = ["create", "-q", "-f", "qcow2"];
    const under = (file: string) => ["-b", file, "-F", "qcow2"];
    await ok("qemu-img", [...create, dir.file("base.qcow2"), "8M"]);
    await ok("qemu-img", [...create, ...under("base.qcow2"), dir.file("mid.qcow2"), "16M"]);
    await ok("qemu-img", [...create, ...under("mid.qcow2"), dir.file("top.qcow2")]);
    for (const [name, at] of [["base", 1], ["mid", 2], ["top", 3]] as const) {
      await qemuIo(dir.file(`${name}.qcow2`), [`write -P ${at} ${at}M 1M`], ["-f", "qcow2"]);
    }
    await using daemon = await daemonWithThreads(dir, [
      ...["--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=top.qcow2"],
    ]);
    await addNbdExport(daemon, "q", { "node-name": "q", "allocation-depth": true });
    const depths = async (peer: NbdPeer) => {
      const runs: number[][] = [];
      for (let at = 0; at < 16 * MIB;) {
        const request = { type: CMD.BLOCK_STATUS, offset: at, length: 16 * MIB - at };
        const { chunks } = await peer.call(request);
        const { data } = chunks.find(({ type }) => type === CHUNK.BLOCK_STATUS)!;
        for (let i = 4; i < data.length; i += 8) {
          const [length, depth] = [view(data).getUint32(i), view(data).getUint32(i + 4)];
          runs.push([at / MIB, depth]);
          at += length;
        }
      }
      return runs;
    };
    const move = (iothread: string | null) => moveNode(daemon, "q", iothread);
    const places = [null, "t0", "t1"];
    const peers: NbdPeer[] = [];
    try {
      // A client stays where the node was when it came.
      const contexts = ["qemu:allocation-depth"];
      for (const place of places) {
        await move(place);
        peers.push(await NbdPeer.attach(daemon.file("nbd"), "q", { contexts }));
      }
      for (const place of places) {
        await move(place);
        for (const [i, peer] of peers.entries()) {
          assert.deepEqual(
            await depths(peer),
            [[0, 0], [1, 3], [2, 2], [3, 1], [4, 0], [8, 3]],
            `client in ${places[i]}, node in ${place}`,
          );
        }
      }
    } finally {
      for (const peer of peers) peer.close();
    }
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "a node in a thread is resized there, with all that stand on it",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 4 * MIB, 6);
    await using daemon = await daemonWithThreads(dir);
    const { qmp } = daemon;
    await qmp.execute("x-blockdev-set-iothread", { "node-name": "n", iothread: "t0" });
    for (const size of [5 * MIB, 3 * MIB]) {
      await qmp.execute("block_resize", { "node-name": "n", size });
      const named = await qmp.execute("query-named-block-nodes") as {
        image: { "virtual-size": number };
      }[];
      assert.deepEqual(named.map(({ image }) => image["virtual-size"]), [size, size]);
      assert.equal(Deno.statSync(dir.file("disk.raw")).size, size);
    }
    assert.equal(
      await qmp.refused("block_resize", { "node-name": "n", size: -1 }),
      "Parameter 'size' expects a >0 size",
    );
    assert.equal(await placeOf(daemon, "n"), "t0");
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "reopen, write threshold and statistics work wherever the node runs",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 4 * MIB, 7);
    await using daemon = await daemonWithThreads(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    const { qmp } = daemon;
    await qmp.execute("block-set-write-threshold", { "node-name": "f", "write-threshold": MIB });
    const [shown] = (await qmp.execute("query-named-block-nodes") as Record<string, unknown>[])
      .filter((node) => node["node-name"] === "f");
    assert.equal(shown!["write_threshold"], MIB);
    await qemuIo(daemon.uri("n"), ["write 0 64k", "write 1M 64k"]);
    const { data } = await qmp.event("BLOCK_WRITE_THRESHOLD");
    assert.deepEqual(data, {
      "node-name": "f",
      "amount-exceeded": 65536,
      "write-threshold": MIB,
    });
    const stats = await qmp.execute("query-blockstats", { "query-nodes": true }) as {
      "node-name": string;
      stats: { wr_highest_offset: number; wr_operations: number };
      "driver-specific"?: { driver: string };
    }[];
    const file = stats.find((one) => one["node-name"] === "f");
    assert.equal(file!.stats.wr_highest_offset, MIB + 65536);
    assert.equal(file!["driver-specific"]!.driver, "file");
    const writes = async () =>
      (await qmp.execute("query-blockstats", { "query-nodes": true }) as typeof stats)
        .find((one) => one["node-name"] === "n")!.stats.wr_operations;
    assert.equal(await writes(), 2);
    await qmp.execute("blockdev-reopen", {
      options: [{
        driver: "file",
        "node-name": "f",
        filename: "disk.raw",
        cache: { direct: true },
      }],
    });
    assert.equal(await placeOf(daemon, "f"), "t0");
    await qemuIo(daemon.uri("n"), ["write -P 9 2M 64k", "read -P 9 2M 64k"]);
    assert.equal(
      await qmp.refused("blockdev-reopen", {
        options: [{ driver: "file", "node-name": "f", filename: "other.raw" }],
      }),
      "Cannot change the option 'filename'",
    );
    assert.equal(await placeOf(daemon, "f"), "t0");
    // Counters are the node's, wherever it was when they were counted.
    assert.equal(await writes(), 3);
    await qmp.execute("block-export-del", { id: "e", mode: "hard" });
    await qmp.event("BLOCK_EXPORT_DELETED");
    assert.equal(await writes(), 3);
    assert.equal((await daemon.stop()).status, 0);
  },
});
