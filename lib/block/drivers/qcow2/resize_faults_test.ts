/** A disk that was to become shorter, and did not get all the way: what it has lost does not come back. */
import assert from "node:assert/strict";
import { KiB, MiB } from "../../../base/mod.ts";
import { ioError, MemoryDisk } from "../../testing.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const how = { exact: true, preallocation: "off" } as const;
const SHORT = 512 * KiB;

/** Gives the disk the length that it had; all that is new reads as zeroes. */
async function growsClean(bench: Bench): Promise<void> {
  const { size } = bench.image;
  await bench.image.truncate(MiB, how);
  const bytes = await bench.read(0, MiB);
  assert.equal(bytes.findIndex((byte) => byte !== 7), size === MiB ? -1 : size);
  assert.equal(bytes.findIndex((byte, at) => at >= size && byte !== 0), -1);
  await bench.close();
  await check(bench.disk, [0, 3]);
}

async function full(options: string): Promise<Bench> {
  const bench = await Bench.open(await diskOf("-o", options, "1M"));
  await bench.write(0, MiB, 7);
  await bench.backend.flush();
  return bench;
}

for (const options of ["cluster_size=64k", "cluster_size=4k", "cluster_size=16k,extended_l2=on"]) {
  Deno.test(`the power is cut while a disk becomes shorter: ${options}`, async () => {
    const bench = await full(options);
    const { disk } = bench;
    const states: Uint8Array[] = [];
    disk.fault = ({ op }) => {
      if (op !== "read") states.push(disk.bytes.slice());
      return undefined;
    };
    await bench.image.truncate(SHORT, how);
    disk.fault = undefined;
    await bench.close();
    assert.ok(states.length >= 4);
    for (const bytes of states) {
      const cut = new MemoryDisk(bytes.length);
      cut.bytes.set(bytes);
      await growsClean(await Bench.open(cut));
    }
  });

  Deno.test(`a disk becomes shorter, and a call fails: ${options}`, async () => {
    for (let failing = 1;; failing++) {
      const bench = await full(options);
      const { disk, image } = bench;
      // Nothing is in memory: it is read, too.
      image.map.cache.drop();
      let calls = 0;
      disk.fault = () => ++calls === failing ? ioError() : undefined;
      await image.truncate(SHORT, how).catch(() => {});
      const over = calls < failing;
      disk.fault = undefined;
      await growsClean(bench);
      if (over) {
        assert.ok(failing > 4, `only ${failing - 1} calls`);
        break;
      }
    }
  });
}

Deno.test("a disk is as long as the largest L1 table reaches, and not longer", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=512", "1M"));
  // 32 MiB of entries, each for 64 clusters.
  const most = 4 * MiB * 64 * 512;
  const longer = async () => await bench.image.truncate(most + 512, how);
  await assert.rejects(longer, { errno: "EFBIG", message: /too large an L1 table/ });
  assert.equal(bench.image.size, MiB);
  await bench.close();
  await check(bench.disk);
});

Deno.test("what a snapshot has stays when the disk becomes shorter", async () => {
  const bench = await full("cluster_size=4k");
  const { image } = bench;
  await image.snapshots.create({ name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
  await image.truncate(SHORT, how);
  await bench.backend.flush();
  await image.snapshots.apply("1");
  assert.equal(image.size, MiB);
  assert.ok((await bench.read(0, MiB)).every((byte) => byte === 7));
  await bench.close();
  await check(bench.disk);
});

for (const options of ["cluster_size=4k", "cluster_size=16k,extended_l2=on"]) {
  Deno.test(`a disk that shares its tables with a snapshot stays as long where there is no room: ${options}`, async () => {
    const bench = await full(options);
    const { disk, image } = bench;
    await image.snapshots.create({ name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
    await bench.backend.flush();
    // There is room for what is written over, and that is the header.
    disk.fault = ({ op, offset }) =>
      op === "write" && offset >= 4 * KiB ? ioError("ENOSPC") : undefined;
    await assert.rejects(image.truncate(SHORT, how), { errno: "ENOSPC" });
    assert.equal(image.size, MiB);
    assert.ok((await bench.read(0, MiB)).every((byte) => byte === 7));
    disk.fault = undefined;
    await image.truncate(SHORT, how);
    assert.equal(image.size, SHORT);
    await bench.close();
    await check(disk);
  });
}
