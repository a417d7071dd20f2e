/**
 * qcow2: which images are opened, what is refused and in which words. Every header of a table of faults, every wrong
 * option, and everything that a header can ask to have opened.
 */
import { type Case, type FileSpec, parity, type Patch, type Step } from "./mould.ts";

const hex = (value: bigint | number, bytes: number) =>
  BigInt(value).toString(16).padStart(bytes * 2, "0");
const u32 = (offset: number, value: number): Patch => [offset, hex(value, 4)];
const u64 = (offset: number, value: bigint | number): Patch => [offset, hex(value, 8)];
const u8 = (offset: number, value: number): Patch => [offset, hex(value, 1)];
const ascii = (text: string) =>
  [...text].map((letter) => letter.charCodeAt(0).toString(16).padStart(2, "0")).join("");

/** Extensions in place of the image's own (version 3, header of 112 bytes). */
function extensions(...list: readonly (readonly [type: number, data: string])[]): Patch {
  const text = list.map(([type, data]) => {
    const length = data.length / 2;
    return hex(type, 4) + hex(length, 4) + data + "00".repeat((8 - length % 8) % 8);
  });
  return [112, text.join("") + "00".repeat(8)];
}
const BACKING_FORMAT = 0xe2792aca;
const DATA_FILE = 0x44415441;
const BITMAPS = 0x23852875;
const CRYPTO = 0x0537be77;
const NAMES = 0x6803f857;
/** A name in the table of features. */
const name = (text: string) => ascii(text) + "00".repeat(46 - text.length);
const bitmaps = (count: number, reserved: number, size: number, offset: number) =>
  hex(count, 4) + hex(reserved, 4) + hex(size, 8) + hex(offset, 8);

/** A header with a backing file's name, and its format. */
function backed(name: string, format?: string): Patch[] {
  const at = 512;
  return [
    extensions(...(format === undefined ? [] : [[BACKING_FORMAT, ascii(format)] as const])),
    u64(8, at),
    u32(16, name.length),
    [at, ascii(name)],
  ];
}
const dataFile = (name: string): Patch[] => [u64(72, 4), extensions([DATA_FILE, ascii(name)])];

const qcow2 = (file: string, more: Record<string, unknown> = {}) => ({
  driver: "qcow2",
  "node-name": "n",
  file: { driver: "file", filename: file },
  ...more,
});
const add = (file: string, more: Record<string, unknown> = {}): Step => ({
  execute: "blockdev-add",
  arguments: qcow2(file, more),
});
const del: Step = { execute: "blockdev-del", arguments: { "node-name": "n" } };
const flat: Step = { execute: "query-named-block-nodes", arguments: { flat: true } };
const deep: Step = { execute: "query-named-block-nodes" };

const create = (name: string, ...args: string[]): FileSpec => ({
  make: ["qemu-img", "create", "-q", "-f", "qcow2", ...args.slice(0, -1), name, args.at(-1)!],
});
const base: Readonly<Record<string, FileSpec>> = {
  "a.qcow2": create("a.qcow2", "1G"),
  "old.qcow2": create("old.qcow2", "-o", "compat=0.10", "1G"),
};

/** One daemon opens all of the images, one after the other. */
function images(
  name: string,
  rows: Readonly<Record<string, readonly Patch[]>>,
  how: { of?: string; more?: Record<string, unknown>; after?: readonly Step[] } = {},
  files: Readonly<Record<string, FileSpec>> = {},
): Case {
  const all: Record<string, FileSpec> = { ...base, ...files };
  const steps: Step[] = [];
  for (const [index, [label, patch]] of Object.entries(rows).entries()) {
    const file = `${index}.qcow2`;
    all[file] = { copy: how.of ?? "a.qcow2", patch };
    steps.push({ label }, add(file, how.more), ...(how.after ?? []), del);
  }
  return { name, files: all, steps, needs: ["qemu-img"], ignoreStderr: true };
}

parity("qcow2: headers", [
  images("fields", {
    magic: [u32(0, 1)],
    "version 1": [u32(4, 1)],
    "version 4": [u32(4, 4)],
    "clusters of 256 bytes": [u32(20, 8)],
    "clusters of 4 MiB": [u32(20, 22)],
    "a shift that is none": [u32(20, 0xffffffff)],
    "a header of 96 bytes": [u32(100, 96)],
    "a header of no bytes": [u32(100, 0)],
    "a header beyond its cluster": [u32(100, 65544)],
    "a header of 104 bytes": [u32(100, 104)],
    "an odd header": [u32(100, 105)],
    "encryption 3": [u32(32, 3)],
    "encryption that is negative": [u32(32, 0xffffffff)],
    "LUKS without its header": [u32(32, 2)],
    "AES without a key": [u32(32, 1)],
    "incompatible bit 5": [u64(72, 32)],
    "incompatible bit 63": [u64(72, 1n << 63n)],
    "dirty and unknown bits": [u64(72, 0x61)],
    "refcounts of 128 bits": [u32(96, 7)],
    "refcounts of many bits": [u32(96, 0xffffffff)],
    "no L1 entries": [u32(36, 0)],
    "too few L1 entries": [u32(36, 1)],
    "huge L1": [u32(36, 0x7fffffff)],
    "L1 too large by one": [u32(36, 4 * 1024 * 1024 + 1)],
    "L1 not aligned": [u64(40, 1)],
    "L1 beyond": [u64(40, 1n << 63n)],
    "refcount table not aligned": [u64(48, 1)],
    "refcount table beyond": [u64(48, 1n << 63n)],
    "no refcount table": [u32(56, 0)],
    "refcount table too large": [u32(56, 129)],
    "huge refcount table": [u32(56, 0xffffffff)],
    "too many snapshots": [u32(60, 65537)],
    "snapshots not aligned": [u32(60, 1), u64(64, 1)],
    "snapshots beyond": [u32(60, 1), u64(64, 1n << 63n)],
    "no length": [u64(24, 0)],
    "a length of 2^63": [u64(24, 1n << 63n)],
    "a length of 2^62": [u64(24, 1n << 62n)],
    "a length of 513": [u64(24, 513)],
    "twice as long": [u64(24, 1n << 31n)],
    "a backing name in the next cluster": [u64(8, 65536), u32(16, 3)],
    "a backing name nowhere": [u64(8, (1n << 64n) - 1n), u32(16, 3)],
    "a backing name of 1024 bytes": [u64(8, 1000), u32(16, 1024)],
    "a backing name across the end": [u64(8, 65530), u32(16, 10)],
    "an empty backing name": [u64(8, 1000), u32(16, 0)],
    "compression without its bit": [u8(104, 1)],
    "the bit without compression": [u64(72, 8)],
    "compression 2": [u64(72, 8), u8(104, 2)],
    "the bit in a short header": [u64(72, 8), u32(100, 104)],
    zstd: [u64(72, 8), u8(104, 1)],
    corrupt: [u64(72, 2)],
    "a data file without a name": [u64(72, 4)],
    "subclusters of 128 bytes": [u64(72, 16), u32(20, 12)],
    "subclusters and too few L1 entries": [u64(72, 16)],
    "raw data without a data file": [u64(88, 2)],
    "unknown autoclear bit": [u64(88, 128)],
    "unknown compatible bit": [u64(80, 128)],
  }),
  images("fields, read-only", {
    corrupt: [u64(72, 2)],
    dirty: [u64(72, 1)],
    "unknown autoclear bit": [u64(88, 128)],
  }, { more: { "read-only": true }, after: [flat] }),
  images("extensions", {
    "a format of 16 bytes": [extensions([BACKING_FORMAT, ascii("x".repeat(16))])],
    "a format of 15 bytes": [extensions([BACKING_FORMAT, ascii("x".repeat(15))])],
    "a format of many bytes": [u32(112, BACKING_FORMAT), u32(116, 0xffffffff)],
    "an unknown one across the end": [u32(112, 0x1234), u32(116, 70000)],
    "a short feature table": [extensions([NAMES, "00".repeat(47)])],
    "a huge feature table": [u32(112, NAMES), u32(116, 0x7fffffff)],
    "a named feature": [
      u64(72, 0xc0),
      extensions([NAMES, "0006" + ascii("six") + "00".repeat(43)]),
    ],
    ...Object.fromEntries(
      Object.entries(
        {
          "names in another order": ["0007" + name("seven") + "0005" + name("five")],
          "a name twice": ["0005" + name("five") + "0005" + name("FIVE")],
          "names behind an empty one": [
            "0007" + name("seven") + "0106" + name("") + "0005" + name("five"),
          ],
          "names behind one of no type": ["0907" + name("seven") + "0005" + name("five")],
          "a long name": ["0005" + name("x".repeat(46))],
          "a name that is cut off": ["0005" + ascii("fiv")],
          "a name that is no UTF-8": ["0005" + "c32841" + "00".repeat(43)],
          "two tables": ["0007" + name("seven"), "0005" + name("five")],
        } as Readonly<Record<string, readonly string[]>>,
      ).map(([label, tables]) => [
        label,
        [u64(72, 0xe0), extensions(...tables.map((table) => [NAMES, table] as const))],
      ]),
    ),
    "LUKS header without LUKS": [extensions([CRYPTO, "00".repeat(16)])],
    "LUKS header of 15 bytes": [u32(32, 2), extensions([CRYPTO, "00".repeat(15)])],
    "LUKS header not aligned": [
      u32(32, 2),
      extensions([CRYPTO, hex(1, 8) + hex(512, 8)]),
    ],
    "LUKS without a key": [u32(32, 2), extensions([CRYPTO, hex(65536, 8) + hex(512, 8)])],
    "bitmaps of 23 bytes": [u64(88, 1), extensions([BITMAPS, "00".repeat(23)])],
    "bitmaps with a reserved field": [u64(88, 1), extensions([BITMAPS, bitmaps(1, 1, 32, 65536)])],
    "no bitmaps": [u64(88, 1), extensions([BITMAPS, bitmaps(0, 0, 32, 65536)])],
    "too many bitmaps": [u64(88, 1), extensions([BITMAPS, bitmaps(65536, 0, 32, 65536)])],
    "bitmaps not aligned": [u64(88, 1), extensions([BITMAPS, bitmaps(1, 0, 32, 1)])],
    "a huge directory": [u64(88, 1), extensions([BITMAPS, bitmaps(1, 0, 2 ** 40, 65536)])],
    "an empty directory": [u64(88, 1), extensions([BITMAPS, bitmaps(1, 0, 0, 65536)])],
    "bitmaps without their bit": [extensions([BITMAPS, bitmaps(1, 0, 32, 65536)])],
    "a data file's name without its bit": [extensions([DATA_FILE, ascii("nothing")])],
  }),
  images("several faults at once", {
    "feature and L1": [u64(72, 32), u32(36, 0)],
    "corrupt and refcounts": [u64(72, 2), u32(96, 7)],
    "encryption and refcount table": [u32(32, 3), u32(56, 0)],
    "snapshots and L1": [u32(60, 65537), u32(36, 0x7fffffff)],
    "L1 and backing name": [u32(36, 1), u64(8, 1000), u32(16, 1024)],
    "feature and backing name": [u64(72, 32), u64(8, 70000)],
    "compression and feature": [u64(72, 32), u8(104, 2)],
    "extension and L1": [u32(36, 1), u32(112, 0x1234), u32(116, 70000)],
    "extension and backing name": [
      u64(8, 1000),
      u32(16, 1024),
      u32(112, 0x1234),
      u32(116, 70000),
    ],
  }),
  images("version 2", {
    "as it is": [],
    "a backing file": [u64(8, 200), u32(16, 3), [200, ascii("abc")]],
    "an extension that is too long": [u32(72, BACKING_FORMAT), u32(76, 99)],
  }, { of: "old.qcow2", after: [flat] }),
  {
    name: "files that end early",
    files: {
      ...base,
      ...Object.fromEntries(
        [0, 3, 71, 72, 103, 104, 111, 112, 600, 65536, 131072].map((
          length,
        ) => [`${length}.qcow2`, { copy: "a.qcow2", length }]),
      ),
    },
    steps: [0, 3, 71, 72, 103, 104, 111, 112, 600, 65536, 131072].flatMap((length) => [
      { label: `${length} bytes` },
      add(`${length}.qcow2`),
      del,
    ]),
    needs: ["qemu-img"],
  },
]);

const option = (more: Record<string, unknown>): Step[] => [add("a.qcow2", more), del];
parity("qcow2: options", [{
  name: "values",
  files: base,
  needs: ["qemu-img"],
  steps: [
    ...option({
      "cache-size": 1 << 20,
      "l2-cache-size": 1 << 20,
      "refcount-cache-size": 1 << 20,
    }),
    ...option({ "cache-size": 1 << 20, "l2-cache-size": 2 << 20 }),
    ...option({ "cache-size": 1 << 20, "refcount-cache-size": 2 << 20 }),
    ...option({ "cache-size": 1 << 20, "refcount-cache-size": 1 << 19 }),
    ...[0, 256, 1000, 512, 65536, 131072].flatMap((size) =>
      option({ "l2-cache-entry-size": size })
    ),
    ...option({ "l2-cache-size": 0 }),
    ...option({ "cache-size": 0 }),
    ...option({ "l2-cache-size": -1 }),
    ...option({ "cache-clean-interval": 4294967296 }),
    ...option({ "cache-clean-interval": 4294967295 }),
    ...option({ "cache-clean-interval": -1 }),
    ...option({ "cache-clean-interval": 0 }),
    ...["none", "constant", "cached", "all", "some"].flatMap((mode) =>
      option({ "overlap-check": mode })
    ),
    ...option({ "overlap-check": { template: "none", "main-header": true } }),
    ...option({ "overlap-check": { "inactive-l2": true } }),
    ...option({ "overlap-check": { template: "some" } }),
    ...option({ "overlap-check": { nothing: true } }),
    ...option({ "lazy-refcounts": true }),
    ...option({ "pass-discard-request": true, "pass-discard-other": true }),
    ...option({ encrypt: { format: "luks", "key-secret": "x" } }),
    ...option({ encrypt: { format: "aes" } }),
    ...option({ encrypt: { format: "none" } }),
    ...option({ backing: "nope" }),
    ...option({ backing: "n" }),
    ...option({ "data-file": { driver: "null-co" } }),
    add("old.qcow2", { "lazy-refcounts": true }),
    { execute: "blockdev-add", arguments: { driver: "qcow2", "node-name": "n" } },
    { execute: "blockdev-add", arguments: qcow2("nothing.qcow2") },
  ],
}]);

const NUL = "json:" + JSON.stringify({ driver: "null-co", size: 1048576 });
const chain: Readonly<Record<string, FileSpec>> = {
  "a.qcow2": create("a.qcow2", "1M"),
  "raw.img": { size: 1048576 },
  folder: { folder: true },
  "folder/base.qcow2": create("folder/base.qcow2", "1M"),
  "base.qcow2": create("base.qcow2", "1M"),
  "mid.qcow2": create("mid.qcow2", "-b", "base.qcow2", "-F", "qcow2", "2M"),
  "top.qcow2": create("top.qcow2", "-b", "mid.qcow2", "-F", "qcow2", "1M"),
  "folder/top.qcow2": create("folder/top.qcow2", "-b", "base.qcow2", "-F", "qcow2", "1M"),
  "data.qcow2": create("data.qcow2", "-o", "data_file=data.raw", "1M"),
  "lost.qcow2": create("lost.qcow2", "-u", "-b", "nothing.qcow2", "-F", "qcow2", "1M"),
};
const inline = (file: string) => ({ driver: "qcow2", file: { driver: "file", filename: file } });

parity("qcow2: backing files", [
  images(
    "names and formats",
    {
      "raw, probed": backed("raw.img"),
      "qcow2, probed": backed("base.qcow2"),
      "an empty format": backed("base.qcow2", ""),
      raw: backed("raw.img", "raw"),
      "qcow2 as raw": backed("base.qcow2", "raw"),
      "raw as qcow2": backed("raw.img", "qcow2"),
      "an unknown format": backed("base.qcow2", "foo"),
      "a protocol as the format": backed("base.qcow2", "file"),
      "no name": backed("", "raw"),
      "no file": backed("nothing", "raw"),
      "a folder": backed("folder", "raw"),
      "below a folder": backed("folder/base.qcow2", "qcow2"),
      "file:": backed("file:base.qcow2", "qcow2"),
      "file:, probed": backed("file:base.qcow2"),
      "an unknown protocol": backed("foo:bar", "raw"),
      "not a protocol": backed("./a:b", "raw"),
      "null-co://": backed("null-co://", "null-co"),
      "raw on null-co://": backed("null-co://", "raw"),
      "a named null-co": backed("null-co://x", "raw"),
      "a device": backed("/dev/null", "raw"),
      "host_device:": backed("host_device:/dev/null", "raw"),
      "lost further down": backed("lost.qcow2", "qcow2"),
      "json: of qcow2": backed(`json:${JSON.stringify(inline("base.qcow2"))}`),
      "json: and a format": backed(`json:${JSON.stringify(inline("base.qcow2"))}`, "qcow2"),
      "json: of a file": backed('json:{"driver":"file","filename":"base.qcow2"}'),
      "json: with dots": backed(
        'json:{"driver":"qcow2","file.driver":"file","file.filename":"base.qcow2"}',
      ),
      "json: without a driver": backed('json:{"file.filename":"base.qcow2"}'),
      "json: of null-co": backed(NUL),
      "json: of a list": backed("json:[]"),
      "json: of an unknown driver": backed('json:{"driver":"foo"}'),
    },
    { after: [flat] },
    chain,
  ),
  {
    name: "chains",
    files: chain,
    needs: ["qemu-img"],
    steps: [
      add("top.qcow2"),
      flat,
      deep,
      del,
      add("folder/top.qcow2"),
      flat,
      del,
      add("top.qcow2", { "read-only": true }),
      flat,
      del,
      add("top.qcow2", { cache: { direct: false, "no-flush": true }, discard: "unmap" }),
      flat,
      del,
      add("lost.qcow2"),
    ],
  },
  {
    name: "by option",
    files: chain,
    needs: ["qemu-img"],
    steps: [
      { backing: null },
      { backing: inline("mid.qcow2") },
      { backing: inline("base.qcow2") },
      { backing: { ...inline("base.qcow2"), "node-name": "b" } },
      { backing: { ...inline("base.qcow2"), "read-only": false } },
      { backing: inline("raw.img") },
    ].flatMap((more) => [add("top.qcow2", more), flat, del, add("a.qcow2", more), flat, del]),
  },
  images(
    "data files",
    {
      "a name": dataFile("raw.img"),
      "no such file": dataFile("nothing.img"),
      "an empty name": dataFile(""),
      "json: is a name": dataFile('json:{"driver":"file","filename":"raw.img"}'),
      "a protocol is a name": dataFile("null-co://"),
      "raw data": [...dataFile("raw.img"), u64(88, 2)],
    },
    { after: [flat] },
    chain,
  ),
]);

const reopen = (file: string, more: Record<string, unknown> = {}): Step => ({
  execute: "blockdev-reopen",
  arguments: { options: [qcow2(file, more)] },
});
const other = (name: string, file: string): Step => ({
  execute: "blockdev-add",
  arguments: { ...inline(file), "node-name": name, "read-only": true },
});
const fileNode = (name: string, filename: string): Step => ({
  execute: "blockdev-add",
  arguments: { driver: "file", "node-name": name, filename },
});
const start = [other("b", "base.qcow2"), other("m", "folder/base.qcow2")];

parity(
  "qcow2: reopen",
  ([
    [
      "the backing file of the header",
      add("top.qcow2"),
      reopen("top.qcow2"),
      reopen("top.qcow2", { backing: null }),
      flat,
      reopen("top.qcow2", { backing: "b" }),
      flat,
      reopen("top.qcow2", { backing: "b" }),
      reopen("top.qcow2", { backing: "m" }),
      flat,
      reopen("top.qcow2", { backing: null }),
      del,
    ],
    [
      "an inline backing file",
      add("top.qcow2"),
      reopen("top.qcow2", { backing: inline("mid.qcow2") }),
      reopen("top.qcow2", { backing: { ...inline("mid.qcow2"), backing: null } }),
      reopen("top.qcow2", { backing: "b" }),
      reopen("top.qcow2", { backing: inline("base.qcow2") }),
    ],
    [
      "a backing file that was left out",
      add("top.qcow2", { backing: null }),
      reopen("top.qcow2"),
      reopen("top.qcow2", { backing: inline("base.qcow2") }),
      reopen("top.qcow2", { backing: "n" }),
      reopen("top.qcow2", { backing: "nope" }),
      reopen("top.qcow2", { backing: "b" }),
      flat,
    ],
    [
      "an image without one",
      add("a.qcow2"),
      reopen("a.qcow2"),
      reopen("a.qcow2", { backing: null }),
      reopen("a.qcow2", { backing: "b" }),
      flat,
      reopen("a.qcow2", { backing: null, "data-file": "b" }),
    ],
    [
      "a data file",
      fileNode("d", "data.raw"),
      fileNode("e", "raw.img"),
      add("data.qcow2", { "data-file": "d" }),
      reopen("data.qcow2", { "data-file": "e" }),
      reopen("data.qcow2", { "data-file": { driver: "file", filename: "data.raw" } }),
      reopen("data.qcow2", { "data-file": null }),
      reopen("data.qcow2", { "overlap-check": "all" }),
      reopen("data.qcow2", { "data-file": "d", "overlap-check": "none" }),
      { execute: "block_resize", arguments: { "node-name": "n", size: 2097152 } },
      flat,
      del,
      add("data.qcow2"),
      reopen("data.qcow2", { "data-file": "e" }),
      reopen("data.qcow2", { "data-file": { driver: "file", filename: "data.raw" } }),
      flat,
    ],
    [
      "read-only and back",
      add("top.qcow2", { "read-only": true }),
      reopen("top.qcow2", { backing: null, "read-only": false }),
      flat,
      reopen("top.qcow2", { backing: "b", "read-only": true }),
      flat,
    ],
    [
      "other options",
      add("a.qcow2"),
      reopen("a.qcow2", { "lazy-refcounts": true }),
      reopen("a.qcow2", { "l2-cache-size": 1 << 20 }),
      reopen("a.qcow2", { "l2-cache-entry-size": 1000 }),
      reopen("a.qcow2", { "overlap-check": "all" }),
      reopen("a.qcow2", { encrypt: { format: "luks", "key-secret": "x" } }),
      flat,
    ],
  ] as const).map(([name, ...steps]): Case => ({
    name,
    files: chain,
    needs: ["qemu-img"],
    steps: [...start, ...steps],
  })),
);

const change = (device: string, image: string, name: string): Step => ({
  execute: "change-backing-file",
  arguments: { device, "image-node-name": image, "backing-file": name },
});
parity("qcow2: change-backing-file", [{
  name: "names",
  files: chain,
  needs: ["qemu-img"],
  steps: [
    ...start,
    add("top.qcow2"),
    change("x", "n", "foo"),
    change("n", "x", "foo"),
    change("n", "b", "foo"),
    change("b", "b", "foo"),
    change("n", "n", "x".repeat(1024)),
    change("n", "n", "folder/base.qcow2"),
    flat,
    del,
    { tool: ["qemu-img", "info", "-U", "--output=json", "top.qcow2"] },
    add("top.qcow2"),
    change("n", "n", ""),
    del,
    { tool: ["qemu-img", "check", "top.qcow2"] },
  ],
}]);

/** An image with a few writes in it. */
const written = (
  name: string,
  size: string,
  on: string | undefined,
  ...writes: string[]
): FileSpec => ({
  make: [
    "sh",
    "-c",
    `qemu-img create -q -f qcow2 ${
      on === undefined ? "" : `-b ${on} -F qcow2`
    } ${name} ${size} && ` +
    `qemu-io ${writes.map((write) => `-c "${write}"`).join(" ")} ${name}`,
  ],
});
const map = (context: string): Step => ({
  tool: ["nbdinfo", `--map=${context}`, "nbd+unix:///n?socket=nbd"],
});
parity("qcow2: status over NBD", [{
  name: "data, zeroes, holes and depth through a chain of images of all lengths",
  files: {
    "b.qcow2": written("b.qcow2", "1M", undefined, "write -P 1 0 128k", "write -z 128k 64k"),
    "m.qcow2": written("m.qcow2", "2M", "b.qcow2", "write -P 2 64k 64k", "write -z 1M 64k"),
    "t.qcow2": written("t.qcow2", "3M", "m.qcow2", "write -P 3 2500k 64k", "discard 2500k 64k"),
    "s.qcow2": written("s.qcow2", "500k", "t.qcow2", "write -P 4 300k 10k"),
  },
  args: ["--nbd-server", "addr.type=unix,addr.path=nbd"],
  needs: ["qemu-img", "qemu-io", "nbdinfo"],
  steps: ["t.qcow2", "s.qcow2"].flatMap((file) => [
    add(file),
    {
      execute: "block-export-add",
      arguments: { type: "nbd", id: "e", "node-name": "n", "allocation-depth": true },
    },
    map("base:allocation"),
    map("qemu:allocation-depth"),
    { execute: "block-export-del", arguments: { id: "e" } },
    { event: "BLOCK_EXPORT_DELETED" },
    del,
  ]),
}]);
