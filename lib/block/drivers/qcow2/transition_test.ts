/** Changes of state take their time, and leave time to others. */
import assert from "node:assert/strict";
import { KiB, MiB } from "../../../base/mod.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

/** A clock that goes on by `step` nanoseconds when it is looked at; `add` lets more time pass. */
function clockOf(bench: Bench, step: number): { add(ns: number): void } {
  let ns = 0;
  (bench.test.context.sys as { monotonicNs(): number }).monotonicNs = () => ns += step;
  return { add: (more) => void (ns += more) };
}

Deno.test("what a transition changed is copied and written in parts: others have their turn", async () => {
  const slices = 1024, slice = 4 * KiB;
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk, undefined, { l2CacheSize: 2 * slices * slice });
  const { image, image: { map: { cache } }, test: { context: { sys, loop } } } = bench;
  const clock = clockOf(bench, 0);
  const copied = new Map<number, number>();
  const copy = sys.copy.bind(sys);
  sys.copy = (target, source, length) => {
    const { turns } = loop.counters;
    copied.set(turns, (copied.get(turns) ?? 0) + length);
    clock.add(length);
    copy(target, source, length);
  };
  await assert.rejects(
    image.transit(async () => {
      // As the tables of a large disk: nothing leads to them yet.
      for (let i = 0; i < slices; i++) cache.create(1000 + i, 16 * MiB + i * slice);
      await image.commit();
      assert.equal(cache.unstable, 0);
      throw new Error("enough");
    }),
    { message: "enough" },
  );
  const sizes = [...copied.values()];
  assert.equal(sizes.reduce((sum, length) => sum + length, 0), slices * slice);
  assert.ok(Math.max(...sizes) <= 2 * MiB, `${Math.max(...sizes)} bytes in a turn`);
  await bench.close();
});

Deno.test("a flush does not wait for a transition: what requests have changed is stable before", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, 64 * KiB, 1);
  await bench.image.transit(async () => {
    assert.equal(bench.image.commits.needed, false);
    await bench.image.allocate(64 * KiB);
    assert.equal(bench.image.commits.needed, true);
    assert.equal(bench.image.flush(), undefined);
    return {};
  });
  await bench.close();
  await check(disk, [3]);
});

Deno.test("long tables that lead to nothing are gone through in many turns", async () => {
  const disk = await diskOf("-o", "cluster_size=4k", "128G");
  const bench = await Bench.open(disk);
  const { image, test: { context: { loop } } } = bench;
  clockOf(bench, 100_000);
  await image.transit(async (change) => {
    const l1 = image.activeL1();
    assert.equal(l1.length, 65536);
    const steps = {
      ownTables: () => change.ownTables(),
      add: () => change.add(l1),
      drop: () => change.drop(l1),
      mark: () => change.mark(),
      dropRange: () => change.dropRange(1 << 30, 65536 * 4 * KiB),
    };
    for (const [name, step] of Object.entries(steps)) {
      const { turns } = loop.counters;
      await step();
      assert.ok(loop.counters.turns > turns, name);
    }
    return {};
  });
  await bench.close();
  await check(disk);
});
