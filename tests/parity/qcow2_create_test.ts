/**
 * qcow2: blockdev-create with every option, and what it refuses. Images are judged by qemu-img: information, check
 * and map of what qsd made are those of what the original made.
 */
import { type Case, type FileSpec, parity, type Step } from "./mould.ts";

const moved: Step = { event: "JOB_STATUS_CHANGE" };
/** created, running, waiting, pending, concluded; or aborting instead of the last but two. */
const ends = (refused: boolean): Step[] => [
  ...Array.from({ length: refused ? 4 : 5 }, () => moved),
  { execute: "query-jobs" },
  { execute: "job-dismiss", arguments: { id: "j" } },
  moved,
];
const MiB = 1 << 20;

/** Bytes on the host depend on the file system; where metadata lies is each program's own affair. */
const judge = (name: string): Step[] => [
  {
    tool: [
      "sh",
      "-c",
      `qemu-img info -U --output=json ${name} | grep -v actual-size; qemu-img check -U ${name} | ` +
      "grep -v offset | sed 's/[0-9.]*% fragmented/F/'",
    ],
  },
];
/** What the guest sees of it. */
const map = (name: string): Step => ({
  tool: ["sh", "-c", `qemu-img map -U --output=json ${name} | sed 's/, "offset": [0-9]*//'`],
});

/** What the guest reads. */
const contents = (name: string): Step => ({
  tool: ["sh", "-c", `qemu-img convert -U -O raw ${name} out.raw && sha256sum out.raw`],
});

const nodes = [
  ...["--blockdev", "file,node-name=n,filename=n.img"],
  ...["--blockdev", "file,node-name=r,filename=base.img,read-only=on"],
];
const common: Readonly<Record<string, FileSpec>> = {
  "n.img": { size: 0 },
  "base.img": { size: MiB, noise: 1 },
};

/** One image to make. */
interface Row {
  readonly name: string;
  readonly options: Record<string, unknown>;
  readonly refused?: boolean;
  readonly mapped?: boolean;
  /** What is in the data file before. */
  readonly data?: FileSpec;
}

/** All of them on one daemon, each with files of its own: "n" and "d" in the options stand for nodes on these. */
function all(name: string, rows: readonly Row[]): Case {
  const files: Record<string, FileSpec> = { ...common };
  const steps: Step[] = [];
  for (const [index, row] of rows.entries()) {
    const { options, refused = false, mapped = true, data = { size: 0 } } = row;
    const own = { n: `${index}.n`, d: `${index}.d` };
    for (const file of Object.values(own)) {
      files[file] = file === own.d ? data : { size: 0 };
      const node = { driver: "file", "node-name": `x${file}`, filename: file };
      steps.push({ execute: "blockdev-add", arguments: node });
    }
    const given: Record<string, unknown> = { driver: "qcow2", file: "n", size: MiB, ...options };
    if (given["file"] === "n") given["file"] = `x${own.n}`;
    if (given["data-file"] === "d") given["data-file"] = `x${own.d}`;
    steps.push(
      { label: row.name },
      { execute: "blockdev-create", arguments: { "job-id": "j", options: given } },
      ...ends(refused),
      ...(refused ? [] : [...judge(own.n), ...(mapped ? [map(own.n)] : [])]),
      { tool: ["stat", "-c", "%s", own.d] },
      ...(row.data === undefined ? [] : [contents(own.n)]),
    );
  }
  return { name, files, args: nodes, needs: ["qemu-img"], steps };
}
const create = (
  name: string,
  options: Record<string, unknown>,
  how: Pick<Row, "mapped" | "data"> = {},
): Row => ({ name, options, ...how });
const refuse = (name: string, options: Record<string, unknown>): Row => ({
  name,
  options,
  refused: true,
});
const backing = { "backing-file": "base.img", "backing-fmt": "raw" };

const made: readonly Row[] = [
  create("as it comes", {}),
  create("no length", { size: 0 }, { mapped: false }),
  create("a large one", { size: 2 ** 44 }),
  create("a table longer than what a block counts", { size: 2 ** 32, "cluster-size": 512 }),
  create("an odd one", { size: 5 * MiB + 512 }),
  create("version 2", { version: "v2" }),
  ...[512, 4096, 2 * MiB].map((size) => create(`clusters of ${size}`, { "cluster-size": size })),
  ...[1, 2, 4, 8, 32, 64].map((bits) =>
    create(`refcounts of ${bits} bits`, { "refcount-bits": bits, preallocation: "metadata" })
  ),
  create("lazy refcounts", { "lazy-refcounts": true }),
  create("zstd", { "compression-type": "zstd" }),
  create("zlib in version 2", { "compression-type": "zlib", version: "v2" }),
  create("subclusters", { "extended-l2": true }),
  create("subclusters, preallocated", { "extended-l2": true, preallocation: "metadata" }),
  ...["metadata", "falloc", "full"].map((preallocation) =>
    create(`preallocation ${preallocation}`, { preallocation }, { mapped: false })
  ),
  create("small clusters, preallocated", {
    "cluster-size": 512,
    preallocation: "metadata",
  }, { mapped: false }),
  create("a backing file", backing),
  create("a backing file without a format", { "backing-file": "base.img" }, { mapped: false }),
  create("a backing file that is not there", { ...backing, "backing-file": "nothing" }, {
    mapped: false,
  }),
  create("no backing file", { "backing-file": "" }),
  create("a backing file and preallocated subclusters", {
    ...backing,
    "extended-l2": true,
    preallocation: "metadata",
  }),
  create("a backing file whose name takes the room of the features' names", {
    ...backing,
    "backing-file": "x".repeat(370),
    "cluster-size": 512,
  }, { mapped: false }),
  create("a data file", { "data-file": "d" }),
  create("a raw data file", { "data-file": "d", "data-file-raw": true }, { mapped: false }),
  create("a data file, preallocated", { "data-file": "d", preallocation: "full" }, {
    mapped: false,
  }),
  ...["off", "metadata", "full"].map((preallocation) =>
    create(`a raw data file that holds something, ${preallocation}`, {
      "data-file": "d",
      "data-file-raw": true,
      preallocation,
    }, { data: { size: MiB, noise: 2 } })
  ),
  create("a raw data file that holds more", { "data-file": "d", "data-file-raw": true }, {
    data: { size: 2 * MiB, noise: 3 },
  }),
  create("a data file that is longer", { "data-file": "d" }, {
    data: { size: 2 * MiB, noise: 4 },
  }),
  create("a data file and a backing file", { "data-file": "d", ...backing }, { mapped: false }),
  create("in an inline node", { file: { driver: "file", filename: "n.img" } }, {
    mapped: false,
  }),
];
const refusals: readonly Row[] = [
  refuse("an odd number of bytes", { size: 1000 }),
  ...[0, 256, 1000, 4 * MiB].map((size) => refuse(`clusters of ${size}`, { "cluster-size": size })),
  ...[-1, 0, 3, 128].map((bits) => refuse(`refcounts of ${bits} bits`, { "refcount-bits": bits })),
  refuse("lazy refcounts in version 2", { version: "v2", "lazy-refcounts": true }),
  refuse("narrow refcounts in version 2", { version: "v2", "refcount-bits": 8 }),
  refuse("zstd in version 2", { version: "v2", "compression-type": "zstd" }),
  refuse("subclusters in version 2", { version: "v2", "extended-l2": true }),
  refuse("a data file in version 2", { version: "v2", "data-file": "d" }),
  refuse("subclusters in version 2, of clusters that are none", {
    version: "v2",
    "extended-l2": true,
    "cluster-size": 1000,
  }),
  refuse("lazy refcounts in version 2, and narrow ones", {
    version: "v2",
    "lazy-refcounts": true,
    "refcount-bits": 8,
  }),
  refuse("narrow refcounts and a data file in version 2", {
    version: "v2",
    "refcount-bits": 8,
    "data-file": "d",
  }),
  refuse("bad refcounts and zstd in version 2", {
    version: "v2",
    "refcount-bits": 3,
    "compression-type": "zstd",
  }),
  refuse("bad refcounts, and raw data without a data file", {
    "refcount-bits": 3,
    "data-file-raw": true,
  }),
  refuse("small subclusters", { "extended-l2": true, "cluster-size": 8192 }),
  refuse("raw data without a data file", { "data-file-raw": true }),
  refuse("raw data and a backing file", { "data-file": "d", "data-file-raw": true, ...backing }),
  refuse("a format without a backing file", { "backing-fmt": "raw" }),
  refuse("a backing file and preallocation", { ...backing, preallocation: "metadata" }),
  refuse("a backing file with a long name", { "backing-file": "x".repeat(1024) }),
  refuse("a backing file whose name does not fit into a cluster", {
    ...backing,
    "backing-file": "x".repeat(385),
    "cluster-size": 512,
  }),
  refuse("too large", { size: 2 ** 40, "cluster-size": 512 }),
  refuse("LUKS without a key", { encrypt: { format: "luks" } }),
  refuse("AES without a key", { encrypt: { format: "qcow" } }),
  refuse("a node that is not there", { file: "nope" }),
  refuse("a data file that is not there", { "data-file": "nope" }),
  refuse("a read-only node", { file: "r" }),
];
parity("qcow2: blockdev-create", [all("images", made), all("refusals", refusals)]);

const amend = (node: string, options: Record<string, unknown>): Step => ({
  execute: "x-blockdev-amend",
  arguments: { "job-id": "j", "node-name": node, options },
});
parity("qcow2: x-blockdev-amend", [{
  name: "an image that is not encrypted",
  files: {
    ...common,
    "a.qcow2": { make: ["qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M"] },
  },
  args: [...nodes, "--blockdev", "qcow2,node-name=q,file.driver=file,file.filename=a.qcow2"],
  needs: ["qemu-img"],
  steps: [
    amend("q", { driver: "qcow2" }),
    ...ends(false),
    amend("q", {
      driver: "qcow2",
      encrypt: { format: "luks", state: "active", "new-secret": "x" },
    }),
    ...ends(true),
    amend("q", { driver: "qcow2", encrypt: { format: "qcow" } }),
    ...ends(true),
    amend("q", { driver: "raw" }),
    amend("n", { driver: "file" }),
    amend("n", { driver: "qcow2" }),
    amend("nope", { driver: "qcow2" }),
  ],
}]);
