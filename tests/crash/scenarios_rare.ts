/** What happens to images seldom, or to few of them, while the power is cut. */
import { bitmapCommands } from "../../lib/block/bitmaps/mod.ts";
import { RequestFlag } from "../../lib/block/mod.ts";
import type { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { NODE } from "./machine.ts";
import { mix } from "./mix.ts";
import type { Guest, Scenario } from "./power.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** The image was not closed: it is marked dirty, and the last clusters are not counted yet, or no more. */
function notClosed(image: Qcow2Bytes): void {
  const { bytes, view } = image;
  bytes[79]! |= 1;
  const block = Number(image.u64(image.refcountTableOffset));
  const clusters = Math.ceil(bytes.length / image.clusterSize);
  for (let cluster = Math.floor(clusters / 2); cluster < clusters; cluster++) {
    view.setUint16(block + cluster * 2, 0);
  }
  for (let cluster = clusters; cluster < clusters + 40; cluster++) {
    view.setUint16(block + cluster * 2, 1);
  }
}

/** Whole clusters of streams among plain writes, zeroes and discards. */
async function compressed(guest: Guest, cluster: number): Promise<void> {
  for (let round = 0; round < 14; round++) {
    await guest.together(3, cluster, (at) => {
      const offset = Math.floor(at / cluster) * cluster;
      return offset === at
        ? guest.write(offset, cluster, RequestFlag.writeCompressed)
        : Promise.resolve();
    });
    for (let i = 0; i < 5; i++) {
      const at = guest.dice.below(guest.size / cluster) * cluster;
      await guest.write(at, cluster, RequestFlag.writeCompressed);
    }
    await mix(guest, { rounds: 3, most: 3 * cluster, write: 2, zero: 1, discard: 1 });
  }
}

/** The disk becomes longer with places for what is new, and shorter again. */
async function preallocated(guest: Guest): Promise<void> {
  for (const mode of ["metadata", "falloc", "full", "metadata"] as const) {
    await mix(guest, { rounds: 6, most: 48 * KIB, write: 4, zero: 1, discard: 1 });
    await guest.flush();
    await guest.resize(guest.size + 512 * KIB, mode);
    await mix(guest, { rounds: 6, most: 48 * KIB, write: 4, zero: 1, discard: 1 });
    await guest.flush();
    await guest.resize(guest.size - 384 * KIB);
  }
}

/** Rare scenarios. */
export const rare: readonly Scenario[] = [
  {
    name: "snapshots that are taken and deleted while the guest writes",
    create: "cluster_size=4k",
    size: 2 * MIB,
    async work(guest) {
      for (let round = 0; round < 6; round++) {
        await mix(guest, { rounds: 4, most: 48 * KIB, write: 4, zero: 1, discard: 1 });
        await guest.flush();
        const others = () => guest.together(6, 48 * KIB, (at, length) => guest.write(at, length));
        await Promise.all([others(), guest.snapshot(`s${round}`, true)]);
        if (round > 1) await Promise.all([others(), guest.deleteSnapshot(`s${round - 2}`)]);
      }
    },
  },
  {
    name: "a refcount table that grows while snapshots are taken, clusters of 512 bytes",
    create: "cluster_size=512,refcount_bits=64",
    size: 3 * MIB,
    async work(guest) {
      for (let round = 0; round < 6; round++) {
        for (let at = 0; at < guest.size / 2; at += 128 * KIB) await guest.write(at, 128 * KIB);
        await guest.flush();
        await guest.snapshot(`s${round}`);
        if (round > 2) await guest.deleteSnapshot(`s${round - 3}`);
      }
    },
  },
  ...["cluster_size=4k,lazy_refcounts=on", "cluster_size=4k"].map(
    (create): Scenario => ({
      name: `an image that was not closed is repaired when it is opened, ${create}`,
      create,
      size: MIB,
      original: MIB,
      spoil: notClosed,
      work: (guest) => mix(guest, { rounds: 12, most: 48 * KIB, write: 3, zero: 1, discard: 2 }),
    }),
  ),
  {
    name: "discarded clusters that keep their places",
    create: "cluster_size=4k",
    size: 2 * MIB,
    options: { "discard-no-unref": true },
    work: (guest) => mix(guest, { rounds: 80, most: 64 * KIB, write: 3, zero: 1, discard: 3 }),
  },
  {
    name: "discarded clusters that keep their places, with subclusters over a backing file",
    create: "extended_l2=on,cluster_size=16k",
    size: 2 * MIB,
    backing: 2 * MIB,
    options: { "discard-no-unref": true },
    work: (guest) => mix(guest, { rounds: 60, most: 64 * KIB, write: 3, zero: 1, discard: 3 }),
  },
  ...([
    ["cluster_size=4k", 4 * KIB],
    ["extended_l2=on,cluster_size=16k,compression_type=zstd", 16 * KIB],
    ["compat=0.10,cluster_size=2k", 2 * KIB],
  ] as const).map(
    ([create, cluster]): Scenario => ({
      name: `compressed clusters, written over and discarded, ${create}`,
      create,
      size: MIB,
      work: (guest) => compressed(guest, cluster),
    }),
  ),
  ...["data_file_raw=on,cluster_size=4k", "cluster_size=16k,extended_l2=on"].map(
    (create): Scenario => ({
      name: `an external data file whose disk grows and shrinks, ${create}`,
      create,
      size: MIB,
      dataFile: true,
      async work(guest) {
        for (let round = 0; round < 8; round++) {
          await mix(guest, { rounds: 5, most: 48 * KIB, write: 4, zero: 1, discard: 1 });
          await guest.flush();
          await guest.resize((8 + guest.dice.below(30)) * 64 * KIB);
        }
      },
    }),
  ),
  ...["cluster_size=4k", "cluster_size=16k,extended_l2=on", "compat=0.10,cluster_size=2k"].map(
    (create): Scenario => ({
      name: `growing with places for what is new, ${create}`,
      create,
      size: MIB,
      work: preallocated,
    }),
  ),
  {
    name: "options that change while it is open: counts now late, now at once",
    create: "cluster_size=4k",
    size: 2 * MIB,
    async work(guest) {
      for (let round = 0; round < 8; round++) {
        const lazy = round % 2 === 0;
        await guest.machine.reopen({ "lazy-refcounts": lazy, "l2-cache-size": (8 << round) * KIB });
        await mix(guest, { rounds: 8, most: 48 * KIB, write: 4, zero: 1, discard: 2 });
      }
    },
  },
  {
    name: "bitmaps of which the last one goes, too",
    // Their extension is in two sectors.
    create: "cluster_size=64k",
    size: MIB,
    bitmaps: ["a", "b"],
    async work(guest) {
      const remove = bitmapCommands(guest.machine.graph)["block-dirty-bitmap-remove"];
      await mix(guest, { rounds: 3, most: 32 * KIB, write: 1 });
      for (const name of ["a", "b"]) await remove({ node: NODE, name });
      await mix(guest, { rounds: 3, most: 32 * KIB, write: 1 });
    },
  },
  {
    name: "another name of the backing file, of another length each time",
    create: "cluster_size=4k",
    size: MIB,
    backing: MIB,
    async work(guest) {
      for (let round = 0; round < 12; round++) {
        await mix(guest, { rounds: 2, most: 32 * KIB, write: 4 });
        const blanks = " ".repeat(guest.dice.below(900));
        await guest.machine.changeBackingFile(`json:{"driver":"null-co"${blanks}}`);
      }
    },
  },
  {
    name: "an image with subclusters is made, and all of its places",
    create: { "cluster-size": 16 * KIB, "extended-l2": true, preallocation: "full" },
    size: 2 * MIB,
    work: (guest) => mix(guest, { rounds: 20, most: 48 * KIB, write: 3, zero: 1 }),
  },
];
