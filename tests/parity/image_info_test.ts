/** What query-named-block-nodes tells of a qcow2 image that has everything: ImageInfo and ImageInfoSpecific. */
import { type FileSpec, parity, type Step } from "./mould.ts";

const make = (...command: string[]): FileSpec => ({ make: command });
const IMAGE = "a.qcow2";
const img = (...words: string[]) => make("qemu-img", ...words);
const io = (image: string, ...commands: string[]) =>
  make("qemu-io", "-f", "qcow2", ...commands.flatMap((command) => ["-c", command]), image);

/** The names only say in which order it is done. */
const files: Readonly<Record<string, FileSpec>> = {
  "base.qcow2": img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "base.qcow2", "3M"),
  base: io("base.qcow2", "write -q -P 1 100k 900k"),
  [IMAGE]: img(
    ...["create", "-q", "-f", "qcow2", "-o", "extended_l2=on,lazy_refcounts=on"],
    ...["-b", "base.qcow2", "-F", "qcow2", IMAGE, "5M"],
  ),
  first: io(IMAGE, "write -q -P 2 1M 70k", "write -q -z 2M 64k"),
  snapshot: img("snapshot", "-c", "before", IMAGE),
  recorded: img("bitmap", "--add", "-g", "32k", IMAGE, "recorded"),
  disabled: img("bitmap", "--add", "--disable", IMAGE, "disabled"),
  second: io(IMAGE, "write -q -P 3 1M 7k", "write -q -c -P 4 3M 64k"),
  "second snapshot": img("snapshot", "-c", "a second snapshot", IMAGE),
};

const add = (filename: string, more: Readonly<Record<string, unknown>> = {}): Step => ({
  execute: "blockdev-add",
  arguments: { driver: "qcow2", "node-name": "n", file: { driver: "file", filename }, ...more },
});
const deep: Step = { execute: "query-named-block-nodes" };
const flat: Step = { execute: "query-named-block-nodes", arguments: { flat: true } };
const del: Step = { execute: "blockdev-del", arguments: { "node-name": "n" } };

/** Each opens an image of its own: qsd stores bitmaps in other places, and the file grows otherwise. */
const ways: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  "for writing": {},
  "read-only": { "read-only": true },
  "without its backing file": { backing: null },
  "over another backing file": {
    "lazy-refcounts": false,
    backing: { driver: "raw", file: { driver: "file", filename: "base.qcow2" } },
  },
};
const copies = Object.keys(ways).map((_, at): [string, FileSpec] => [`c${at}`, { copy: IMAGE }]);

const bitmap = (command: string, name: string, more = {}): Step => ({
  execute: `block-dirty-bitmap-${command}`,
  arguments: { node: "n", name, ...more },
});
const stored: Step = { tool: ["sh", "-c", `qemu-img info ${IMAGE} | grep -A 99 bitmaps:`] };

parity("image information", [
  {
    name: "an image with bitmaps, snapshots, a backing file, subclusters and lazy refcounts",
    files: { ...files, ...Object.fromEntries(copies) },
    needs: ["qemu-img", "qemu-io"],
    steps: Object.entries(ways).flatMap(([label, more], at) => [
      { label },
      add(`c${at}`, more),
      deep,
      flat,
      del,
    ]),
  },
  {
    name: "an image with a data file, under each kind of name",
    files: {
      "base.raw": { size: 65536 },
      "a.qcow2": img(
        ...["create", "-q", "-f", "qcow2", "-o", "data_file=d.raw", "-b", "base.raw", "-F", "raw"],
        ...["a.qcow2", "1M"],
      ),
      "other.raw": { size: 1 << 20 },
    },
    needs: ["qemu-img"],
    steps: [
      {},
      { backing: null },
      { backing: { driver: "raw", file: { driver: "file", filename: "base.raw" } } },
      { "data-file": { driver: "file", filename: "d.raw" } },
      { "data-file": { driver: "file", filename: "other.raw" } },
      { "data-file": { driver: "raw", file: { driver: "file", filename: "d.raw" } } },
      { backing: null, "data-file": { driver: "file", filename: "other.raw" } },
    ].flatMap((more) => [{ label: JSON.stringify(more) }, add("a.qcow2", more), deep, del]),
  },
  {
    name: "a filter shows what it filters",
    files,
    needs: ["qemu-img", "qemu-io"],
    steps: [
      ...[add(IMAGE, { "node-name": "q" }), add("base.qcow2", { "node-name": "b" })],
      ...["q", "b"].map((file): Step => ({
        execute: "blockdev-add",
        arguments: { driver: "compress", "node-name": `over-${file}`, file },
      })),
      ...[deep, flat],
    ],
  },
  {
    name: "bitmaps keep their order however often they are stored; new ones follow",
    files,
    needs: ["qemu-img", "qemu-io"],
    steps: [
      ...[add(IMAGE), del, stored],
      ...[add(IMAGE), bitmap("add", "a", { persistent: true })],
      ...[bitmap("add", "b", { persistent: true }), bitmap("add", "lost"), del, stored],
      ...[add(IMAGE), bitmap("remove", "recorded"), bitmap("remove", "a")],
      ...[bitmap("add", "recorded", { persistent: true }), del, stored],
      ...[add(IMAGE), del, stored],
    ],
  },
]);
