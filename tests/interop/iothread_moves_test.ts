/** Nodes that move between IOThreads: under load, with live clients, with images over images. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { addNbdExport, daemonWithThreads, moveNode, placeOf } from "../harness/iothreads.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD } from "../harness/nbd_wire.ts";
import { lacks, ok, qemuIo, run } from "../harness/tools.ts";

const ignore = lacks("interop/iothread_moves", "qemu-io", "qemu-img");
const MIB = 1024 * 1024;

Deno.test({
  name: "qemu-io's data is right while the node moves between threads all the time",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 8 * MIB, 4);
    await using daemon = await daemonWithThreads(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    let over = false;
    let moves = 0;
    const moving = (async () => {
      for (let i = 0; !over; i++) {
        const iothread = ["t1", null, "t0"][i % 3]!;
        await moveNode(daemon, "n", iothread);
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
  name: "a qcow2 image over another stays whole through moves, queries and a snapshot",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 2);
    const create = ["create", "-q", "-f", "qcow2"];
    await ok("qemu-img", [...create, dir.file("base.qcow2"), "16M"]);
    await ok("qemu-img", [...create, "-b", "base.qcow2", "-F", "qcow2", dir.file("top.qcow2")]);
    await using daemon = await daemonWithThreads(dir, [
      ...["--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=top.qcow2"],
      ...["--export", "nbd,id=q,node-name=q,iothread=t0,writable=on"],
    ]);
    const { qmp } = daemon;
    for (const [i, iothread] of ["t1", null, "t0"].entries()) {
      await qemuIo(daemon.uri("q"), [`write -P ${i + 1} ${i}M 100k`, "write -z 8M 64k", "flush"]);
      await moveNode(daemon, "q", iothread);
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
    await using daemon = await daemonWithThreads(dir);
    await addNbdExport(daemon, "e");
    const peer = await NbdPeer.attach(daemon.file("nbd"), "e");
    try {
      const reads = async (at: number) =>
        assertSameBytes(await peer.read(at, 65536), model.subarray(at, at + 65536), `at ${at}`);
      await reads(4096);
      await moveNode(daemon, "n", "t0");
      await reads(8192);
      await moveNode(daemon, "n", null);
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
    await using daemon = await daemonWithThreads(dir);
    await addNbdExport(daemon, "main");
    const here = await NbdPeer.attach(daemon.file("nbd"), "main");
    await addNbdExport(daemon, "moved", { iothread: "t0" });
    const there = await NbdPeer.attach(daemon.file("nbd"), "moved");
    try {
      let over = false;
      const loads = [here, there].map((peer, i) =>
        checkedLoad(peer, model, 2 * MIB * i, () => over)
      );
      const failed = Promise.race(loads);
      for (let i = 0; i < 12; i++) {
        const iothread = ["t1", null, "t0"][i % 3]!;
        const moved = moveNode(daemon, "n", iothread);
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
  name: "the image stays locked against other processes while its node moves",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 8);
    await using daemon = await daemonWithThreads(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    for (const iothread of ["t1", null, "t0"]) {
      // An export does not share the right to resize.
      const args = ["resize", "-f", "raw", dir.file("disk.raw"), "2M"];
      const { status, stderr } = await run("qemu-img", args);
      assert.equal(status, 1);
      assert.match(stderr, /Failed to get "resize" lock/);
      await moveNode(daemon, "n", iothread);
    }
    assert.equal((await daemon.stop()).status, 0);
  },
});
