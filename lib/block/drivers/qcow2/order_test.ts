/** What the image sends to its file, in which order, and what it does when that fails. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { ioError, MemoryDisk } from "../../testing.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

Deno.test("metadata stays in memory until it is flushed, and is written counts first", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  for (let i = 0; i < 4; i++) await bench.write(i * 64 * KiB, 64 * KiB, i + 1);
  // The L2 table got the first free cluster, and room on the disk; the data lies behind it, in one piece.
  assert.deepEqual(bench.changes, [
    `write-zeroes 65536 at ${4 * 64 * KiB}`,
    ...[5, 6, 7, 8].map((n) => `write 65536 at ${n * 64 * KiB}`),
  ]);
  bench.disk.calls.length = 0;
  await bench.backend.flush();
  const [table, l1] = [4 * 64 * KiB, 3 * 64 * KiB];
  const counts = bench.changes[0]!;
  assert.match(counts, /^write 4096 at 131072$/);
  assert.deepEqual(bench.changes.slice(1), [
    "flush",
    `write 4096 at ${table + 64 * KiB * 0}`,
    "flush",
    `write 8 at ${l1}`,
    "flush",
  ]);
  await bench.close();
  await check(bench.disk);
});

Deno.test("what an L1 entry leads to is there, and be it an empty table", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=4k", "16M"));
  await bench.image.tables.make(3);
  await bench.image.commit();
  await check(bench.disk);
  await bench.write(7 * 1024 * KiB, 512, 1);
  await bench.close();
  await check(bench.disk);
});

Deno.test("a copy on write and the data around it are one write", async () => {
  const backing = new MemoryDisk(1024 * KiB);
  backing.bytes.fill(7);
  const bench = await Bench.open(await diskOf("1M"), backing);
  await bench.write(64 * KiB + 4096, 4096, 9);
  assert.equal(bench.changes.filter((line) => line.startsWith("write 65536")).length, 1);
  // One read, of little that the data replaces; none of much (see merged.ts).
  const reads = () =>
    backing.calls.splice(0).filter(({ op }) => op === "read").map((
      { offset, length },
    ) => [offset, length]);
  assert.deepEqual(reads(), [[64 * KiB, 64 * KiB]]);
  await bench.write(128 * KiB + 4096, 32 * KiB, 9);
  assert.deepEqual(reads(), [[128 * KiB, 4096], [164 * KiB, 28 * KiB]]);
  const bytes = await bench.read(64 * KiB, 64 * KiB);
  assert.ok(bytes.every((byte, i) => byte === (i >= 4096 && i < 8192 ? 9 : 7)));
  await bench.close();
  await check(bench.disk);
});

Deno.test("a part of a new cluster is written alone where nothing is below", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  await bench.write(4096, 4096, 1);
  assert.deepEqual(bench.changes, [
    `write-zeroes 65536 at ${4 * 64 * KiB}`,
    `write 4096 at ${5 * 64 * KiB + 4096}`,
  ]);
  await bench.close();
  await check(bench.disk);
});

Deno.test("writers to one new cluster wait for each other and share it", async () => {
  const disk = await diskOf("1M");
  disk.latency = "async";
  const bench = await Bench.open(disk);
  const writes = Array.from({ length: 16 }, (_, i) => bench.write(i * 4096, 4096, i + 1));
  await Promise.all(writes);
  const bytes = await bench.read(0, 64 * KiB);
  assert.ok(bytes.every((byte, i) => byte === Math.floor(i / 4096) + 1));
  assert.equal(await bench.image.refcount(5 * 64 * KiB), 1);
  assert.equal(await bench.image.refcount(6 * 64 * KiB), 0);
  await bench.close();
  await check(bench.disk);
});

Deno.test("a write that fails changes nothing and gives its clusters back", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, 4096, 1);
  disk.fault = ({ op }) => op === "write" ? ioError("ENOSPC") : undefined;
  await assert.rejects(bench.write(64 * KiB, 256 * KiB, 2), { errno: "ENOSPC" });
  await assert.rejects(async () => await bench.backend.flush(), { errno: "ENOSPC" });
  disk.fault = undefined;
  assert.ok((await bench.read(64 * KiB, 256 * KiB)).every((byte) => byte === 0));
  await bench.write(64 * KiB, 4096, 3);
  await bench.backend.flush();
  assert.equal((await bench.read(64 * KiB, 4096))[0], 3);
  assert.equal(await bench.image.refcount(7 * 64 * KiB), 0);
  await bench.close();
  await check(bench.disk);
});

Deno.test("new blocks of counts are there before the table leads to them, and a commit is stable", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=512,refcount_bits=64", "1M"));
  await bench.write(0, 40 * KiB, 1);
  await bench.image.commit();
  const table = bench.image.header.refcountTableOffset;
  const { changes } = bench;
  const leads = changes.findIndex((line) =>
    line.startsWith("write 8 ") && Math.floor(Number(line.split(" ").at(-1)) / 512) === table / 512
  );
  assert.ok(leads > 1, changes.join(", "));
  assert.equal(changes[leads - 1], "flush", changes.join(", "));
  assert.equal(changes.at(-1), "flush");
  await bench.close();
  await check(bench.disk);
});

for (const [name, options] of [["64 KiB", "cluster_size=64k"], ["512 bytes", "cluster_size=512"]]) {
  Deno.test(`metadata that could not be written is written by the next flush: clusters of ${name}`, async () => {
    for (let failing = 1;; failing += failing < 20 ? 1 : 6) {
      const disk = await diskOf("-o", options!, "1M");
      const bench = await Bench.open(disk);
      await bench.write(0, 256 * KiB, 5);
      await bench.backend.flush();
      const change = async () => {
        await bench.write(256 * KiB, 192 * KiB, 6);
        await bench.backend.discard(0, 64 * KiB);
        await bench.backend.flush();
      };
      let calls = 0;
      disk.fault = ({ op }) =>
        op === "discard" || op === "read" || ++calls !== failing ? undefined : ioError();
      // A commit in the background may meet the failure, too.
      await change().catch(() => {});
      const over = calls < failing;
      disk.fault = undefined;
      await change();
      await bench.close();
      // No leaks either: what was given up is given back.
      await check(disk);
      const again = await Bench.open(disk);
      for (const [at, length, value] of [[0, 64, 0], [64, 192, 5], [256, 192, 6]] as const) {
        const bytes = await again.read(at * KiB, length * KiB);
        assert.ok(bytes.every((byte) => byte === value), `call ${failing}`);
      }
      await again.close();
      if (over) {
        assert.ok(failing > 6, `only ${failing - 1} calls`);
        break;
      }
    }
  });
}

Deno.test("space that was given back in thousands of pieces is used again", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=512", "8M"));
  const filled = 5 * 1024 * KiB;
  for (let at = 0; at < filled; at += 256 * KiB) await bench.write(at, 256 * KiB, 1);
  await bench.backend.flush();
  const { length } = bench.disk.bytes;
  for (let at = 0; at < filled; at += KiB) await bench.backend.discard(at, 512);
  await bench.backend.flush();
  for (let at = 0; at < filled / 2; at += 256 * KiB) await bench.write(filled + at, 256 * KiB, 2);
  await bench.backend.flush();
  const more = bench.disk.bytes.length - length;
  assert.ok(more < 256 * KiB, `${more} bytes more`);
  await bench.close();
  await check(bench.disk);
});

Deno.test("a snapshot operation that fails on the way leaves table and counts that fit each other", async () => {
  let failed = 0;
  for (let failing = 1;; failing++) {
    const disk = await diskOf("4M");
    const bench = await Bench.open(disk);
    const snapshots = bench.image.snapshots;
    const named = (name: string) => ({ name, dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
    await bench.write(0, 256 * KiB, 5);
    await snapshots.create(named("first"));
    await bench.write(0, 128 * KiB, 6);
    await bench.backend.flush();
    let calls = 0;
    disk.fault = ({ op }) => op !== "read" && ++calls === failing ? ioError() : undefined;
    try {
      await snapshots.delete("1");
    } catch {
      failed++;
    }
    const over = calls < failing;
    disk.fault = undefined;
    // Clusters that were freed are used again.
    await bench.write(1024 * KiB, 512 * KiB, 7);
    await snapshots.create(named("later"));
    const names = snapshots.list().map(({ name }) => name);
    await bench.close();
    await check(disk, [0, 3]);
    const again = await Bench.open(disk);
    const listed = again.image.snapshots.list().map(({ name }) => name);
    assert.deepEqual(listed, names, `call ${failing}`);
    for (const name of listed) {
      const { id } = again.image.snapshots.list().find((one) => one.name === name)!;
      await again.image.snapshots.apply(id);
      const value = name === "first" ? 5 : 6;
      assert.ok(
        (await again.read(0, 128 * KiB)).every((byte) => byte === value),
        `call ${failing}`,
      );
    }
    await again.close();
    await check(disk, [0, 3]);
    if (over) break;
  }
  assert.ok(failed > 3);
});

/** An image whose new tables end up in blocks of counts that a snapshot moves, and in others that it does not. */
async function scattered(free: number): Promise<Bench> {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=512,refcount_bits=64", "1M"));
  await bench.write(0, 160 * KiB, 5);
  await bench.backend.discard(0, free);
  await bench.backend.discard(64 * KiB, 64 * KiB);
  await bench.backend.flush();
  return bench;
}
const snapshot = ({ image }: Bench) =>
  image.snapshots.create({ name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n });

for (const free of [0, 2 * KiB]) {
  Deno.test(`a snapshot that fails before the header leads to it leaves no leak, ${free} bytes free`, async () => {
    const bench = await scattered(free);
    const { image } = bench;
    const write = image.writeTable.bind(image);
    image.writeTable = (offset, table, kind) =>
      kind === "refcount table" ? Promise.reject(ioError()) : write(offset, table, kind);
    await assert.rejects(snapshot(bench), { errno: "EIO" });
    await bench.close();
    await check(bench.disk);
  });

  Deno.test(`what the header may lead to is not given back, ${free} bytes free`, async () => {
    const bench = await scattered(free);
    let written = false;
    // It is written, and nothing tells: neither that it is there nor that it was taken back.
    bench.disk.fault = ({ op, offset }) => {
      if (written && op !== "read") return ioError();
      written ||= op === "write" && offset === 0;
      return undefined;
    };
    await assert.rejects(snapshot(bench), { errno: "EIO" });
    assert.ok(written);
    bench.disk.fault = undefined;
    await bench.write(512 * KiB, 64 * KiB, 9);
    await bench.close();
    await check(bench.disk, [0, 3]);
  });
}

Deno.test("a cluster is not used again while a read is under way there", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, 64 * KiB, 1);
  await bench.backend.flush();
  disk.latency = "held";
  const reading = bench.read(0, 64 * KiB);
  await disk.arrivals(1);
  const [held] = disk.held;
  disk.latency = "sync";
  await bench.backend.discard(0, 64 * KiB);
  await bench.backend.flush();
  await bench.write(128 * KiB, 64 * KiB, 2);
  assert.equal(disk.bytes[5 * 64 * KiB], 1, "the cluster is as it was");
  held!.release();
  assert.ok((await reading).every((byte) => byte === 1));
  await bench.backend.flush();
  // Now it is free: the next write goes there.
  await bench.write(192 * KiB, 64 * KiB, 3);
  assert.equal(disk.bytes[5 * 64 * KiB], 3);
  await bench.close();
  await check(disk);
});

Deno.test("a discarded cluster is not used again before the discard is stable", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, 64 * KiB, 1);
  await bench.backend.flush();
  await bench.backend.discard(0, 64 * KiB);
  await bench.write(64 * KiB, 64 * KiB, 2);
  assert.equal(disk.bytes[5 * 64 * KiB], 1);
  assert.equal(disk.bytes[6 * 64 * KiB], 2);
  await bench.close();
  await check(disk);
});

Deno.test("a write over metadata is refused; the image is marked and written no more", async () => {
  const disk = await diskOf("1M");
  const first = await Bench.open(disk);
  await first.write(0, 4096, 1);
  await first.close();
  // The data cluster's entry leads to the refcount block.
  new DataView(disk.bytes.buffer).setBigUint64(4 * 64 * KiB, (1n << 63n) | BigInt(2 * 64 * KiB));
  const bench = await Bench.open(disk);
  const broken = { message: "Preventing invalid write on metadata (overlaps with refcount block)" };
  await assert.rejects(bench.write(0, 4096, 2), broken);
  await assert.rejects(bench.write(512 * KiB, 4096, 2), { message: "the image is corrupt" });
  assert.deepEqual(bench.test.events, [{
    name: "BLOCK_IMAGE_CORRUPTED",
    data: {
      device: "",
      "node-name": "image",
      msg: broken.message,
      offset: 2 * 64 * KiB,
      size: 4096,
      fatal: true,
    },
  }]);
  await bench.close();
  assert.equal(disk.bytes[79]! & 2, 2, "the corrupt bit");
});

Deno.test("an exclusive task waits for writes under way, and later ones for it", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  disk.latency = "held";
  const before = bench.write(0, 4096, 1);
  await disk.arrivals(1);
  const order: string[] = [];
  const task = bench.image.exclusive(() => {
    order.push("task");
    return Promise.resolve();
  });
  // Elsewhere: nothing but the task keeps it back.
  const after = bench.write(512 * KiB, 4096, 2).then(() => order.push("after"));
  disk.latency = "sync";
  await Promise.resolve();
  assert.deepEqual(order, []);
  disk.held[0]!.release();
  await Promise.all([before, task, after]);
  assert.deepEqual(order, ["task", "after"]);
  assert.equal((await bench.read(512 * KiB, 1))[0], 2);
  await bench.close();
  await check(disk);
});
