/** Dirty bitmaps: commands, what is recorded, and how NBD shows it. */
import { type Case, parity, type Step } from "./mould.ts";

type Args = Readonly<Record<string, unknown>>;
const qmp = (execute: string, args: Args = {}): Step => ({ execute, arguments: args });
const on = (name: string) => ({ node: "n", name });
const add = (args: Args): Step => qmp("block-dirty-bitmap-add", { node: "n", ...args });
const remove = (name: string): Step => qmp("block-dirty-bitmap-remove", on(name));
const clear = (name: string): Step => qmp("block-dirty-bitmap-clear", on(name));
const enable = (name: string): Step => qmp("block-dirty-bitmap-enable", on(name));
const disable = (name: string): Step => qmp("block-dirty-bitmap-disable", on(name));
const merge = (target: string, ...bitmaps: unknown[]): Step =>
  qmp("block-dirty-bitmap-merge", { node: "n", target, bitmaps });
const sum = (name: string): Step => qmp("x-debug-block-dirty-bitmap-sha256", on(name));
const nodes: Step = qmp("query-named-block-nodes");
const serve: Step = qmp("nbd-server-start", { addr: { type: "unix", data: { path: "nbd" } } });
const share = (args: Args): Step =>
  qmp("block-export-add", { type: "nbd", id: "e", "node-name": "n", ...args });
const io = (...commands: string[]): Step => ({
  tool: [
    "qemu-io",
    "-f",
    "raw",
    ...commands.flatMap((command) => ["-c", command]),
    "nbd+unix:///n?socket=nbd",
  ],
});

const base = {
  files: { "disk.raw": { size: 1 << 20 } },
  args: [
    "--blockdev",
    "file,node-name=n,filename=disk.raw,discard=unmap",
    "--blockdev",
    "null-co,node-name=o,size=2097152",
  ],
} as const;
const of = (name: string, ...steps: Step[]): Case => ({ ...base, name, steps });
/** Writes into an export; qemu-io says how long it took, which is not compared. */
const written = (name: string, ...steps: Step[]): Case => ({
  ...base,
  name,
  needs: ["qemu-io"],
  steps: [
    serve,
    share({ writable: true }),
    ...steps,
    nodes,
  ],
});
const quietly = (...commands: string[]) => io(...commands.map((one) => one.replace(" ", " -q ")));

parity("dirty bitmaps", [
  of(
    "names and granularities",
    qmp("block-dirty-bitmap-add", { node: "zz", name: "a" }),
    add({ name: "" }),
    add({ name: "x".repeat(1024) }),
    add({ name: "x".repeat(1023) }),
    ...[0, 1, 256, 511, 513, 3000, 4294967296].map((granularity) =>
      add({ name: "a", granularity })
    ),
    add({ name: "a" }),
    add({ name: "a" }),
    add({ name: "a", persistent: true }),
    add({ name: "p", persistent: true }),
    add({ name: "p", persistent: true, granularity: 5 }),
    add({ name: "big", granularity: 2147483648 }),
    add({ name: "b", granularity: 512, disabled: true }),
    nodes,
    remove("a"),
    remove("a"),
    nodes,
  ),
  of(
    "what is not there",
    qmp("block-dirty-bitmap-remove", { node: "zz", name: "x" }),
    qmp("x-debug-block-dirty-bitmap-sha256", { node: "zz", name: "x" }),
    ...["x", ""].flatMap((name) => [
      remove(name),
      clear(name),
      enable(name),
      disable(name),
      sum(name),
    ]),
    merge("x", "y"),
  ),
  of(
    "merge refuses",
    add({ name: "a" }),
    add({ name: "b", granularity: 512 }),
    qmp("block-dirty-bitmap-add", { node: "o", name: "c" }),
    merge("a", "x"),
    merge("a", { node: "zz", name: "x" }),
    merge("a", { node: "o", name: "x" }),
    merge("a", { node: "o", name: "c" }),
    merge("a", { node: "o", name: "c" }, "x"),
    merge("a", "x", { node: "o", name: "c" }),
    merge("a", "a"),
    merge("a", "b", "a"),
    merge("a", 1),
    merge("a", { node: "o" }),
  ),
  of(
    "checksums of clean bitmaps",
    ...[512, 4096, 65536, 131072, 1048576].flatMap((granularity) => [
      add({ name: `g${granularity}`, granularity }),
      sum(`g${granularity}`),
    ]),
  ),
  written(
    "writes, zeroes and discards are recorded",
    add({ name: "fine", granularity: 512 }),
    add({ name: "coarse" }),
    add({ name: "huge", granularity: 2147483648 }),
    add({ name: "off", disabled: true }),
    quietly("write 4k 4k", "write -z 200k 512", "discard 512k 64k", "read 900k 4k"),
    sum("fine"),
    sum("coarse"),
    sum("huge"),
    sum("off"),
    nodes,
    clear("fine"),
    sum("fine"),
    enable("off"),
    disable("coarse"),
    quietly("write 1000k 24k", "write 0 1M"),
    sum("fine"),
    sum("off"),
    sum("coarse"),
  ),
  written(
    "merges of several granularities",
    add({ name: "a", granularity: 512 }),
    add({ name: "b", granularity: 131072 }),
    add({ name: "t", granularity: 4096, disabled: true }),
    quietly("write 4k 512", "write 300k 1k"),
    merge("t", "a"),
    sum("t"),
    merge("t", "b", "t"),
    sum("t"),
    merge("a", "t"),
    sum("a"),
  ),
  {
    ...base,
    name: "the length of the node changes",
    steps: [
      add({ name: "a", granularity: 512 }),
      serve,
      share({ writable: true }),
      quietly("write 0 1M"),
      qmp("block-export-del", { id: "e" }),
      { event: "BLOCK_EXPORT_DELETED" },
      qmp("block_resize", { "node-name": "n", size: 1 << 21 }),
      sum("a"),
      nodes,
      qmp("block_resize", { "node-name": "n", size: 1 << 19 }),
      sum("a"),
      qmp("block_resize", { "node-name": "n", size: 1 << 20 }),
      sum("a"),
      nodes,
    ],
    needs: ["qemu-io"],
  },
]);

const map = (name: string): Step => ({
  tool: ["nbdinfo", `--map=${name}`, "nbd+unix:///n?socket=nbd"],
});
parity("exported bitmaps", [
  of(
    "refused",
    add({ name: "a" }),
    add({ name: "d", disabled: true }),
    qmp("block-dirty-bitmap-add", { node: "o", name: "c" }),
    serve,
    share({ bitmaps: ["x"] }),
    share({ bitmaps: [{ node: "zz", name: "x" }] }),
    share({ bitmaps: [{ node: "o", name: "x" }] }),
    share({ bitmaps: [{ node: "o", name: "c" }] }),
    share({ bitmaps: ["a"] }),
    share({ bitmaps: ["d", "a"] }),
    share({ bitmaps: ["d", "d"] }),
    share({ bitmaps: ["d"] }),
    nodes,
    ...[remove("d"), clear("d"), enable("d"), disable("d"), merge("d", "a"), merge("a", "d")],
    merge("d", "x"),
    sum("d"),
    share({ id: "f", name: "f", bitmaps: ["d"] }),
    qmp("block-export-del", { id: "e" }),
    { event: "BLOCK_EXPORT_DELETED" },
    remove("d"),
  ),
  {
    ...base,
    name: "shown to clients",
    needs: ["qemu-io", "nbdinfo"],
    steps: [
      add({ name: "a", granularity: 4096 }),
      add({ name: "b" }),
      serve,
      share({ id: "w", name: "n", writable: true }),
      quietly("write 4k 4k", "write 100k 200k"),
      qmp("block-export-del", { id: "w" }),
      { event: "BLOCK_EXPORT_DELETED" },
      disable("a"),
      share({ name: "n", bitmaps: ["a"], "allocation-depth": true }),
      map("qemu:dirty-bitmap:a"),
      map("qemu:dirty-bitmap:b"),
      map("qemu:allocation-depth"),
      { tool: ["nbdinfo", "--json", "nbd+unix:///n?socket=nbd"] },
      {
        tool: [
          "qemu-img",
          "map",
          "--output=json",
          "--image-opts",
          "driver=nbd,server.type=unix,server.path=nbd,export=n,x-dirty-bitmap=qemu:dirty-bitmap:a",
        ],
      },
    ],
  },
  {
    ...base,
    name: "still recorded while they are exported",
    needs: ["qemu-io", "nbdinfo"],
    steps: [
      add({ name: "a" }),
      serve,
      share({ name: "n", writable: true, bitmaps: [{ node: "n", name: "a" }] }),
      map("qemu:dirty-bitmap:a"),
      quietly("write 4k 4k", "write 500k 200k"),
      map("qemu:dirty-bitmap:a"),
      nodes,
    ],
  },
]);

const qcow2 = (
  name: string,
  create: readonly string[],
  more: readonly string[],
  ...steps: Step[]
) => ({
  name,
  needs: ["qemu-img"],
  files: {
    "disk.qcow2": { make: ["qemu-img", "create", "-q", "-f", "qcow2", ...create] },
    ...Object.fromEntries(
      more.map((bitmap) => [
        `.${bitmap}`,
        { make: ["sh", "-c", `qemu-img bitmap --add disk.qcow2 ${bitmap} && touch .${bitmap}`] },
      ]),
    ),
  },
  args: [
    "--blockdev",
    "driver=qcow2,node-name=n,file.driver=file,file.filename=disk.qcow2,file.node-name=f",
    "--blockdev",
    "null-co,node-name=o,size=2097152",
  ],
  steps,
});
const info: Step = { tool: ["qemu-img", "info", "-U", "--output=json", "disk.qcow2"] };
const keep = (args: Args): Step => add({ persistent: true, ...args });

parity("persistent bitmaps", [
  qcow2(
    "in version 2",
    ["-o", "compat=0.10", "disk.qcow2", "1M"],
    [],
    keep({ name: "a" }),
    nodes,
    add({ name: "a" }),
    keep({ name: "a" }),
  ),
  qcow2(
    "what cannot be stored",
    ["disk.qcow2", "4T"],
    [],
    keep({ name: "a", granularity: 512 }),
    keep({ name: "a", granularity: 1024 }),
    keep({ name: "a", granularity: 1000 }),
    keep({ name: "a" }),
    keep({ name: "a" }),
    keep({ name: "" }),
    keep({ name: "x".repeat(1024) }),
    add({ name: "a" }),
  ),
  qcow2(
    "loaded, added and removed",
    ["disk.qcow2", "1M"],
    ["a", "b"],
    nodes,
    sum("a"),
    keep({ name: "c", granularity: 4096, disabled: true }),
    remove("a"),
    nodes,
    sum("c"),
    disable("b"),
    qmp("block_resize", { "node-name": "n", size: 1 << 22 }),
    sum("b"),
    nodes,
    info,
    qmp("blockdev-del", { "node-name": "n" }),
    { tool: ["qemu-img", "bitmap", "--enable", "disk.qcow2", "b"] },
  ),
  {
    ...qcow2("inconsistent ones", ["disk.qcow2", "1M"], ["i", "j"]),
    needs: ["qemu-img", "qemu-io"],
    files: {
      "disk.qcow2": {
        make: [
          "sh",
          "-c",
          "qemu-img create -q -f qcow2 disk.qcow2 1M; for i in i j; do " +
          "qemu-img bitmap --add disk.qcow2 $i; done; qemu-io -c abort disk.qcow2 2>&-; :",
        ],
      },
    },
    steps: [
      serve,
      add({ name: "a" }),
      add({ name: "used", disabled: true }),
      qmp("block-dirty-bitmap-add", { node: "o", name: "c" }),
      share({ bitmaps: ["used"] }),
      merge("i", "a"),
      merge("i", "j"),
      merge("i", "i"),
      merge("i", "zz"),
      merge("i", "used"),
      merge("i", { node: "o", name: "c" }),
      merge("used", "i"),
      merge("used", { node: "o", name: "c" }),
      merge("a", { node: "o", name: "c" }, "i"),
      merge("a", "i", { node: "o", name: "c" }),
      merge("a", "zz", "i"),
      share({ id: "f", name: "f", bitmaps: ["i"] }),
      disable("i"),
      nodes,
      info,
    ],
  },
]);
