/** A header that could not be written for certain: what is in the file afterwards is one of two, and fits all else. */
import assert from "node:assert/strict";
import { KiB, MiB } from "../../../base/mod.ts";
import { ioError } from "../../testing.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const RUN = 3 * MiB;
const snapshot = { name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n };
const how = { exact: true, preallocation: "off" } as const;

/** What rewrites the header, mostly because a table moves. */
const changes: Readonly<Record<string, (bench: Bench) => Promise<void>>> = {
  "a larger refcount table": async ({ image }) => {
    image.releases.undo(await image.allocate(RUN), RUN);
  },
  "a larger L1 table": async ({ image }) => await image.truncate(64 * MiB, how),
  "a smaller disk": async (bench) => {
    await bench.write(512 * KiB, 128 * KiB, 3);
    await bench.image.truncate(512 * KiB, how);
  },
  "a snapshot": ({ image }) => image.snapshots.create(snapshot),
  "a snapshot that is applied and deleted": async (bench) => {
    const { snapshots } = bench.image;
    await snapshots.create(snapshot);
    await bench.write(128 * KiB, 64 * KiB, 3);
    await snapshots.apply("1");
    await snapshots.delete("1");
  },
};

for (const [what, change] of Object.entries(changes)) {
  for (const lasting of [false, true]) {
    const when = lasting ? "everything fails from some call on" : "one call fails";
    Deno.test(`${what}: ${when}, and the image is in order`, async () => {
      for (let failing = 1;; failing += failing < 12 ? 1 : 17) {
        const disk = await diskOf("-o", "cluster_size=512,refcount_bits=64", "1M");
        const bench = await Bench.open(disk);
        await bench.write(0, 512, 1);
        await bench.backend.flush();
        let calls = 0;
        // When it is the flush, the header is there, and nobody can tell.
        disk.fault = ({ op }) => {
          if (op === "read") return undefined;
          calls++;
          return calls === failing || (lasting && calls > failing) ? ioError() : undefined;
        };
        await change(bench).catch(() => {});
        const over = calls < failing;
        disk.fault = undefined;
        // It takes new blocks of counts, and clusters that were given back.
        await bench.write(256 * KiB, 256 * KiB, 2);
        await bench.backend.flush();
        const { bytes } = disk;
        const header = new DataView(bytes.buffer, bytes.byteOffset);
        assert.deepEqual(
          [Number(header.getBigUint64(40)), Number(header.getBigUint64(48))],
          [bench.image.l1.offset, bench.image.refcounts.tableOffset],
          `call ${failing}`,
        );
        await bench.close();
        // Leaks only where the header may have led to something, or nothing could be given back.
        await check(disk, lasting ? [0, 3] : [0]);
        const again = await Bench.open(disk);
        assert.equal((await again.read(0, 512))[0], 1);
        assert.ok((await again.read(256 * KiB, 256 * KiB)).every((byte) => byte === 2));
        await again.close();
        if (over) {
          assert.ok(failing > 8, `only ${failing - 1} calls`);
          break;
        }
      }
    });
  }
}
