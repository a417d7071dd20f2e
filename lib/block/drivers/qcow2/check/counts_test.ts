/** Counts: of clusters in memory, and of any width on disk. */
import assert from "node:assert/strict";
import { CountBudget, CountMap, PAGE_CLUSTERS } from "./counts.ts";
import { getCount, setCount } from "./refcount_table.ts";

Deno.test("counts grow as wide as they must and keep their neighbours", () => {
  const counts = new CountMap(new CountBudget());
  counts.set(5, 200);
  counts.set(6, 70000);
  counts.set(7, 2 ** 40);
  assert.deepEqual([4, 5, 6, 7, 8].map((at) => counts.get(at)), [0, 200, 70000, 2 ** 40, 0]);
  counts.set(PAGE_CLUSTERS * 1000, 1);
  assert.deepEqual([...counts.entries()], [
    [5, 200],
    [6, 70000],
    [7, 2 ** 40],
    [PAGE_CLUSTERS * 1000, 1],
  ]);
});

Deno.test("adding stops at the largest count and says so", () => {
  const counts = new CountMap(new CountBudget());
  assert.equal(counts.add(1, 2, 3), true);
  assert.equal(counts.add(1, 1, 3), true);
  assert.equal(counts.add(1, 1, 3), false);
  assert.equal(counts.get(1), 3);
});

Deno.test("memory for counts is bounded, however far apart they lie", () => {
  const counts = new CountMap(new CountBudget(10 * PAGE_CLUSTERS));
  assert.throws(() => {
    for (let i = 0; i < 11; i++) counts.set(i * PAGE_CLUSTERS, 1);
  }, { errno: "ENOMEM" });
});

for (let order = 0; order <= 6; order++) {
  Deno.test(`counts of ${1 << order} bits are written beside each other`, () => {
    const block = new DataView(new ArrayBuffer(512));
    const most = order === 6 ? Number.MAX_SAFE_INTEGER : 2 ** (1 << order) - 1;
    const entries = 4096 >> order;
    const value = (i: number) => i % 3 === 0 ? most : i % 3 === 1 ? 0 : Math.min(most, i);
    for (let i = 0; i < entries; i++) setCount(block, i, order, value(i));
    for (let i = 0; i < entries; i++) assert.equal(getCount(block, i, order), value(i));
  });
}

Deno.test("the first count of a byte is in its lowest bits", () => {
  const block = new DataView(new ArrayBuffer(512));
  setCount(block, 0, 0, 1);
  setCount(block, 9, 0, 1);
  setCount(block, 9, 1, 2);
  assert.deepEqual([...new Uint8Array(block.buffer, 0, 3)], [1, 2, 8]);
});
