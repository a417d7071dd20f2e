/** Goal: the figures are those of qemu-img. Method: the same question to both, over sizes and shapes. */
import assert from "node:assert/strict";
import { measure } from "./measure.ts";

interface Row {
  readonly size: number;
  readonly clusterSize: number;
  readonly refcountBits?: number;
  readonly extendedL2?: boolean;
}

const MiB = 2 ** 20;
const sizes = [0, 512, 65536, MiB, 5 * MiB + 512, 2 ** 30, 37 * 2 ** 30, 2 ** 40, 2 ** 44];
const rows: Row[] = [
  ...sizes.map((size) => ({ size, clusterSize: 65536 })),
  ...sizes.map((size) => ({ size, clusterSize: 2 * MiB })),
  ...sizes.filter((size) => size < 2 ** 37).map((size) => ({ size, clusterSize: 512 })),
  { size: 2 ** 30, clusterSize: 65536, refcountBits: 1 },
  { size: 2 ** 30, clusterSize: 65536, refcountBits: 64 },
  { size: 2 ** 30, clusterSize: 4096, refcountBits: 64 },
  { size: 2 ** 30, clusterSize: 65536, extendedL2: true },
  { size: 2 ** 40 + 512, clusterSize: 16384, extendedL2: true },
];

async function original(row: Row): Promise<{ required: number; fullyAllocated: number }> {
  const options = [`cluster_size=${row.clusterSize}`];
  if (row.refcountBits !== undefined) options.push(`refcount_bits=${row.refcountBits}`);
  if (row.extendedL2 === true) options.push("extended_l2=on");
  const args = ["measure", "-O", "qcow2", "-o", options.join(","), "--output=json"];
  const { stdout, success } = await new Deno.Command("qemu-img", {
    args: [...args, "--size", String(row.size)],
  }).output();
  assert.ok(success);
  const figures = JSON.parse(new TextDecoder().decode(stdout));
  return { required: figures.required, fullyAllocated: figures["fully-allocated"] };
}

Deno.test("an image takes as much room as qemu-img measures", async () => {
  for (const row of rows) {
    const { size, clusterSize, refcountBits = 16, extendedL2 = false } = row;
    const got = measure({ size, clusterSize, refcountBits, extendedL2, data: 0 });
    assert.deepEqual(got, await original(row), JSON.stringify(row));
  }
});
