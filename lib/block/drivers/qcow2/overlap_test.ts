import assert from "node:assert/strict";
import type { Image } from "./image.ts";
import { WordTable } from "./metadata.ts";
import { OverlapMap } from "./overlap.ts";
import type { MetadataKind } from "./types.ts";

/** An image with so many L2 tables, one cluster of 64 KiB each, from cluster 100 on. */
function overlapOf(tables: number): OverlapMap {
  const l1 = WordTable.empty(tables);
  for (let i = 0; i < tables; i++) l1.setEntry(i, (1n << 63n) | BigInt((100 + i) * 65536));
  const image = {
    geometry: { clusterSize: 65536 },
    header: { snapshotCount: 0 },
    l1: { table: l1, offset: 3 * 65536, length: tables },
    refcounts: { table: WordTable.empty(8), tableOffset: 65536 },
    options: { overlapCheck: new Set<MetadataKind>(["header", "active L2 table"]) },
    corrupt(message: string): never {
      throw new Error(message);
    },
  } as unknown as Image;
  const overlap = new OverlapMap(image);
  overlap.fill();
  return overlap;
}

for (const tables of [10, 70000]) {
  Deno.test(`writes and allocations over metadata are refused, with ${tables} L2 tables`, () => {
    const overlap = overlapOf(tables);
    const table = (100 + tables - 1) * 65536;
    const refused = /Preventing invalid write on metadata \(overlaps with active L2 table\)/;
    assert.throws(() => overlap.check(table + 512, 512, "data"), refused);
    assert.throws(() => overlap.check(table - 65536 * tables, 65536 * 2, "data"), refused);
    overlap.check(table, 65536, "active L2 table");
    overlap.check(table + 65536, 65536, "data");
    assert.throws(() => overlap.check(0, 512, "data"), /qcow2_header/);
    assert.throws(() => overlap.checkAllocation(100, 1), /invalid allocation/);
    overlap.remove(table, 65536);
    overlap.check(table, 65536, "data");
    overlap.add(table, 65536, "active L2 table");
    assert.throws(() => overlap.check(table, 65536, "data"), refused);
  });
}
