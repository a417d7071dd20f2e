/** Who gets which clusters when several ask. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const CLUSTER = 64 * KiB;

/** Whether no two of the ranges [offset, length] share a byte. */
function apart(ranges: readonly (readonly [number, number])[]): boolean {
  const sorted = [...ranges].sort(([a], [b]) => a - b);
  return sorted.every(([at], i) => i === 0 || sorted[i - 1]![0] + sorted[i - 1]![1] <= at);
}

for (const latency of ["sync", "async"] as const) {
  Deno.test(`runs of clusters that are asked for together are different ones (${latency})`, async () => {
    const disk = await diskOf("1M");
    disk.latency = latency;
    const bench = await Bench.open(disk);
    const { image } = bench;
    const lengths = [2, 1, 3, 1, 2, 4].map((count) => count * CLUSTER);
    const hosts = await Promise.all(lengths.map((length) => image.allocate(length)));
    const ranges = hosts.map((host, i) => [host, lengths[i]!] as const);
    assert.ok(apart(ranges), JSON.stringify(ranges));
    for (const [host, length] of ranges) image.releases.undo(host, length);
    await bench.close();
    await check(disk);
  });

  Deno.test(`a write gets no cluster of a run that is being looked for (${latency})`, async () => {
    const disk = await diskOf("1M");
    disk.latency = latency;
    const bench = await Bench.open(disk);
    const run = bench.image.allocate(8 * CLUSTER);
    await bench.write(0, CLUSTER, 1);
    const host = await run;
    const written = disk.calls.filter(({ op, length }) => op === "write" && length === CLUSTER);
    assert.equal(written.length, 1);
    assert.ok(apart([[host, 8 * CLUSTER], [written[0]!.offset, CLUSTER]]));
    bench.image.releases.undo(host, 8 * CLUSTER);
    await bench.close();
    await check(disk);
  });
}

Deno.test("the image file ends with a whole cluster when it is closed, unless nothing was added", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(4096, 512, 1);
  await bench.close();
  const { length } = disk.bytes;
  assert.equal(length, 6 * CLUSTER);
  disk.resize(length - CLUSTER + 8192);
  const again = await Bench.open(disk);
  await again.write(4096, 512, 2);
  await again.close();
  assert.equal(disk.bytes.length, length - CLUSTER + 8192);
});

Deno.test("of a cluster that was used before nothing shows around a part that is written", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, CLUSTER, 1);
  await bench.backend.discard(0, CLUSTER);
  await bench.image.commits.all();
  // Should the file have kept what was there.
  disk.bytes.fill(1, 5 * CLUSTER, 6 * CLUSTER);
  await bench.write(4 * CLUSTER + 4096, 512, 2);
  assert.equal(disk.bytes[5 * CLUSTER + 4096], 2, "the cluster is used again");
  const bytes = await bench.read(4 * CLUSTER, CLUSTER);
  assert.ok(bytes.every((byte, at) => byte === (at >= 4096 && at < 4608 ? 2 : 0)));
  await bench.close();
  await check(disk);
});

Deno.test("space is used again in whichever order it was given back", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, 8 * CLUSTER, 1);
  for (const cluster of [6, 2, 4]) await bench.backend.discard(cluster * CLUSTER, CLUSTER);
  await bench.image.commits.all();
  const { length } = disk.bytes;
  await bench.write(8 * CLUSTER, 3 * CLUSTER, 2);
  assert.equal(disk.bytes.length, length);
  await bench.close();
  await check(disk);
});
