import assert from "node:assert/strict";
import { chance } from "../../../base/mod.ts";
import { ClusterSet } from "./cluster_set.ts";

function clusters(set: ClusterSet): number[] {
  return [...set.take()].flatMap(({ first, count }) =>
    Array.from({ length: count }, (_, i) => first + i)
  );
}

Deno.test("clusters come back once each, in order, wherever they lie and however often they were added", () => {
  const below = chance(7);
  for (const [count, limit] of [[1, 2 ** 40], [300, 70_000], [20_000, 200_000], [900, 2 ** 44]]) {
    const set = new ClusterSet();
    const want = new Set<number>();
    for (let i = 0; i < count!; i++) {
      let cluster = below(2 ** 20) * Math.ceil(limit! / 2 ** 20) % limit!;
      for (let run = below(4); run >= 0; run--) {
        want.add(cluster);
        set.add(cluster++);
      }
    }
    assert.deepEqual(clusters(set), [...want].sort((a, b) => a - b));
    assert.deepEqual(clusters(set), [], "all were taken out");
  }
});

Deno.test("neighbours are one run, up to where a part ends", () => {
  const set = new ClusterSet();
  for (let cluster = 65_000; cluster < 70_000; cluster++) set.add(cluster);
  set.add(80_000);
  assert.deepEqual([...set.take()], [
    { first: 65_000, count: 536 },
    { first: 65_536, count: 4464 },
    { first: 80_000, count: 1 },
  ]);
});

Deno.test("a terabyte's clusters of 64 KiB take two MiB, in whatever order they come", () => {
  const set = new ClusterSet();
  const count = 2 ** 24;
  for (let i = 0; i < count; i++) set.add(i * 7919 % count);
  assert.ok(set.bytes <= 2 ** 21, `${set.bytes} bytes`);
  let found = 0;
  for (const run of set.take()) found += run.count;
  assert.equal(found, count);
  assert.equal(set.bytes, 0);
});
