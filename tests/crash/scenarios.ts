/** What happens to images while the power is cut. */
import { bitmapCommands } from "../../lib/block/bitmaps/mod.ts";
import { mix } from "./mix.ts";
import type { Guest, Scenario } from "./power.ts";
import { rare } from "./scenarios_rare.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** Caches that are too small for the work: what is dirty is written without being asked for, too. */
const TIGHT = {
  "l2-cache-size": 2 * KIB,
  "l2-cache-entry-size": 512,
  "refcount-cache-size": 16 * KIB,
};

/** Snapshots between writes, at most three at a time. */
async function takeAndRemove(guest: Guest, replies = 0): Promise<void> {
  const taken: string[] = [];
  for (let round = 0; round < 8; round++) {
    await mix(guest, { rounds: 5, most: 48 * KIB, write: 4, zero: 1, discard: 1, replies });
    await guest.flush();
    if (taken.length === 3 || (taken.length > 0 && guest.dice.below(3) === 0)) {
      const [name] = taken.splice(guest.dice.below(taken.length), 1);
      // The disk may be made what it was before.
      if (guest.dice.below(2) === 0) await guest.applySnapshot(name!);
      await guest.deleteSnapshot(name!);
    } else {
      taken.push(`s${round}`);
      await guest.snapshot(`s${round}`);
    }
  }
}

/** Snapshots of a full disk are taken, written over, and deleted, which takes many turns and commits. */
async function deleteLarge(guest: Guest): Promise<void> {
  const fill = async (from: number, to: number) => {
    for (let at = from; at < to; at += 256 * KIB) {
      await guest.write(at, Math.min(256 * KIB, to - at));
    }
    await guest.flush();
  };
  const { size } = guest;
  await fill(0, size);
  await guest.snapshot("first");
  await fill(size / 4, size / 2);
  await guest.snapshot("second");
  await fill(0, size / 3 - size / 3 % 512);
  await guest.deleteSnapshot("first");
  await mix(guest, { rounds: 6, most: 32 * KIB, write: 2, discard: 1 });
  await guest.flush();
  await guest.deleteSnapshot("second");
}

/** Every scenario. */
export const scenarios: readonly Scenario[] = [
  {
    name: "random writes, copied on write from a backing file",
    create: "cluster_size=8k",
    size: 3 * MIB,
    backing: 2 * MIB + 1536,
    work: (guest) => mix(guest, { rounds: 60, most: 40 * KIB, write: 1 }),
  },
  {
    name: "writes, zeroes and discards",
    create: "cluster_size=4k",
    size: 2 * MIB,
    work: (guest) => mix(guest, { rounds: 80, most: 64 * KIB, write: 3, zero: 1, discard: 2 }),
  },
  {
    name: "clusters that are used again and again, with small caches",
    create: "cluster_size=1k",
    size: MIB,
    options: TIGHT,
    work: (guest) => mix(guest, { rounds: 150, most: 96 * KIB, write: 3, zero: 1, discard: 3 }),
  },
  {
    name: "random writes with small caches",
    create: "cluster_size=2k",
    size: 8 * MIB,
    backing: 8 * MIB,
    options: TIGHT,
    work: (guest) => mix(guest, { rounds: 120, most: 24 * KIB, write: 6, zero: 1, discard: 1 }),
  },
  {
    name: "zeroes and discards over a backing file",
    create: "cluster_size=4k",
    size: 2 * MIB,
    backing: 2 * MIB,
    work: (guest) => mix(guest, { rounds: 80, most: 64 * KIB, write: 2, zero: 1, discard: 1 }),
  },
  {
    name: "sequential writes that allocate",
    create: "cluster_size=4k",
    size: 6 * MIB,
    async work(guest) {
      const step = 48 * KIB;
      for (let at = 0; at + 4 * step <= guest.size; at += 4 * step) {
        await Promise.all([0, 1, 2, 3].map((i) => guest.write(at + i * step, step)));
        if (guest.dice.below(4) === 0) await guest.flush();
      }
    },
  },
  {
    name: "lazy refcounts",
    create: "cluster_size=4k,lazy_refcounts=on",
    size: 2 * MIB,
    work: (guest) => mix(guest, { rounds: 60, most: 48 * KIB, write: 3, zero: 1, discard: 1 }),
  },
  {
    name: "a refcount table that grows, with clusters of 512 bytes",
    create: "cluster_size=512,refcount_bits=64",
    size: 6 * MIB,
    async work(guest) {
      for (let at = 0; at + 64 * KIB <= guest.size; at += 64 * KIB) {
        await Promise.all([guest.write(at, 40 * KIB), guest.write(at + 40 * KIB, 24 * KIB)]);
        if (guest.dice.below(3) === 0) await guest.flush();
      }
    },
  },
  {
    name: "refcounts of one bit",
    create: "cluster_size=1k,refcount_bits=1",
    size: 2 * MIB,
    work: (guest) => mix(guest, { rounds: 60, most: 32 * KIB, write: 3, zero: 1, discard: 2 }),
  },
  {
    name: "version 2",
    create: "compat=0.10,cluster_size=4k",
    size: 2 * MIB,
    backing: MIB,
    work: (guest) => mix(guest, { rounds: 60, most: 48 * KIB, write: 4, zero: 1, discard: 1 }),
  },
  {
    name: "subclusters over a backing file",
    create: "extended_l2=on,cluster_size=16k",
    size: 3 * MIB,
    backing: 3 * MIB,
    work: (guest) => mix(guest, { rounds: 70, most: 40 * KIB, write: 4, zero: 1, discard: 1 }),
  },
  {
    name: "an external data file",
    create: "cluster_size=4k",
    size: 2 * MIB,
    dataFile: true,
    work: (guest) => mix(guest, { rounds: 60, most: 48 * KIB, write: 4, zero: 1, discard: 1 }),
  },
  {
    name: "persistent bitmaps that come and go, and are stored at the end",
    create: "cluster_size=1k",
    size: 2 * MIB,
    bitmaps: ["a", "b"],
    async work(guest) {
      const { graph } = guest.machine;
      const commands = bitmapCommands(graph);
      const node = graph.nodes().find(({ driver }) => driver === "qcow2")!.name;
      const add = commands["block-dirty-bitmap-add"];
      for (let round = 0; round < 5; round++) {
        await mix(guest, { rounds: 6, most: 32 * KIB, write: 1 });
        await guest.flush();
        await add({ node, name: `n${round}`, persistent: true, granularity: 512 << round });
        if (round === 2) await commands["block-dirty-bitmap-remove"]({ node, name: "a" });
      }
    },
  },
  ...[
    "cluster_size=4k",
    "compat=0.10,cluster_size=4k",
    "compat=0.10,cluster_size=512",
    "cluster_size=512,refcount_bits=8",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,lazy_refcounts=on",
  ].map(
    (create): Scenario => ({
      name: `internal snapshots that come and go, ${create}`,
      create,
      size: 2 * MIB,
      work: (guest) => takeAndRemove(guest),
    }),
  ),
  {
    name: "internal snapshots of a full disk are deleted, clusters of 512 bytes",
    create: "cluster_size=512",
    size: 4 * MIB,
    options: TIGHT,
    work: deleteLarge,
  },
  {
    name: "internal snapshots of a full disk are deleted, refcounts of two bits",
    create: "cluster_size=1k,refcount_bits=2",
    size: 6 * MIB,
    work: deleteLarge,
  },
  ...[16, 64, 1].map(
    (bits): Scenario => ({
      name: `an image is made whose L1 table needs many refcount blocks, of ${bits} bits`,
      create: { "cluster-size": 512, "refcount-bits": bits },
      size: 1024 * MIB,
      work: (guest) => mix(guest, { rounds: 15, most: 48 * KIB, write: 1 }),
    }),
  ),
  {
    name: "an image is made with places for all its clusters",
    create: { "cluster-size": 4 * KIB, preallocation: "metadata" },
    size: 12 * MIB,
    work: (guest) => mix(guest, { rounds: 20, most: 48 * KIB, write: 3, zero: 1 }),
  },
  {
    name: "an image grows so that its L1 table needs many refcount blocks",
    create: "cluster_size=512",
    size: MIB,
    async work(guest) {
      await mix(guest, { rounds: 15, most: 48 * KIB, write: 2, discard: 1 });
      await guest.flush();
      await guest.resize(512 * MIB);
      await mix(guest, { rounds: 15, most: 48 * KIB, write: 1 });
    },
  },
  {
    name: "internal snapshots with small caches",
    create: "compat=0.10,cluster_size=1k",
    size: 4 * MIB,
    backing: 4 * MIB,
    options: TIGHT,
    work: (guest) => takeAndRemove(guest),
  },
  {
    name: "replies that are not read, while their clusters are used again",
    create: "cluster_size=4k",
    size: 512 * KIB,
    replies: true,
    work: (guest) =>
      mix(guest, { rounds: 120, most: 48 * KIB, write: 3, zero: 1, discard: 3, replies: 40 }),
  },
  {
    name: "replies that are not read, nothing passed on to the file",
    create: "cluster_size=8k",
    size: MIB,
    options: { "pass-discard-request": false, "pass-discard-snapshot": false },
    replies: true,
    work: (guest) => takeAndRemove(guest, 24),
  },
  {
    name: "replies that are not read, with subclusters, small caches and snapshots",
    create: "extended_l2=on,cluster_size=16k",
    size: MIB,
    options: { ...TIGHT, "pass-discard-other": true },
    replies: true,
    work: (guest) => takeAndRemove(guest, 24),
  },
  {
    name: "replies that are not read, while the disk grows and shrinks",
    create: "cluster_size=4k,lazy_refcounts=on",
    size: MIB,
    replies: true,
    async work(guest) {
      for (let round = 0; round < 10; round++) {
        const often = { rounds: 8, most: 48 * KIB, replies: 24 };
        await mix(guest, { ...often, write: 4, zero: 1, discard: 2 });
        await guest.flush();
        await guest.resize((2 + guest.dice.below(30)) * 128 * 512);
      }
    },
  },
  {
    name: "growing and shrinking",
    create: "cluster_size=1k",
    size: 2 * MIB,
    async work(guest) {
      for (let round = 0; round < 10; round++) {
        await mix(guest, { rounds: 5, most: 48 * KIB, write: 4, zero: 1, discard: 1 });
        await guest.flush();
        await guest.resize((2 + guest.dice.below(60)) * 128 * 512);
      }
    },
  },
  ...rare,
];
