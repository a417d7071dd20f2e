/** Clusters that are given back: when, and what of that the file below is told. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { ioError } from "../../testing.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";
import type { ImageOptions } from "./types.ts";

const CLUSTER = 64 * KiB;
/** Where the first cluster of data lies. */
const DATA = 5 * CLUSTER;

const QUIET = { passDiscardRequest: false, passDiscardSnapshot: false, passDiscardOther: false };
const snapshot = { name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n };

/** Waits until everything that can be free is free; with what the file was told to discard, by cluster. */
async function discarded({ disk, image }: Bench): Promise<number[]> {
  await image.commits.all();
  return disk.calls.filter(({ op }) => op === "discard").flatMap(({ offset, length }) =>
    Array.from({ length: length / CLUSTER }, (_, i) => offset / CLUSTER + i)
  );
}

/** Frees clusters for each reason there is; with those of each reason. */
async function freeAll(options: Partial<ImageOptions>): Promise<Record<string, number>> {
  const bench = await Bench.open(await diskOf("1M"), undefined, options);
  const { image, disk } = bench;
  const told: Record<string, number> = {};
  const step = async (name: string, act: () => Promise<unknown>) => {
    disk.calls.length = 0;
    await act();
    told[name] = (await discarded(bench)).length;
  };
  await bench.write(0, 2 * CLUSTER, 1);
  await step("request", async () => await bench.backend.discard(CLUSTER, CLUSTER));
  await image.snapshots.create(snapshot);
  await bench.write(0, CLUSTER, 2);
  await bench.backend.flush();
  await step("snapshot", () => image.snapshots.delete("1"));
  const host = await image.allocate(CLUSTER);
  await step("other", () => Promise.resolve(image.release(host, CLUSTER, "other")));
  disk.fault = ({ op }) => op === "write" ? ioError() : undefined;
  await step("never", async () => {
    await assert.rejects(bench.write(8 * CLUSTER, CLUSTER, 3));
    disk.fault = undefined;
  });
  await bench.close();
  await check(disk);
  return told;
}

Deno.test("each option pass-discard-* is about its reason", async () => {
  const nothing = { request: 0, snapshot: 0, other: 0, never: 0 };
  assert.deepEqual(await freeAll(QUIET), nothing);
  const request = await freeAll({ ...QUIET, passDiscardRequest: true });
  assert.deepEqual(request, { ...nothing, request: 1 });
  const deleted = await freeAll({ ...QUIET, passDiscardSnapshot: true });
  assert.ok(deleted["snapshot"]! > 0);
  assert.deepEqual({ ...deleted, snapshot: 0 }, nothing);
  // Deleting a snapshot leaves old tables behind, too.
  const other = await freeAll({ ...QUIET, passDiscardOther: true });
  assert.ok(other["other"]! > 0 && other["snapshot"]! > 0);
  assert.deepEqual([other["request"], other["never"]], [0, 0]);
});

Deno.test("neighbours that are freed for different reasons are told of apart", async () => {
  const options = { ...QUIET, passDiscardRequest: true };
  const bench = await Bench.open(await diskOf("1M"), undefined, options);
  const { image } = bench;
  const host = await image.allocate(2 * CLUSTER);
  image.release(host, CLUSTER, "request");
  image.release(host + CLUSTER, CLUSTER, "other");
  assert.deepEqual(await discarded(bench), [host / CLUSTER]);
  assert.equal(await image.refcount(host + CLUSTER), 0);
  await bench.close();
  await check(bench.disk);
});

Deno.test("what a snapshot still has is not discarded in the file", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  await bench.write(0, 2 * CLUSTER, 1);
  await bench.image.snapshots.create(snapshot);
  await bench.write(4 * CLUSTER, CLUSTER, 2);
  await bench.backend.flush();
  bench.disk.calls.length = 0;
  await bench.backend.discard(0, 2 * CLUSTER);
  assert.deepEqual(await discarded(bench), []);
  await bench.image.snapshots.apply("1");
  assert.ok((await bench.read(0, 2 * CLUSTER)).every((byte) => byte === 1));
  await bench.close();
  await check(bench.disk);
});

Deno.test("clusters are free also where the file cannot discard", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  await bench.write(0, CLUSTER, 1);
  await bench.backend.flush();
  bench.disk.fault = ({ op }) => op === "discard" ? ioError() : undefined;
  await bench.backend.discard(0, CLUSTER);
  assert.deepEqual(await discarded(bench), [DATA / CLUSTER]);
  assert.equal(await bench.image.refcount(DATA), 0);
  assert.deepEqual(bench.test.context.lines, []);
  await bench.close();
  await check(bench.disk);
});

Deno.test("what is given back while a commit fails is not forgotten", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  const { image } = bench;
  await bench.write(0, 2 * CLUSTER, 1);
  await bench.backend.flush();
  disk.latency = "held";
  const first = bench.backend.discard(0, CLUSTER);
  await first;
  const failing = assert.rejects(async () => await bench.backend.flush(), { errno: "EIO" });
  await disk.arrivals(1);
  await bench.backend.discard(CLUSTER, CLUSTER);
  disk.latency = "sync";
  disk.held[0]!.release(ioError());
  await failing;
  await discarded(bench);
  assert.deepEqual([await image.refcount(DATA), await image.refcount(DATA + CLUSTER)], [0, 0]);
  await bench.close();
  await check(disk);
});
