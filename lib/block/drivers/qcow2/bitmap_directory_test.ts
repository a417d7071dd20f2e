import assert from "node:assert/strict";
import { BlockError } from "../../../base/mod.ts";
import {
  type DirectoryEntry,
  parseDirectory,
  serialiseDirectory,
  tableEntries,
} from "./bitmap_directory.ts";

const SIZE = 1 << 30;
const CLUSTER = 65536;
const entry = (name: string, more: Partial<DirectoryEntry> = {}): DirectoryEntry => ({
  name,
  nameBytes: new TextEncoder().encode(name),
  granularity: 65536,
  inUse: false,
  auto: true,
  tableOffset: 3 * CLUSTER,
  tableSize: 1,
  ...more,
});
const parse = (bytes: Uint8Array, count = 1) => parseDirectory(bytes, count, SIZE, CLUSTER);

Deno.test("a directory survives being written and read, whatever the names", () => {
  const entries = [
    entry("a"),
    entry("12345678", { inUse: true, auto: false, tableSize: 7 }),
    entry("ä".repeat(500), { granularity: 512, tableSize: 4, tableOffset: 2 ** 52 }),
    entry("big", { granularity: 2 ** 31 }),
  ];
  const bytes = serialiseDirectory(entries);
  assert.equal(bytes.length % 8, 0);
  assert.deepEqual(parse(bytes, 4), entries);
  assert.deepEqual(parse(new Uint8Array(0), 0), []);
});

Deno.test("tables are as long as the bits need", () => {
  assert.equal(tableEntries(0, 512, 512), 0);
  assert.equal(tableEntries(1, 512, 512), 1);
  assert.equal(tableEntries(512 * 8 * 512, 512, 512), 1);
  assert.equal(tableEntries(512 * 8 * 512 + 1, 512, 512), 2);
});

/** What is changed of a good entry's bytes, and what is said then. */
const wrong: readonly [string, (view: DataView) => void][] = [
  ["no table", (view) => view.setUint32(4, 0)],
  ["an unaligned table", (view) => view.setUint32(4, 3 * CLUSTER + 512)],
  ["a table beyond what a number holds", (view) => view.setUint32(0, 1 << 21)],
  ["a table of no entries", (view) => view.setUint32(8, 0)],
  ["a table of too many entries", (view) => view.setUint32(8, 0x8000001)],
  ["a table for another length", (view) => view.setUint32(8, 2)],
  ["an unknown flag", (view) => view.setUint32(12, 8)],
  ["another type", (view) => view.setUint8(16, 2)],
  ["too small granules", (view) => view.setUint8(17, 8)],
  ["too large granules", (view) => view.setUint8(17, 32)],
  ["no name", (view) => view.setUint16(18, 0)],
];
for (const [what, change] of wrong) {
  Deno.test(`a directory's entry with ${what} is refused`, () => {
    const bytes = serialiseDirectory([entry("name")]);
    change(new DataView(bytes.buffer));
    assert.throws(
      () => parse(bytes),
      (error) =>
        error instanceof BlockError && error.errno === "EINVAL" &&
        /^Bitmap '(name)?' doesn't satisfy the constraints|Broken bitmap directory$/
          .test(error.message),
    );
  });
}

Deno.test("a directory of another length than the header says is refused", () => {
  const bytes = serialiseDirectory([entry("a"), entry("b")]);
  const said = (part: Uint8Array, count: number) => {
    try {
      parse(part, count);
      return "parsed";
    } catch (error) {
      assert.ok(error instanceof BlockError);
      return error.message;
    }
  };
  assert.equal(said(bytes, 1), "More bitmaps found than specified in header extension");
  assert.equal(said(bytes, 3), "Less bitmaps found than specified in header extension");
  assert.equal(said(bytes.subarray(0, 40), 2), "Broken bitmap directory");
  new DataView(bytes.buffer).setUint32(20, 8);
  assert.match(said(bytes, 2), /Bitmap extra data is not supported|Broken bitmap directory/);
});

Deno.test("any bytes are read or refused, never anything else", () => {
  let state = 5;
  const random = (n: number) => (state = (state * 75 + 74) % 65537) % n;
  const good = serialiseDirectory([entry("a"), entry("bcdefghij"), entry("k".repeat(1023))]);
  for (let i = 0; i < 5000; i++) {
    const bytes = good.slice(0, random(4) === 0 ? random(good.length + 1) : good.length);
    for (let n = random(4); n >= 0 && bytes.length > 0; n--) {
      bytes[random(bytes.length)] = random(256);
    }
    try {
      parse(bytes, random(5));
    } catch (error) {
      assert.ok(error instanceof BlockError, String(error));
    }
  }
});
