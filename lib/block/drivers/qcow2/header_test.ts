/**
 * Goal: a header is what it says or is refused, in QEMU's words, before anything is allocated by it.
 * Method: golden texts for every field (those of qemu-storage-daemon 7.2), round trips, and seeded changes of bytes:
 * a parser of images may throw BlockError and nothing else.
 */
import assert from "node:assert/strict";
import { BlockError } from "../../../base/mod.ts";
import {
  compressedHigh,
  compressedLength,
  compressedOffset,
  Extension,
  lowWord,
} from "./format.ts";
import { defaultFeatureTable, featureNames, type Header, parseHeader } from "./header.ts";
import { serialiseHeader } from "./header_write.ts";

const CLUSTER = 65536;

/** An image of 1 GiB, version 3. */
const plain: Header = {
  version: 3,
  clusterBits: 16,
  size: 2 ** 30,
  cryptMethod: "none",
  l1Offset: 3 * CLUSTER,
  l1Size: 2,
  refcountTableOffset: CLUSTER,
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
  unknown: [],
};
const old: Header = { ...plain, version: 2, headerLength: 72, laterFields: new Uint8Array() };

type Field = readonly [offset: number, bytes: 1 | 4 | 8, value: bigint];

/** A header with fields overwritten, and extensions in place of its own. */
function image(
  fields: readonly Field[],
  extensions: readonly (readonly [type: number, data: Uint8Array, length?: number])[] = [],
  base: Header = plain,
): Uint8Array {
  const bytes = serialiseHeader(base);
  const view = new DataView(bytes.buffer);
  let at = base.headerLength;
  for (const [type, data, length = data.length] of extensions) {
    view.setUint32(at, type);
    view.setUint32(at + 4, length);
    bytes.set(data, at + 8);
    at += 8 + Math.ceil(data.length / 8) * 8;
  }
  for (const [offset, length, value] of fields) {
    if (length === 1) view.setUint8(offset, Number(value));
    else if (length === 4) view.setUint32(offset, Number(value));
    else view.setBigUint64(offset, value);
  }
  return bytes;
}

/** Fields by name. */
const f = {
  magic: (v: bigint): Field => [0, 4, v],
  version: (v: bigint): Field => [4, 4, v],
  backingOffset: (v: bigint): Field => [8, 8, v],
  backingLength: (v: bigint): Field => [16, 4, v],
  clusterBits: (v: bigint): Field => [20, 4, v],
  size: (v: bigint): Field => [24, 8, v],
  crypt: (v: bigint): Field => [32, 4, v],
  l1Size: (v: bigint): Field => [36, 4, v],
  l1Offset: (v: bigint): Field => [40, 8, v],
  refcountOffset: (v: bigint): Field => [48, 8, v],
  refcountClusters: (v: bigint): Field => [56, 4, v],
  snapshots: (v: bigint): Field => [60, 4, v],
  snapshotsOffset: (v: bigint): Field => [64, 8, v],
  incompatible: (v: bigint): Field => [72, 8, v],
  autoclear: (v: bigint): Field => [88, 8, v],
  refcountOrder: (v: bigint): Field => [96, 4, v],
  headerLength: (v: bigint): Field => [100, 4, v],
  compression: (v: bigint): Field => [104, 1, v],
};

function refuses(bytes: Uint8Array, message: string): void {
  assert.throws(() => parseHeader(bytes), (error) => {
    assert.ok(error instanceof BlockError, String(error));
    assert.equal(error.message, message);
    return true;
  });
}

Deno.test("a field that is out of bounds is refused in QEMU's words", () => {
  const rows: readonly (readonly [readonly Field[], string])[] = [
    [[f.magic(1n)], "Image is not in qcow2 format"],
    [[f.version(1n)], "Unsupported qcow2 version 1"],
    [[f.version(4n)], "Unsupported qcow2 version 4"],
    [[f.clusterBits(8n)], "Unsupported cluster size: 2^8"],
    [[f.clusterBits(22n)], "Unsupported cluster size: 2^22"],
    [[f.clusterBits(0xffffffffn)], "Unsupported cluster size: 2^4294967295"],
    [[f.headerLength(0n)], "qcow2 header too short"],
    [[f.headerLength(96n)], "qcow2 header too short"],
    [[f.headerLength(65544n)], "qcow2 header exceeds cluster size"],
    [[f.crypt(3n)], "Unsupported encryption method 3"],
    [[f.crypt(2n)], "Missing CRYPTO header for crypt method 2"],
    [
      [f.incompatible(1n << 5n)],
      "Unsupported qcow2 feature(s): Unknown incompatible feature: 20",
    ],
    [
      [f.incompatible(1n << 63n)],
      "Unsupported qcow2 feature(s): Unknown incompatible feature: 8000000000000000",
    ],
    [
      [f.incompatible(0x61n)],
      "Unsupported qcow2 feature(s): Unknown incompatible feature: 60",
    ],
    [
      [f.refcountOrder(7n)],
      "Reference count entry width too large; may not exceed 64 bits",
    ],
    [
      [f.refcountOrder(0xffffffffn)],
      "Reference count entry width too large; may not exceed 64 bits",
    ],
    [[f.l1Size(0n)], "L1 table is too small"],
    [[f.l1Size(1n)], "L1 table is too small"],
    [[f.l1Size(0x7fffffffn)], "Active L1 table too large"],
    [[f.l1Size(4n * 1024n * 1024n + 1n)], "Active L1 table too large"],
    [[f.l1Offset(1n)], "Active L1 table offset invalid"],
    [[f.l1Offset(1n << 63n)], "Active L1 table offset invalid"],
    [[f.refcountOffset(1n)], "Reference count table offset invalid"],
    [[f.refcountOffset(1n << 63n)], "Reference count table offset invalid"],
    [[f.refcountClusters(0n)], "Image does not contain a reference count table"],
    [[f.refcountClusters(129n)], "Reference count table too large"],
    [[f.refcountClusters(0xffffffffn)], "Reference count table too large"],
    [[f.snapshots(65537n)], "Snapshot table too large"],
    [[f.snapshots(1n), f.snapshotsOffset(1n)], "Snapshot table offset invalid"],
    [[f.snapshotsOffset(1n)], "Snapshot table offset invalid"],
    [[f.snapshots(1n), f.snapshotsOffset(1n << 63n)], "Snapshot table offset invalid"],
    [[f.size(1n << 63n)], "Image is too big"],
    [[f.size((1n << 64n) - 1n)], "Image is too big"],
    [[f.size(1n << 31n)], "L1 table is too small"],
    [[f.backingOffset(65536n), f.backingLength(3n)], "Backing file name too long"],
    [[f.backingOffset((1n << 64n) - 1n)], "Invalid backing file offset"],
    [[f.backingOffset(1000n), f.backingLength(1024n)], "Backing file name too long"],
    [[f.backingOffset(65530n), f.backingLength(10n)], "Backing file name too long"],
    [[f.compression(1n)], "qcow2: Compression type incompatible feature bit must be set"],
    [
      [f.incompatible(8n)],
      "qcow2: Compression type incompatible feature bit must not be set",
    ],
    [[f.incompatible(8n), f.compression(2n)], "qcow2: unknown compression type: 2"],
    [
      [f.incompatible(8n), f.headerLength(104n)],
      "qcow2: Compression type incompatible feature bit must not be set",
    ],
    [[f.incompatible(16n), f.clusterBits(12n)], "Unsupported subcluster size: 128"],
  ];
  for (const [fields, message] of rows) refuses(image(fields), message);
});

Deno.test("a header with several faults is refused for the one that QEMU names", () => {
  const rows: readonly (readonly [readonly Field[], string])[] = [
    [
      [f.incompatible(32n), f.l1Size(0n)],
      "Unsupported qcow2 feature(s): Unknown incompatible feature: 20",
    ],
    [[f.crypt(3n), f.refcountClusters(0n)], "Image does not contain a reference count table"],
    [[f.snapshots(65537n), f.l1Size(0x7fffffffn)], "Snapshot table too large"],
    [[f.l1Offset(1n), f.l1Size(1n)], "Active L1 table offset invalid"],
    [
      [f.l1Size(1n), f.backingOffset(1000n), f.backingLength(1024n)],
      "L1 table is too small",
    ],
    [[f.incompatible(32n), f.backingOffset(70000n)], "Invalid backing file offset"],
    [[f.refcountOrder(7n), f.compression(2n)], "qcow2: unknown compression type: 2"],
  ];
  for (const [fields, message] of rows) refuses(image(fields), message);
});

Deno.test("a file that ends inside the header is read as if zeroes followed", () => {
  const whole = image([]);
  for (const length of [0, 3]) refuses(whole.slice(0, length), "Image is not in qcow2 format");
  for (const length of [71, 72, 103]) {
    const start = whole.slice(0, length);
    assert.throws(() => parseHeader(start), { message: "qcow2 header too short" });
  }
  for (const length of [104, 111, 112, 600]) {
    assert.equal(parseHeader(whole.slice(0, length)).size, plain.size);
  }
});

/** The bytes of a bitmaps extension. */
function bitmaps(count: number, reserved: number, size: bigint, offset: bigint): Uint8Array {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, count);
  view.setUint32(4, reserved);
  view.setBigUint64(8, size);
  view.setBigUint64(16, offset);
  return bytes;
}
function crypto(offset: bigint, length: bigint): Uint8Array {
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, offset);
  view.setBigUint64(8, length);
  return bytes;
}

Deno.test("an extension that is not well-formed is refused in QEMU's words", () => {
  const consistent = [f.autoclear(1n)];
  const luks = [f.crypt(2n)];
  const x = (length: number) => new Uint8Array(length).fill(120);
  const rows: readonly (readonly [readonly Field[], number, Uint8Array, string, number?])[] = [
    [
      [],
      Extension.backingFormat,
      x(16),
      "ERROR: ext_backing_format: len=16 too large (>=16)",
    ],
    [[], Extension.backingFormat, x(0), "Header extension too large", 70000],
    [[], Extension.backingFormat, x(0), "Header extension too large", 0xffffffff],
    [[], 0x1234, x(0), "Header extension too large", 70000],
    [[], Extension.featureNames, x(0), "Header extension too large", 0x7fffffff],
    [
      [],
      Extension.cryptoHeader,
      x(16),
      "CRYPTO header extension only expected with LUKS encryption method",
    ],
    [luks, Extension.cryptoHeader, x(15), "CRYPTO header extension size 15, but expected size 16"],
    [
      luks,
      Extension.cryptoHeader,
      crypto(1n, 512n),
      "Encryption header offset '1' is not a multiple of cluster size '65536'",
    ],
    [consistent, Extension.bitmaps, x(23), "bitmaps_ext: Invalid extension length"],
    [[], Extension.bitmaps, x(23), "bitmaps_ext: Invalid extension length"],
    [
      consistent,
      Extension.bitmaps,
      bitmaps(1, 1, 32n, 65536n),
      "bitmaps_ext: Reserved field is not zero",
    ],
    [
      consistent,
      Extension.bitmaps,
      bitmaps(0, 0, 32n, 65536n),
      "found bitmaps extension with zero bitmaps",
    ],
    [
      consistent,
      Extension.bitmaps,
      bitmaps(65536, 0, 32n, 65536n),
      "bitmaps_ext: Image has 65536 bitmaps, exceeding the QEMU supported maximum of 65535",
    ],
    [
      consistent,
      Extension.bitmaps,
      bitmaps(1, 0, 32n, 1n),
      "bitmaps_ext: invalid bitmap directory offset",
    ],
    [
      consistent,
      Extension.bitmaps,
      bitmaps(1, 0, 1n << 40n, 65536n),
      "bitmaps_ext: bitmap directory size (1099511627776) exceeds the maximum supported size " +
      "(67107840)",
    ],
    [
      consistent,
      Extension.bitmaps,
      bitmaps(1, 0, 0n, 65536n),
      "Requested bitmap directory size is zero",
    ],
  ];
  for (const [fields, type, data, message, length] of rows) {
    refuses(image(fields, [[type, data, length ?? data.length]]), message);
  }
});

Deno.test("the entry of a compressed cluster spans the sectors of its stream, and no more", () => {
  for (const bits of [9, 12, 16, 21]) {
    for (const [offset, length] of [[0, 512], [512, 512], [512, 1], [700, 324], [700, 325]]) {
      const high = compressedHigh(offset!, length!, bits);
      assert.equal(compressedOffset(high, lowWord(offset!), bits), offset);
      const end = offset! + compressedLength(high, lowWord(offset!), bits);
      assert.equal(end, Math.ceil((offset! + length!) / 512) * 512, `${length} bytes at ${offset}`);
    }
  }
});

Deno.test("features that are not known are called by the names of the image", () => {
  const entry = (bit: number, name: string) => {
    const bytes = new Uint8Array(48);
    bytes[1] = bit;
    bytes.set(new TextEncoder().encode(name), 2);
    return bytes;
  };
  refuses(
    image([f.incompatible(0xc0n)], [[Extension.featureNames, entry(6, "six")]]),
    "Unsupported qcow2 feature(s): six, Unknown incompatible feature: 80",
  );
  refuses(
    image([f.incompatible(0x40n)], [[Extension.featureNames, entry(6, "s".repeat(46))]]),
    `Unsupported qcow2 feature(s): ${"s".repeat(46)}`,
  );
  const names = featureNames(defaultFeatureTable()).map(({ type, bit, name }) => [type, bit, name]);
  assert.deepEqual(names[2], ["incompatible", 2, "external data file"]);
});

Deno.test("bitmaps that a program without knowledge of them left behind are not trusted", () => {
  const there = bitmaps(1, 0, 32n, 65536n);
  const stale = parseHeader(image([], [[Extension.bitmaps, there]]));
  assert.equal(stale.bitmaps, undefined);
  assert.equal(stale.staleBitmaps, true);
  assert.equal(
    parseHeader(image([], [[Extension.bitmaps, there]], old)).staleBitmaps,
    true,
  );
  const fresh = parseHeader(image([f.autoclear(1n)], [[Extension.bitmaps, there]]));
  assert.deepEqual(fresh.bitmaps, { count: 1, directorySize: 32, directoryOffset: 65536 });
});

Deno.test("what is written is read back, what is not known included", () => {
  const headers: readonly Header[] = [
    plain,
    old,
    { ...old, backingFile: "base.img", backingFormat: "raw" },
    { ...plain, backingFile: "änderung.qcow2", backingFormat: "qcow2" },
    { ...plain, backingFile: "b".repeat(1023) },
    {
      ...plain,
      incompatibleFeatures: 12n,
      compressionType: 1,
      dataFile: "data.raw",
      autoclearFeatures: 3n,
      bitmaps: { count: 2, directorySize: 64, directoryOffset: 9 * CLUSTER },
      featureTable: defaultFeatureTable(),
    },
    {
      ...plain,
      headerLength: 128,
      laterFields: Uint8Array.from({ length: 23 }, (_, i) => i),
      unknown: [
        { type: 0x12345678, data: new Uint8Array([1, 2, 3]) },
        { type: 0x12345678, data: new Uint8Array() },
      ],
    },
    { ...plain, headerLength: 104, laterFields: new Uint8Array() },
    { ...plain, cryptMethod: "luks", crypto: { offset: 5 * CLUSTER, length: 2068480 } },
  ];
  for (const header of headers) {
    const bytes = serialiseHeader(header);
    assert.equal(bytes.length, CLUSTER);
    const given = Object.entries(header).filter(([, value]) => value !== undefined);
    const read = Object.entries(parseHeader(bytes)).filter(([, value]) => value !== undefined);
    assert.deepEqual(Object.fromEntries(read), Object.fromEntries(given));
  }
});

Deno.test("a header that does not fit into its cluster is refused when it is written", () => {
  const small = { ...plain, clusterBits: 9, backingFile: "b".repeat(500) };
  assert.throws(() => serialiseHeader(small), { errno: "ENOSPC" });
});

Deno.test("names of features make room for what an image needs", () => {
  const named = { ...plain, clusterBits: 9, size: 0, featureTable: defaultFeatureTable() };
  assert.notEqual(parseHeader(serialiseHeader(named)).featureTable, undefined);
  const small = { ...named, backingFile: "b".repeat(376), backingFormat: "raw" };
  const read = parseHeader(serialiseHeader(small));
  assert.equal(read.backingFile, small.backingFile);
  assert.equal(read.featureTable, undefined);
});

/** Numbers that look random, the same for the same seed. */
function* numbers(seed: number): Generator<number> {
  for (let state = seed >>> 0;;) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state >>> 8;
  }
}

Deno.test("no bytes make the parser do anything but answer or refuse", () => {
  const random = numbers(20221213);
  const next = (below: number) => random.next().value! % below;
  const interesting = [0n, 1n, 0x7fn, 0xffn, 0x7fffffffn, 0xffffffffn, 1n << 53n, (1n << 64n) - 1n];
  const seeds = [
    image([]),
    image([], [], old),
    image([], [[Extension.backingFormat, new Uint8Array(5).fill(114)]]),
    image([f.autoclear(1n)], [[Extension.bitmaps, bitmaps(1, 0, 32n, 65536n)]]),
    image([f.crypt(2n)], [[Extension.cryptoHeader, crypto(65536n, 512n)]]),
    image([f.incompatible(0x40n)], [[Extension.featureNames, defaultFeatureTable()]]),
    image([f.backingOffset(1000n), f.backingLength(20n)]),
  ].map((bytes) => bytes.slice(0, 4096));
  let refused = 0;
  for (let round = 0; round < 4_000; round++) {
    const bytes = seeds[next(seeds.length)]!.slice();
    const view = new DataView(bytes.buffer);
    for (let change = next(4); change >= 0; change--) {
      const at = next(256);
      if (next(2) === 0) bytes[at] = next(256);
      else view.setBigUint64(at, interesting[next(interesting.length)]!);
    }
    const input = next(8) === 0 ? bytes.slice(0, next(300)) : bytes;
    try {
      const header = parseHeader(input);
      const again = serialiseHeader(header);
      // Bitmaps that cannot be trusted are not written again.
      const { staleBitmaps: _dropped, ...kept } = header;
      assert.deepEqual(parseHeader(again), kept);
    } catch (error) {
      assert.ok(error instanceof BlockError, `round ${round}: ${String(error)}`);
      refused++;
    }
  }
  assert.ok(refused > 200 && refused < 4_000, String(refused));
});
