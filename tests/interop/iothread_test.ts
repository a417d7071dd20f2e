/** NBD exports in IOThreads: real clients, moves under load, several threads on one node, what is refused, crashes. */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CHUNK, CMD, view } from "../harness/nbd_wire.ts";
import { lacks, ok, qemuIo, run } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";

const ignore = lacks("interop/iothread", "qemu-io", "nbdcopy", "qemu-img");
const MIB = 1024 * 1024;

interface Status {
  nodes: { "node-name": string; iothread?: string }[];
  exports: { id: string; iothread?: string; counters: Record<string, number> }[];
  iothreads: { id: string; turns: number; parks: number; wakes: number }[];
}

/** A daemon with IOThreads t0 and t1, node `n` (raw over file `f`) on `disk.raw`, and an NBD server. */
async function daemonWith(dir: TestDir, args: readonly string[] = []): Promise<Daemon> {
  return await Daemon.start({
    dir,
    args: [
      ...["--object", "iothread,id=t0", "--object", "iothread,id=t1"],
      ...[
        "--blockdev",
        "file,node-name=f,filename=disk.raw",
        "--blockdev",
        "raw,node-name=n,file=f",
      ],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd", ...args],
    ],
  });
}

const status = async (daemon: Daemon) => await daemon.qmp.execute("x-qsd-status") as Status;

/** Which IOThread runs the node of that name. */
async function placeOf(daemon: Daemon, name: string): Promise<string | undefined> {
  return (await status(daemon)).nodes.find((node) => node["node-name"] === name)?.iothread;
}

async function addExport(daemon: Daemon, id: string, more: object = {}): Promise<void> {
  await daemon.qmp.execute("block-export-add", {
    type: "nbd",
    id,
    name: id,
    "node-name": "n",
    writable: true,
    ...more,
  });
}

Deno.test({
  name: "an export in an IOThread serves qemu-io and nbdcopy, its node runs there and comes back",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 16 * MIB, 3);
    await using daemon = await daemonWith(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    assert.equal(await placeOf(daemon, "n"), "t0");
    assert.equal(await placeOf(daemon, "f"), "t0");
    await qemuIo(daemon.uri("n"), [
      "write -P 0x33 1M 3M",
      "write -z 8M 1M",
      "read -P 0x33 1M 3M",
      "flush",
    ]);
    model.fill(0x33, MIB, 4 * MIB).fill(0, 8 * MIB, 9 * MIB);
    await ok("nbdcopy", [daemon.uri("n"), dir.file("copy.raw")]);
    assertSameBytes(Deno.readFileSync(dir.file("copy.raw")), model, "nbdcopy's copy");
    const [exported] = (await status(daemon)).exports;
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
  name: "qemu-io's data is right while the node moves between threads all the time",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 8 * MIB, 4);
    await using daemon = await daemonWith(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    let over = false;
    let moves = 0;
    const moving = (async () => {
      for (let i = 0; !over; i++) {
        const iothread = ["t1", null, "t0"][i % 3];
        await daemon.qmp.execute("x-blockdev-set-iothread", {
          "node-name": "n",
          iothread,
          force: true,
        });
        moves++;
      }
    })();
    try {
      for (let round = 0; round < 6; round++) {
        const commands: string[] = [];
        for (let i = 0; i < 16; i++) {
          const [at, pattern] = [
            (i * 7 % 16) * 512 * 1024 + round * 4096,
            (round * 16 + i) % 250 + 1,
          ];
          commands.push(`aio_write -q -P ${pattern} ${at} 128k`);
          model.fill(pattern, at, at + 131072);
        }
        await qemuIo(daemon.uri("n"), [...commands, "aio_flush", "flush"]);
      }
    } finally {
      over = true;
      await moving;
    }
    assert.ok(moves > 5, `only ${moves} moves`);
    assert.equal((await daemon.stop()).status, 0);
    assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the image");
  },
});

Deno.test({
  name: "one node, exports in both threads and the main thread: all see the same data",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 8 * MIB, 5);
    await using daemon = await daemonWith(dir);
    await addExport(daemon, "a", { iothread: "t0", "fixed-iothread": true });
    await addExport(daemon, "b", { iothread: "t1" });
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
    const places = (await status(daemon)).exports.map(({ id, iothread }) => [id, iothread]);
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
    await using daemon = await daemonWith(dir, [
      ...["--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=top.qcow2"],
    ]);
    await addExport(daemon, "q", { "node-name": "q", "allocation-depth": true });
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
    const move = (iothread: string | null) =>
      daemon.qmp.execute("x-blockdev-set-iothread", { "node-name": "q", iothread, force: true });
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
  name: "a qcow2 image over another stays whole through moves, queries and a snapshot",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 2);
    const create = ["create", "-q", "-f", "qcow2"];
    await ok("qemu-img", [...create, dir.file("base.qcow2"), "16M"]);
    await ok("qemu-img", [...create, "-b", "base.qcow2", "-F", "qcow2", dir.file("top.qcow2")]);
    await using daemon = await daemonWith(dir, [
      ...["--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=top.qcow2"],
      ...["--export", "nbd,id=q,node-name=q,iothread=t0,writable=on"],
    ]);
    const { qmp } = daemon;
    for (const [i, iothread] of ["t1", null, "t0"].entries()) {
      await qemuIo(daemon.uri("q"), [`write -P ${i + 1} ${i}M 100k`, "write -z 8M 64k", "flush"]);
      await qmp.execute("x-blockdev-set-iothread", {
        "node-name": "q",
        iothread,
        force: true,
      });
      assert.equal((await qmp.execute("query-named-block-nodes") as unknown[]).length, 6);
      for (let done = 0; done <= i; done++) {
        await qemuIo(daemon.uri("q"), [`read -P ${done + 1} ${done}M 100k`]);
      }
    }
    await qmp.execute("blockdev-snapshot-internal-sync", { device: "q", name: "s" });
    assert.equal(await placeOf(daemon, "q"), "t0");
    await qemuIo(daemon.uri("q"), ["write -P 9 0 1M"]);
    assert.equal((await daemon.stop()).status, 0);
    assert.match(await ok("qemu-img", ["check", dir.file("top.qcow2")]), /No errors were found/);
    assert.match(await ok("qemu-img", ["snapshot", "-l", dir.file("top.qcow2")]), /\bs\b/);
  },
});

Deno.test({
  name: "clients that were there before a move go on",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 4 * MIB, 6);
    await using daemon = await daemonWith(dir);
    await addExport(daemon, "e");
    const peer = await NbdPeer.attach(daemon.file("nbd"), "e");
    try {
      const reads = async (at: number) =>
        assertSameBytes(await peer.read(at, 65536), model.subarray(at, at + 65536), `at ${at}`);
      await reads(4096);
      await daemon.qmp.execute("x-blockdev-set-iothread", {
        "node-name": "n",
        iothread: "t0",
        force: true,
      });
      await reads(8192);
      await daemon.qmp.execute("x-blockdev-set-iothread", {
        "node-name": "n",
        iothread: null,
        force: true,
      });
      await reads(12288);
    } finally {
      peer.close();
    }
  },
});

/** Writes and reads its part of the export, eight requests at a time, until `over`. Returns the rounds it made. */
async function checkedLoad(
  peer: NbdPeer,
  model: Uint8Array,
  from: number,
  over: () => boolean,
): Promise<number> {
  const STEP = 65536;
  let round = 0;
  for (; !over(); round++) {
    const spots = Array.from({ length: 8 }, (_, i) => from + ((round * 3 + i * 5) % 16) * STEP);
    const writes: bigint[] = [];
    for (const [i, offset] of spots.entries()) {
      const payload = noise(STEP - 512 * (i % 3), 1000 * round + i + from);
      model.set(payload, offset);
      writes.push(await peer.ask({ type: CMD.WRITE, offset, payload }));
    }
    for (const cookie of writes) assert.equal((await peer.answer(cookie)).error, 0);
    const reads: bigint[] = [];
    for (const offset of spots) {
      reads.push(await peer.ask({ type: CMD.READ, offset, length: STEP }));
    }
    for (const [i, cookie] of reads.entries()) {
      const { error, data } = await peer.answer(cookie);
      assert.equal(error, 0);
      assertSameBytes(data, model.subarray(spots[i]!, spots[i]! + STEP), `round ${round}`);
    }
  }
  return round;
}

Deno.test({
  name: "live connections in the main thread and in a thread stay right while the node moves",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 4 * MIB, 16);
    await using daemon = await daemonWith(dir);
    await addExport(daemon, "main");
    const here = await NbdPeer.attach(daemon.file("nbd"), "main");
    await addExport(daemon, "moved", { iothread: "t0" });
    const there = await NbdPeer.attach(daemon.file("nbd"), "moved");
    try {
      let over = false;
      const loads = [here, there].map((peer, i) =>
        checkedLoad(peer, model, 2 * MIB * i, () => over)
      );
      const failed = Promise.race(loads);
      for (let i = 0; i < 12; i++) {
        const iothread = ["t1", null, "t0"][i % 3];
        const moved = daemon.qmp.execute("x-blockdev-set-iothread", {
          "node-name": "n",
          iothread,
          force: true,
        });
        await Promise.race([moved, failed]);
      }
      over = true;
      for (const rounds of await Promise.all(loads)) assert.ok(rounds >= 3, `${rounds} rounds`);
    } finally {
      here.close();
      there.close();
    }
    const ended = await daemon.stop();
    assert.deepEqual([ended.status, ended.stderr], [0, ""]);
    assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the image");
  },
});

Deno.test({
  name: "a node in a thread is resized there, with all that stand on it",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 4 * MIB, 6);
    await using daemon = await daemonWith(dir);
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
    await using daemon = await daemonWith(dir, [
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
      stats: { wr_highest_offset: number };
      "driver-specific"?: { driver: string };
    }[];
    const file = stats.find((one) => one["node-name"] === "f");
    assert.equal(file!.stats.wr_highest_offset, MIB + 65536);
    assert.equal(file!["driver-specific"]!.driver, "file");
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
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "the image stays locked against other processes while its node moves",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 8);
    await using daemon = await daemonWith(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    for (const iothread of ["t1", null, "t0"]) {
      // An export does not share the right to resize.
      const args = ["resize", "-f", "raw", dir.file("disk.raw"), "2M"];
      const { status, stderr } = await run("qemu-img", args);
      assert.equal(status, 1);
      assert.match(stderr, /Failed to get "resize" lock/);
      await daemon.qmp.execute("x-blockdev-set-iothread", {
        "node-name": "n",
        iothread,
        force: true,
      });
    }
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "idle IOThreads use no processor time",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 9);
    await using daemon = await daemonWith(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    const peer = await NbdPeer.attach(daemon.file("nbd"), "n");
    try {
      await peer.read(0, 4096);
      // Quiet: over half a second no loop of the daemon has turned more than the question about it needs.
      const turns = async () => (await status(daemon)).iothreads.map((one) => one.turns);
      await until(async () => {
        const before = daemon.processorTicks();
        await new Promise((go) => setTimeout(go, 500));
        return daemon.processorTicks() === before;
      }, "half a second without processor time");
      assert.equal((await turns()).length, 2);
    } finally {
      peer.close();
    }
  },
});

Deno.test({
  name:
    "SIGTERM while a thread is under load: clients are dropped, the image holds what was flushed",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 4 * MIB, 10);
    const daemon = await daemonWith(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    try {
      const peer = await NbdPeer.attach(daemon.file("nbd"), "n");
      const data = noise(65536, 77);
      await peer.write(MIB, data);
      let served = 0;
      const load = (async () => {
        for (;;) {
          await peer.read((served % 32) * 65536, 65536);
          served++;
        }
      })().catch(() => {});
      await until(() => served > 20, "some reads");
      const ended = await daemon.stop();
      await load;
      peer.close();
      assert.deepEqual([ended.status, ended.stderr], [0, ""]);
      const image = Deno.readFileSync(dir.file("disk.raw"));
      assertSameBytes(image.subarray(MIB, MIB + 65536), data, "what was written");
    } finally {
      await daemon[Symbol.asyncDispose]();
    }
  },
});

Deno.test({
  name:
    "kill -9 while two threads write to qcow2 images: what was flushed is there, both are sound",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 3);
    const STEP = 24576;
    const COUNT = 400;
    const args: string[] = [];
    for (const i of [0, 1]) {
      await ok("qemu-img", ["create", "-q", "-f", "qcow2", dir.file(`d${i}.qcow2`), "64M"]);
      args.push(
        ...["--blockdev", `qcow2,node-name=q${i},file.driver=file,file.filename=d${i}.qcow2`],
        ...["--export", `nbd,id=q${i},node-name=q${i},iothread=t${i},writable=on`],
      );
    }
    await using daemon = await daemonWith(dir, args);
    const written = [0, 0];
    const flushed = [0, 0];
    const seed = (i: number, block: number) => 10_000 * i + block;
    const load = async (i: number) => {
      const peer = await NbdPeer.attach(daemon.file("nbd"), `q${i}`);
      try {
        for (let block = 0; block < COUNT; block++) {
          await peer.write(block * STEP, noise(STEP, seed(i, block)));
          written[i] = block + 1;
          if (block % 7 !== 6) continue;
          await peer.flush();
          flushed[i] = block + 1;
        }
      } finally {
        peer.close();
      }
    };
    const loads = Promise.allSettled([load(0), load(1)]);
    await until(() => Math.min(...flushed) >= 70, "some flushes", 30_000);
    daemon.kill("SIGKILL");
    await daemon.end();
    for (const one of await loads) assert.equal(one.status, "rejected", "it ended too early");
    for (const i of [0, 1]) {
      assert.ok(flushed[i]! >= 70 && written[i]! < COUNT);
      const image = dir.file(`d${i}.qcow2`);
      const { status, stdout } = await run("qemu-img", ["check", image]);
      assert.ok(status === 0 || status === 3, `d${i}: ${stdout}`); // 3: leaked clusters alone
      await ok("qemu-img", ["convert", "-O", "raw", image, dir.file("copy.raw")]);
      const copy = Deno.readFileSync(dir.file("copy.raw"));
      for (let block = 0; block < flushed[i]!; block++) {
        const got = copy.subarray(block * STEP, (block + 1) * STEP);
        assertSameBytes(got, noise(STEP, seed(i, block)), `block ${block} of d${i}`);
      }
    }
  },
});
