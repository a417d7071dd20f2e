/**
 * qcow2: tables that lead to the wrong place, found when a guest's request meets them: what the guest is told, the
 * event, and the mark in the header. What comes after differs: QEMU closes such an image, qsd goes on reading it.
 */
import { type Case, type FileSpec, parity, type Patch, type Step } from "./mould.ts";

const hex = (value: bigint) => value.toString(16).padStart(16, "0");
const CLUSTER = 65536;
/** Where things lie in what qemu-img and qemu-io make below. */
const TABLE = CLUSTER, BLOCK = 2 * CLUSTER, L1 = 3 * CLUSTER, L2 = 4 * CLUSTER, DATA = 5 * CLUSTER;
const COPIED = 1n << 63n;
const entry = (at: number, place: number, flags = COPIED): Patch => [
  at,
  hex(flags | BigInt(place)),
];
const first = (place: number, flags = COPIED): Patch => entry(L2, place, flags);

const base: Readonly<Record<string, FileSpec>> = {
  "a.qcow2": {
    make: [
      "sh",
      "-c",
      "qemu-img create -q -f qcow2 a.qcow2 64M && qemu-io -c 'write -P 1 0 256k' a.qcow2",
    ],
  },
};

interface Row {
  readonly patch: Patch;
  /** The guest's requests, as qemu-io takes them. The last one that meets the damage. */
  readonly requests: readonly string[];
  /** No other guest can be told of it. */
  readonly harmless?: true;
}

const read = "read -q 0 4k";
const ROWS: Readonly<Record<string, Row>> = {
  "an entry that is not aligned, read": { patch: first(DATA + 512), requests: [read] },
  "an entry that is not aligned, written": {
    patch: first(DATA + 512),
    requests: ["write -q -P 2 5k 4k"],
  },
  "a zeroed entry that is not aligned": {
    patch: first(DATA + 512, COPIED | 1n),
    requests: [read],
  },
  "an L1 entry that is not aligned": { patch: entry(L1, L2 + 512), requests: [read] },
  "an L1 entry that is not aligned, written": {
    patch: entry(L1, L2 + 512),
    requests: ["write -q -P 2 0 4k"],
  },
  "an entry that leads to the refcount table": {
    patch: first(TABLE),
    requests: [read, "write -q -P 2 0 4k"],
  },
  "an entry that leads to a refcount block": {
    patch: first(BLOCK),
    requests: [read, "write -q -P 2 4k 8k"],
  },
  "an entry that leads to the L1 table": { patch: first(L1), requests: ["write -q -P 2 0 64k"] },
  "an entry that leads to its own table": { patch: first(L2), requests: ["write -q -P 2 512 512"] },
  "an entry that is not aligned, discarded": {
    patch: first(DATA + 512),
    requests: ["discard -q 0 64k", "write -q -P 3 1M 4k", "flush", "read -q -P 3 1M 4k"],
    harmless: true,
  },
};

const io = (readOnly: boolean, ...commands: readonly string[]): Step => ({
  tool: [
    "qemu-io",
    ...(readOnly ? ["-r"] : []),
    "-f",
    "raw",
    ...commands.flatMap((command) => ["-c", command]),
    "nbd+unix:///n?socket=nbd",
  ],
});

function stepsOf(file: string, { requests, harmless }: Row, readOnly: boolean): Step[] {
  return [
    {
      execute: "blockdev-add",
      arguments: {
        driver: "qcow2",
        "node-name": "n",
        "read-only": readOnly,
        discard: "unmap",
        file: { driver: "file", filename: file },
      },
    },
    {
      execute: "block-export-add",
      arguments: { type: "nbd", id: "e", "node-name": "n", writable: !readOnly },
    },
    ...requests.map((request) => io(readOnly, request)),
    { event: "BLOCK_IMAGE_CORRUPTED" },
    // Told only once.
    ...(readOnly || harmless ? [io(readOnly, ...requests)] : []),
    { execute: "block-export-del", arguments: { id: "e", mode: "hard" } },
    { event: "BLOCK_EXPORT_DELETED" },
    { execute: "blockdev-del", arguments: { "node-name": "n" } },
    { tool: ["od", "-An", "-tx1", "-j72", "-N24", file] },
  ];
}

function images(name: string, readOnly: boolean): Case {
  const rows = Object.entries(ROWS).filter(([, { requests }]) =>
    !readOnly || requests.every((request) => request === read)
  );
  const files: Record<string, FileSpec> = { ...base };
  const steps: Step[] = [];
  for (const [index, [label, row]] of rows.entries()) {
    const file = `${index}.qcow2`;
    files[file] = { copy: "a.qcow2", patch: [row.patch] };
    steps.push({ label }, ...stepsOf(file, row, readOnly));
  }
  return {
    name,
    files,
    steps,
    args: ["--nbd-server", "addr.type=unix,addr.path=nbd"],
    needs: ["qemu-img", "qemu-io"],
    ignoreStderr: true,
  };
}

parity("qcow2: damage", [images("writable", false), images("read-only", true)]);
