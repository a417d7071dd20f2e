/**
 * What a repair of everything must not do: write to what is no table, put tables where something leads to, or give
 * away what a table led to that cannot be followed. Judged by undoing the damage: all is there again.
 */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { lacks, ok, run } from "../harness/tools.ts";
import { ImageBytes } from "./check_images.ts";
import { ours } from "./check_run.ts";

const CLUSTER = 4096;
const OFFSET = 0x00fffffffffffe00n;
const COPIED = 1n << 63n;
const ignore = lacks("what a repair keeps", "qemu-img", "qemu-io");

/** An image of 4 MiB, two L2 tables and two snapshots. */
async function makeImage(path: string): Promise<Uint8Array> {
  const write = (...commands: string[]) =>
    ok("qemu-io", ["-t", "unsafe", ...commands.flatMap((one) => ["-c", one]), path]);
  await ok("qemu-img", [
    "create",
    "-q",
    "-f",
    "qcow2",
    "-o",
    `cluster_size=${CLUSTER}`,
    path,
    "4M",
  ]);
  await write("write -P 1 0 40k", "write -P 2 3M 20k");
  await ok("qemu-img", ["snapshot", "-c", "first", path]);
  await write("write -P 3 0 20k");
  await ok("qemu-img", ["snapshot", "-c", "second", path]);
  await write("write -P 4 3M 8k", "write -P 0x80 1M 4k", "write -P 0 1028k 4k");
  return Deno.readFileSync(path);
}

/** Where the guest's byte `guest` lies in the file. */
function hostOf(image: ImageBytes, guest: number): number {
  const perTable = CLUSTER / 8 * CLUSTER;
  const table = Number(image.word(image.l1 + 8 * Math.floor(guest / perTable)) & OFFSET);
  return Number(image.word(table + 8 * (guest % perTable / CLUSTER)) & OFFSET);
}

/** The contents of the disk and of its snapshots, and what the original's check says. */
async function judge(path: string, bytes: Uint8Array) {
  Deno.writeFileSync(path, bytes);
  const { status, stderr } = await run("qemu-img", ["check", "-q", path]);
  const contents: string[] = [];
  for (const snapshot of [[], ["-l", "first"], ["-l", "second"]]) {
    await ok("qemu-img", ["convert", "-q", "-O", "raw", ...snapshot, path, `${path}.raw`]);
    const digest = await crypto.subtle.digest("SHA-256", Deno.readFileSync(`${path}.raw`));
    contents.push(new Uint8Array(digest).toHex());
  }
  return { status, stderr, contents };
}

/** What is broken: words of eight bytes, and what they are then. */
const damages: Readonly<Record<string, (image: ImageBytes) => number[]>> = {
  "a snapshot whose L1 table is too large": (image) => [image.snapshots + 8],
  "a snapshot whose L1 table is between clusters": (image) => [image.snapshots],
  "a snapshot whose L1 table is behind the end": (image) => [image.snapshots],
  "a snapshot with very much extra data": (image) => [image.snapshots + 32],
  "an L2 table between clusters": (image) => [image.l1],
  "an L2 table behind the end": (image) => [image.l1 + 8],
};
const bits = [54n, 9n, 40n, 29n, 9n, 40n];

for (const [index, [name, at]] of Object.entries(damages).entries()) {
  for (const also of ["", ", and no counts"]) {
    Deno.test({
      name: `a repair gives away nothing that ${name} leads to${also}`,
      ignore,
      fn: async () => {
        await using dir = TestDir.make();
        const path = dir.file("a.qcow2");
        const whole = await makeImage(path);
        const image = new ImageBytes(whole.slice());
        const flip = (where: ImageBytes) => {
          for (const word of at(where)) where.put(word, where.word(word) ^ 1n << bits[index]!);
        };
        flip(image);
        // Reserved bits in the table of counts: they are written anew.
        if (also !== "") image.put(image.refcountTable, image.word(image.refcountTable) | 1n);
        for (const fix of ["leaks", "all"] as const) {
          const repaired = await ours(image.bytes, fix);
          assert.notEqual(repaired.status, 0, "the damage is still there");
          if (also !== "" && fix === "leaks") continue;
          assert.match(repaired.said, /Leaked clusters are kept|File too large/);
          assert.deepEqual((await ours(repaired.bytes, fix)).bytes, repaired.bytes);
          const undone = new ImageBytes(repaired.bytes);
          flip(undone);
          const { bytes } = await ours(undone.bytes, "all");
          assert.deepEqual(await judge(path, bytes), await judge(path, whole));
        }
      },
    });
  }
}

Deno.test({
  name:
    "a repair that makes the file longer gives away nothing that a table right behind its end led to",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const path = dir.file("a.qcow2");
    const whole = await makeImage(path);
    const image = new ImageBytes(whole.slice());
    const [at, entry] = [image.l1 + 8, image.word(image.l1 + 8)];
    image.put(at, BigInt(Math.ceil(whole.length / CLUSTER) * CLUSTER) | COPIED);
    image.put(image.refcountTable, image.word(image.refcountTable) | 1n);
    const repaired = new ImageBytes((await ours(image.bytes, "all")).bytes);
    assert.ok(repaired.bytes.length > whole.length + CLUSTER);
    repaired.put(at, entry);
    const { bytes } = await ours(repaired.bytes, "all");
    assert.deepEqual(await judge(path, bytes), await judge(path, whole));
    const table = Number(entry & OFFSET) / CLUSTER;
    const counts = Number(repaired.word(repaired.refcountTable) & OFFSET);
    assert.equal(repaired.view.getUint16(counts + 2 * table), 1, "the table's cluster is not free");
  },
});

Deno.test({
  name: "a repair changes no data that a broken entry takes for a table",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const image = new ImageBytes(await makeImage(dir.file("a.qcow2")));
    const data = hostOf(image, 1 << 20);
    image.put(image.l1 + 8, BigInt(data) | COPIED);
    const { bytes, status } = await ours(image.bytes, "all");
    assert.deepEqual(bytes.subarray(data, data + CLUSTER), new Uint8Array(CLUSTER).fill(0x80));
    assert.equal(status, 2);
  },
});

Deno.test({
  name: "a repair changes no data that a broken header takes for the L1 table",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const image = new ImageBytes(await makeImage(dir.file("a.qcow2")));
    const data = hostOf(image, 1 << 20);
    image.put32(36, (data + CLUSTER - image.l1) / 8);
    const { bytes } = await ours(image.bytes, "all");
    assert.deepEqual(bytes.subarray(data, data + CLUSTER), new Uint8Array(CLUSTER).fill(0x80));
  },
});

Deno.test({
  name: "new counts are not where an entry behind the end of the file leads to",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const path = dir.file("a.qcow2");
    const image = new ImageBytes(await makeImage(path));
    const end = Math.ceil(image.bytes.length / CLUSTER) * CLUSTER;
    const table = image.l2Tables()[0]!;
    const behind = [end, end + CLUSTER];
    behind.forEach((offset, i) => image.put(table + 8 * (100 + i), BigInt(offset) | COPIED));
    image.put(image.refcountTable, image.word(image.refcountTable) | 1n);
    const repaired = await ours(image.bytes, "all");
    const after = new ImageBytes(repaired.bytes);
    assert.ok(!behind.includes(after.refcountTable));
    assert.ok(!behind.includes(Number(after.word(after.refcountTable) & OFFSET)));
    assert.deepEqual((await ours(repaired.bytes, "all")).bytes, repaired.bytes);
    Deno.writeFileSync(path, repaired.bytes);
    assert.equal((await run("qemu-img", ["check", path])).status, repaired.status);
  },
});

Deno.test({
  name: "one repair is enough where a snapshot table was in a cluster of data",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const path = dir.file("a.qcow2");
    const image = new ImageBytes(await makeImage(path));
    image.put(64, BigInt(hostOf(image, 1028 << 10)));
    const repaired = await ours(image.bytes, "all");
    assert.equal(repaired.status, 0, repaired.said);
    assert.equal((await ours(repaired.bytes, "none")).status, 0);
    Deno.writeFileSync(path, repaired.bytes);
    await ok("qemu-img", ["check", "-q", path]);
  },
});
