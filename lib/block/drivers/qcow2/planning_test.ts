/** Who waits for whom: writes, and tasks that want the image for themselves. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const CLUSTER = 64 * KiB;

/** Time for whatever does not wait for the disk. */
async function turns(): Promise<void> {
  for (let i = 0; i < 50; i++) await Promise.resolve();
}

Deno.test("exclusive tasks run one after the other, however many wait", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  const seen: string[] = [];
  const task = (name: string) =>
    bench.image.exclusive(async () => {
      seen.push(`${name} begins`);
      await turns();
      seen.push(`${name} ends`);
    });
  await Promise.all(["a", "b", "c"].map(task));
  assert.deepEqual(seen, ["a", "b", "c"].flatMap((name) => [`${name} begins`, `${name} ends`]));
  await bench.close();
});

Deno.test("an exclusive task waits until clusters are given back", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, CLUSTER, 1);
  await bench.backend.flush();
  Object.defineProperty(disk, "latency", {
    get: () => disk.calls.at(-1)!.op === "discard" ? "held" : "sync",
  });
  await bench.backend.discard(0, CLUSTER);
  await bench.backend.flush();
  await disk.arrivals(1);
  let begun = false;
  const task = bench.image.exclusive(async () => {
    begun = true;
    assert.equal(await bench.image.refcount(5 * CLUSTER), 0);
  });
  await turns();
  assert.equal(begun, false);
  disk.held[0]!.release();
  await task;
  await bench.close();
  await check(disk);
});

Deno.test("writes that come during an exclusive task begin when it has ended, also if it fails", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  const gate = Promise.withResolvers<void>();
  const task = bench.image.exclusive(() => gate.promise);
  await turns();
  const write = bench.write(0, CLUSTER, 1);
  await turns();
  assert.deepEqual(bench.changes, []);
  gate.reject(new Error("the task failed"));
  await assert.rejects(task, { message: "the task failed" });
  await write;
  assert.ok((await bench.read(0, CLUSTER)).every((byte) => byte === 1));
  await bench.close();
  await check(bench.disk);
});

Deno.test("an image that is open to be read is written to by nobody", async () => {
  const bench = await Bench.open(await diskOf("1M"));
  const view = await bench.image.openView(bench.image.header);
  const truncate = async () => await view.truncate!(512, { exact: true, preallocation: "off" });
  await assert.rejects(truncate, { errno: "EIO", message: "the image is not ready for writing" });
  await view.close();
  await bench.close();
  await check(bench.disk);
});
