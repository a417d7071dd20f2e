/**
 * Broken qcow2 images, made by changing what leads to something: fields of the header, extensions, entries of L1,
 * L2, refcount, snapshot and bitmap tables, counts, streams. Whatever is in an image, opening, reading, writing,
 * closing, checking and repairing it ends with a result or an error of the outside world's kind.
 */
import { checkers } from "../../lib/block/drivers/mod.ts";
import { type TestContext, testContext } from "../../lib/block/drivers/testing.ts";
import { RequestFlag } from "../../lib/block/mod.ts";
import { Journal, type RecordingDisk } from "../crash/journal.ts";
import { Machine } from "../crash/machine.ts";
import type { Reply } from "../crash/pages.ts";
import type { TestDir } from "../harness/dir.ts";
import { Dice } from "../harness/dice.ts";
import { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { ok } from "../harness/tools.ts";

const KIB = 1024;

/** A file with bytes that can be compressed in more than one way. */
const TEXT = "seed.text";

/** Images that are broken: small, so that many cases run. */
const SEEDS: readonly { create: string; size: number; commands: readonly string[] }[] = [
  { create: "cluster_size=4k", size: 512 * KIB, commands: ["write -P 1 0 70k", "write -z 80k 8k"] },
  { create: "cluster_size=512", size: 100 * KIB, commands: ["write -P 1 0 20k", "write 50k 5k"] },
  { create: "cluster_size=64k", size: 1024 * KIB, commands: ["write -c -P 2 0 128k"] },
  {
    create: "cluster_size=64k,compression_type=zstd",
    size: 1024 * KIB,
    commands: ["write -c -P 2 0 128k", "write 192k 1k"],
  },
  {
    create: "cluster_size=16k,extended_l2=on",
    size: 512 * KIB,
    commands: ["write -P 1 1k 20k", "write -z 64k 3k", "write -c -P 2 128k 16k"],
  },
  {
    create: "compat=0.10,cluster_size=2k",
    size: 256 * KIB,
    commands: ["write -P 1 0 30k", "write -c -P 3 64k 2k"],
  },
  {
    create: "cluster_size=1k,refcount_bits=1",
    size: 128 * KIB,
    commands: ["write -P 1 0 12k"],
  },
  {
    create: "cluster_size=4k,refcount_bits=64,lazy_refcounts=on",
    size: 512 * KIB,
    commands: ["write -P 1 0 70k", "discard 8k 8k"],
  },
  // For replies from the page cache.
  { create: "cluster_size=64k", size: 1024 * KIB, commands: ["write -P 5 0 600k"] },
  {
    create: "cluster_size=8k,compression_type=zstd",
    size: 512 * KIB,
    commands: [`write -s ${TEXT} 0 64k`, `write -c -s ${TEXT} 64k 64k`, "write -c -P 1 128k 8k"],
  },
];

/** Makes the images; every other one with snapshots and bitmaps. */
export async function seedImages(dir: TestDir): Promise<Uint8Array[]> {
  const images: Uint8Array[] = [];
  const text = new Uint8Array(128 * KIB).map((_, at) => (at * at) >> (at >> 12) % 17);
  Deno.writeFileSync(dir.file(TEXT), text);
  for (const { create, size, commands } of SEEDS) {
    const path = dir.file("seed.qcow2");
    await ok("qemu-img", ["create", "-q", "-f", "qcow2", "-o", create, path, String(size)]);
    const placed = commands.map((command) => command.replace(TEXT, dir.file(TEXT)));
    const io = ["-f", "qcow2", ...placed.flatMap((command) => ["-c", command]), path];
    await ok("qemu-io", io);
    images.push(Deno.readFileSync(path));
    if (create.includes("refcount_bits=1")) continue;
    await ok("qemu-img", ["snapshot", "-c", "one", path]);
    await ok("qemu-io", ["-f", "qcow2", "-c", "write -P 7 4k 8k", path]);
    await ok("qemu-img", ["snapshot", "-c", "two", path]);
    if (!create.includes("compat=0.10")) {
      await ok("qemu-img", ["bitmap", "--add", path, "first"]);
      await ok("qemu-img", ["bitmap", "--add", "-g", "512", path, "second"]);
    }
    images.push(Deno.readFileSync(path));
  }
  return images;
}

/** A place in an image that means something: offset, and bytes there. */
interface Field {
  readonly name: string;
  readonly at: number;
  readonly length: 1 | 2 | 4 | 8;
}

const HEADER_FIELDS: readonly (readonly [number, 1 | 2 | 4 | 8])[] = [
  [4, 4],
  [8, 8],
  [16, 4],
  [20, 4],
  [24, 8],
  [32, 4],
  [36, 4],
  [40, 8],
  [48, 8],
  [56, 4],
  [60, 4],
  [64, 8],
  [72, 8],
  [80, 8],
  [88, 8],
  [96, 4],
  [100, 4],
  [104, 1],
];

/** All fields of a sound image, by kind: each kind is as likely as any other. */
export function fieldsOf(bytes: Uint8Array): Field[][] {
  const image = new Qcow2Bytes(bytes);
  const { clusterSize, l2EntrySize } = image;
  const kinds: Field[][] = [];
  const add = (name: string, places: readonly (readonly [number, 1 | 2 | 4 | 8])[]) => {
    if (places.length > 0) kinds.push(places.map(([at, length]) => ({ name, at, length })));
  };
  const words = (at: number, length: number, size: 4 | 8 = 8) =>
    Array.from({ length: Math.floor(length / size) }, (_, i) => [at + i * size, size] as const);
  const plain = (entry: bigint) => Number(entry & 0x00fffffffffffe00n);
  add("header", HEADER_FIELDS.filter(([at]) => at < image.headerLength));
  add("extension", words(image.headerLength, Math.min(400, clusterSize - image.headerLength), 4));
  add("L1 entry", words(image.l1Offset, image.l1Length * 8));
  const tables = words(image.l1Offset, image.l1Length * 8).map(([at]) => plain(image.u64(at)))
    .filter((at) => at !== 0);
  const used = tables.flatMap((table) =>
    words(table, clusterSize).filter(([at]) => l2EntrySize === 16 || image.u64(at) !== 0n)
      .slice(0, 64)
  );
  add("L2 entry", used);
  add("L2 entry", used);
  add("refcount table entry", words(image.refcountTableOffset, 64));
  const block = plain(image.u64(image.refcountTableOffset));
  add("refcount", words(block, Math.min(clusterSize, 512)));
  const snapshots = image.snapshots();
  if (snapshots.length > 0) {
    add("snapshot table", words(snapshots.offset, snapshots.length, 4));
    add(
      "snapshot's L1 entry",
      snapshots.entries.flatMap((one) => words(one.l1Offset, one.l1Length * 8)),
    );
  }
  const bitmaps = image.bitmaps();
  if (bitmaps !== undefined) {
    add("bitmap directory", words(bitmaps.offset, bitmaps.length, 4));
    add(
      "bitmap table entry",
      bitmaps.entries.flatMap((one) => words(one.tableOffset, one.tableLength * 8)),
    );
  }
  const streams = used.map(([at]) => image.u64(at))
    .filter((entry) => (entry & 1n << 62n) !== 0n)
    .map((entry) => image.compressedRange(entry));
  add("stream", streams.flatMap(({ at, length }) => words(at, Math.min(length, 64), 4)));
  return kinds;
}

const EDGES = [
  0n,
  1n,
  2n,
  7n,
  9n,
  21n,
  22n,
  31n,
  63n,
  64n,
  511n,
  512n,
  4096n,
  65535n,
  65536n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  (1n << 53n) - 1n,
  1n << 53n,
  (1n << 56n) - 512n,
  1n << 56n,
  1n << 62n,
  1n << 63n,
  (1n << 63n) | 512n,
  (1n << 64n) - 1n,
];

/** Another value for a field: an edge, a bit more or less, a place where something else lies. */
function otherValue(old: bigint, length: number, bytes: Uint8Array, dice: Dice): bigint {
  const mask = (1n << BigInt(length * 8)) - 1n;
  const cluster = 512n << BigInt(dice.below(8));
  const random = BigInt(dice.below(2 ** 32)) << 32n | BigInt(dice.below(2 ** 32));
  switch (dice.below(7)) {
    case 0:
      return dice.pick(EDGES) & mask;
    case 1:
      return old ^ 1n << BigInt(dice.below(length * 8));
    case 2:
      return (old + BigInt(dice.below(5) - 2)) & mask;
    case 3:
      return (old + cluster * BigInt(dice.below(5) - 2)) & mask;
    case 4: {
      const where = BigInt(dice.below(bytes.length)) & ~(cluster - 1n);
      return (where | (dice.below(2) === 0 ? 1n << 63n : 0n)) & mask;
    }
    case 5: {
      const flags = BigInt(dice.below(4)) << 62n;
      return ((random & 0x00ffffffffffffffn) | flags) & mask;
    }
    default:
      return random & mask;
  }
}

/** Breaks a copy of an image in some places; says which. */
export function breakImage(sound: Uint8Array, dice: Dice): { bytes: Uint8Array; how: string } {
  let bytes = sound.slice();
  const view = new DataView(bytes.buffer);
  const kinds = fieldsOf(sound);
  const how: string[] = [];
  for (let left = 1 + dice.below(4); left > 0; left--) {
    const { name, at, length } = dice.pick(dice.pick(kinds));
    if (at + length > bytes.length) continue;
    const old = length === 8
      ? view.getBigUint64(at)
      : BigInt(length === 4 ? view.getUint32(at) : view.getUint8(at));
    const value = otherValue(old, length, bytes, dice);
    if (length === 8) view.setBigUint64(at, value);
    else if (length === 4) view.setUint32(at, Number(value));
    else view.setUint8(at, Number(value));
    how.push(`${name} at ${at}: 0x${value.toString(16)}`);
  }
  if (dice.below(20) === 0) {
    bytes = bytes.slice(0, dice.below(bytes.length));
    how.push(`cut off at ${bytes.length}`);
  }
  return { bytes, how: how.join(", ") };
}

/** Errors that the outside world causes; any other is a mistake of ours. */
function expected(error: unknown): boolean {
  const { name } = error as Error;
  return name === "BlockError" || name === "CommandError";
}

/** What only mistakes of ours say. */
const OURS = /TypeError|RangeError|Assertion|undefined|not a function/;

/** Most bytes that an image may grow to: a disk that is full. */
const ROOM = 64 * 1024 * KIB;

/** Uses a broken image in every way. Throws what should not have happened. */
export async function useImage(
  bytes: Uint8Array,
  dice: Dice,
  context: TestContext,
): Promise<void> {
  const disk = new Journal().disk(bytes, dice);
  disk.room = ROOM;
  const readOnly = dice.below(4) === 0;
  await attempt(async () => {
    const machine = await Machine.open({ file: disk }, { "read-only": readOnly }, context);
    const replies: Reply[] = [];
    try {
      for (let i = 0; i < 10; i++) {
        await attempt(() => request(machine, dice, readOnly, replies));
        if (dice.below(4) === 0) await attempt(async () => await machine.backend.flush());
        if (dice.below(4) === 0) replies.shift()?.take();
      }
      if (!readOnly && dice.below(4) === 0) {
        await attempt(() => machine.resize(dice.below(2048) * 512));
      }
      await attempt(async () => await machine.backend.flush());
    } finally {
      await machine.close();
    }
    const mistake = machine.messages.find((message) => OURS.test(message));
    if (mistake !== undefined) throw new Error(`logged: ${mistake}`);
  });
  await checkImage(disk, dice, context);
}

async function attempt(act: () => Promise<unknown>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (!expected(error)) throw error;
  }
}

async function request(
  machine: Machine,
  dice: Dice,
  readOnly: boolean,
  replies: Reply[],
): Promise<void> {
  const { size } = machine.backend;
  if (size === 0) return;
  const at = Math.floor(dice.below(Math.min(size, 2 ** 31)) / 512) * 512;
  const start = dice.below(2) === 0 ? at % Math.min(size, 128 * KIB) : at;
  const large = dice.below(3) === 0;
  const length = Math.min(size - start, 512 * (1 + dice.below(large ? 512 : 100)));
  if (length <= 0) return;
  const kind = readOnly ? dice.below(2) * 6 : dice.below(9);
  switch (kind) {
    case 0:
    case 1:
      return void await machine.read(start, length);
    case 2:
    case 3:
      return await machine.write(start, new Uint8Array(length).fill(dice.below(256)));
    case 4:
      return await machine.backend.writeZeroes(start, length, RequestFlag.mayUnmap);
    case 5:
      return await machine.backend.discard(start, length);
    default: {
      const reply = machine.send(start, length);
      if (reply !== undefined) replies.push(reply);
    }
  }
}

/** Check, and sometimes repair, without opening the image. */
async function checkImage(
  disk: RecordingDisk,
  dice: Dice,
  shared: TestContext,
): Promise<void> {
  const checker = checkers.get("qcow2")!;
  const fix = dice.pick(["none", "leaks", "all"] as const);
  await attempt(() =>
    Machine.onFile(disk, async (context, node) => {
      const image = await checker.open(context, node);
      await image.check({ fix });
    }, shared)
  );
}

/** Runs cases [first, first + count); `onCase` is told each number. Throws with the case that went wrong. */
export async function fuzzImages(
  images: readonly Uint8Array[],
  first: number,
  count: number,
  onCase: (number: number, milliseconds: number) => void = () => {},
): Promise<void> {
  const context = testContext();
  for (let number = first; number < first + count; number++) {
    const dice = new Dice(number * 2654435761);
    const { bytes, how } = breakImage(images[number % images.length]!, dice);
    const started = performance.now();
    try {
      await useImage(bytes, dice, context);
    } catch (error) {
      throw new Error(`case ${number} (${how})`, { cause: error });
    }
    onCase(number, performance.now() - started);
  }
  context.end();
}
