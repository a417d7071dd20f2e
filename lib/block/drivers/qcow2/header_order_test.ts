/** Headers of which only some sectors reach the disk: what is there is the old header, or the new one. */
import assert from "node:assert/strict";
import { SECTOR } from "../../../base/mod.ts";
import { Autoclear } from "./format.ts";
import { defaultFeatureTable, type Header, parseHeader } from "./header.ts";
import { headerWrites } from "./header_order.ts";
import { serialiseHeader } from "./header_write.ts";

const base: Header = {
  version: 3,
  clusterBits: 16,
  size: 1048576,
  cryptMethod: "none",
  l1Offset: 196608,
  l1Size: 1,
  refcountTableOffset: 65536,
  refcountTableClusters: 1,
  snapshotsOffset: 0,
  snapshotCount: 0,
  incompatibleFeatures: 0n,
  compatibleFeatures: 0n,
  autoclearFeatures: 0n,
  refcountOrder: 4,
  compressionType: 0,
  headerLength: 112,
  laterFields: new Uint8Array(7),
  backingFile: undefined,
  backingFormat: undefined,
  dataFile: undefined,
  featureTable: defaultFeatureTable(),
  crypto: undefined,
  bitmaps: undefined,
  unknown: [],
};
const bitmaps = { count: 1, directorySize: 32, directoryOffset: 327680 };
const withBitmaps = { ...base, bitmaps, autoclearFeatures: Autoclear.bitmaps };
const named = (length: number, letter: string) => ({ ...base, backingFile: letter.repeat(length) });

/** Each is followed by the next one. */
const HISTORIES: Readonly<Record<string, readonly Header[]>> = {
  "bitmaps come and go": [base, withBitmaps, base, withBitmaps, {
    ...withBitmaps,
    bitmaps: { ...bitmaps, directoryOffset: 393216, count: 2, directorySize: 64 },
  }],
  "names of all lengths": [1, 900, 1, 1023, 512, 700, 20, 600].map((length, i) =>
    named(length, "abcdefgh"[i]!)
  ),
  "a name comes and goes": [base, named(800, "a"), base, named(10, "b")],
  "fields in the first sector": [named(900, "a"), { ...named(900, "a"), l1Offset: 262144 }],
};

/** What `header` says, in one form. */
const text = (bytes: Uint8Array) => serialiseHeader(parseHeader(bytes)).toHex();

for (const [name, headers] of Object.entries(HISTORIES)) {
  Deno.test(`a header that is torn is the old one or the new one: ${name}`, () => {
    let disk = serialiseHeader(headers[0]!);
    for (const header of headers.slice(1)) {
      const allowed = [text(disk), serialiseHeader(header).toHex()];
      for (const { at, bytes } of headerWrites(disk, header)) {
        // All that can be of a few sectors; the rest is all alike.
        const sectors = Math.min(6, bytes.length / SECTOR);
        for (let mask = 0; mask < 1 << sectors; mask++) {
          const torn = disk.slice();
          for (let i = 0; i < sectors; i++) {
            if ((mask >> i & 1) === 0) continue;
            torn.set(bytes.subarray(i * SECTOR, (i + 1) * SECTOR), at + i * SECTOR);
          }
          assert.ok(allowed.includes(text(torn)), `sectors ${mask.toString(2)} of ${at}`);
        }
        disk = disk.slice();
        disk.set(bytes, at);
      }
      assert.equal(text(disk), allowed[1]);
    }
  });
}

Deno.test("a change of one sector is one write", () => {
  const old = serialiseHeader(named(900, "a"));
  assert.deepEqual(headerWrites(old, { ...named(900, "a"), l1Size: 2 }).map(({ at }) => at), [0]);
});
