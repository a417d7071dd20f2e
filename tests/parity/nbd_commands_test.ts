/** NBD server and export commands, and their events. */
import { type Case, parity, says, type Step } from "./mould.ts";

const UNIX = { type: "unix", data: { path: "nbd" } };
const start = (args: Record<string, unknown> = { addr: UNIX }): Step => ({
  execute: "nbd-server-start",
  arguments: args,
});
const stop: Step = { execute: "nbd-server-stop" };
const add = (args: Record<string, unknown> = {}): Step => ({
  execute: "block-export-add",
  arguments: { type: "nbd", id: "e", "node-name": "n", ...args },
});
const del = (args: Record<string, unknown>): Step => ({
  execute: "block-export-del",
  arguments: args,
});
const legacy = (args: Record<string, unknown>): Step => ({
  execute: "nbd-server-add",
  arguments: args,
});
const remove = (args: Record<string, unknown>): Step => ({
  execute: "nbd-server-remove",
  arguments: args,
});
const query: Step = { execute: "query-block-exports" };
const deleted: Step = { event: "BLOCK_EXPORT_DELETED" };
const node = (
  name: string,
  more = "",
) => ["--blockdev", `null-co,node-name=${name},size=1048576${more}`];
const of = (name: string, ...steps: Step[]): Case => ({
  name,
  steps,
  args: [...node("n"), ...node("m"), ...node("ro", ",read-only=on")],
});

parity("nbd-server-start and -stop", [
  of(
    "start, twice, stop, twice",
    start(),
    start(),
    { exist: ["nbd"] },
    stop,
    { exist: ["nbd"] },
    stop,
  ),
  of("start again after stop", start(), stop, start(), { exist: ["nbd"] }),
  of("no address", start({})),
  of("address of a wrong type", start({ addr: "unix" })),
  of("unknown type", start({ addr: { type: "nonsense", data: {} } })),
  of("unix without a path", start({ addr: { type: "unix", data: {} } })),
  of("unix flat, not nested", start({ addr: { type: "unix", path: "nbd" } })),
  of("missing folder", start({ addr: { type: "unix", data: { path: "no/such/nbd" } } })),
  of("path too long", start({ addr: { type: "unix", data: { path: "p".repeat(120) } } })),
  of("inet without a port", start({ addr: { type: "inet", data: { host: "127.0.0.1" } } })),
  of(
    "inet with a bad port",
    start({ addr: { type: "inet", data: { host: "127.0.0.1", port: "x" } } }),
  ),
  of(
    "inet with a number as port",
    start({ addr: { type: "inet", data: { host: "127.0.0.1", port: 1 } } }),
  ),
  of("fd by an unknown name", start({ addr: { type: "fd", data: { str: "nobody" } } })),
  of("fd by a bad number", start({ addr: { type: "fd", data: { str: "99" } } })),
  of("unknown tls-creds", start({ addr: UNIX, "tls-creds": "nobody" })),
  {
    ...of("tls-authz without tls-creds", start({ addr: UNIX, "tls-authz": "nobody" })),
    differs: says(
      "an option without effect is warned of",
      () => "qemu-storage-daemon: warning: nbd-server: tls-authz has no effect without tls-creds\n",
    ),
  },
  of("max-connections of a wrong type", start({ addr: UNIX, "max-connections": "x" })),
  of("max-connections negative", start({ addr: UNIX, "max-connections": -1 })),
  of("max-connections one", start({ addr: UNIX, "max-connections": 1 }), add(), {
    tool: ["nbdinfo", "--json", "nbd+unix:///n?socket=nbd"],
  }),
  of("unknown member", start({ addr: UNIX, nonsense: 1 })),
  of("stop removes the exports", start(), add(), add({ id: "f", name: "x" }), stop, query),
  of("a file in the socket's place is replaced", { tool: ["touch", "nbd"] }, start(), {
    exist: ["nbd"],
  }),
]);

parity("block-export-add and -del", [
  of("the life of an export", start(), add(), query, del({ id: "e" }), deleted, query),
  of("without a server", add(), query),
  of(
    "all options",
    start(),
    add({ name: "x", description: "what it is", writable: true, writethrough: true }),
    query,
  ),
  of(
    "several, the newest first",
    start(),
    add(),
    add({ id: "f", "node-name": "m" }),
    add({ id: "g", name: "third" }),
    query,
  ),
  of("a name twice", start(), add(), add({ id: "f" }), query),
  of("an id twice", start(), add(), add({ name: "x" }), query),
  of("bad ids", start(), add({ id: "" }), add({ id: "1" }), add({ id: "a b" }), add({ id: "é" })),
  of("unknown node", start(), add({ "node-name": "nobody" })),
  of("unknown type", start(), add({ type: "nonsense" })),
  of("no id", start(), {
    execute: "block-export-add",
    arguments: { type: "nbd", "node-name": "n" },
  }),
  of("no node", start(), { execute: "block-export-add", arguments: { type: "nbd", id: "e" } }),
  of("unknown member", start(), add({ nonsense: 1 })),
  of("read-only node as writable", start(), add({ "node-name": "ro", writable: true })),
  of("read-only node", start(), add({ "node-name": "ro" }), query),
  of("name too long", start(), add({ name: "n".repeat(4097) })),
  of("name at its longest", start(), add({ name: "n".repeat(4096) }), query),
  of("description too long", start(), add({ description: "d".repeat(4097) })),
  of("unknown iothread", start(), add({ iothread: "nobody" })),
  of("unknown bitmap", start(), add({ bitmaps: ["nobody"] })),
  of("empty name", start(), add({ name: "" }), query),
  of("del of nobody", del({ id: "nobody" })),
  of("del with an unknown mode", start(), add(), del({ id: "e", mode: "nonsense" })),
  of("del hard", start(), add(), del({ id: "e", mode: "hard" }), deleted, query),
  of("del without an id", del({})),
  of("del, then add again", start(), add(), del({ id: "e" }), deleted, add(), query),
  of("the node of an export is in use", start(), add(), {
    execute: "blockdev-del",
    arguments: { "node-name": "n" },
  }),
  of("an exported node cannot be resized", start(), add({ writable: true }), {
    execute: "block_resize",
    arguments: { "node-name": "n", size: 512 },
  }),
  of(
    "the server stops, an export may be made again",
    start(),
    add(),
    stop,
    deleted,
    start(),
    add(),
    query,
  ),
]);

parity("nbd-server-add and -remove", [
  of(
    "the life of an export",
    start(),
    legacy({ device: "n" }),
    query,
    remove({ name: "n" }),
    deleted,
    query,
  ),
  of(
    "by name, writable",
    start(),
    legacy({ device: "n", name: "x", writable: true, description: "d" }),
    query,
    remove({ name: "x", mode: "hard" }),
    query,
  ),
  of("without a server", legacy({ device: "n" })),
  of("unknown node", start(), legacy({ device: "nobody" })),
  of("twice", start(), legacy({ device: "n" }), legacy({ device: "n" })),
  of("read-only node, writable wish", start(), legacy({ device: "ro", writable: true }), query),
  of(
    "names that are no ids",
    start(),
    legacy({ device: "n", name: "a b" }),
    query,
    legacy({ device: "n", name: "" }),
    query,
  ),
  of("remove nobody", start(), remove({ name: "nobody" })),
  of("remove without a server", remove({ name: "n" })),
  of(
    "remove with an unknown mode",
    start(),
    legacy({ device: "n" }),
    remove({ name: "n", mode: "nonsense" }),
  ),
  of("unknown bitmap", start(), legacy({ device: "n", bitmap: "nobody" })),
  of("no arguments", start(), { execute: "nbd-server-add" }),
]);

const file: Case = {
  name: "",
  files: { "a.raw": { size: 1048576, noise: 5 } },
  args: [
    "--blockdev",
    "file,node-name=f,filename=a.raw",
    "--nbd-server",
    "addr.type=unix,addr.path=nbd",
    "--export",
    "nbd,id=e,node-name=f,writable=on",
  ],
  needs: ["qemu-io"],
};
const write = (at: string): Step => ({
  tool: ["qemu-io", "-f", "raw", "-c", `write -q ${at} 4k`, "nbd+unix:///f?socket=nbd"],
});
/** What two writes are to the counters: qemu-io flushes when it ends. */
const WRITTEN = { wr_operations: 2, wr_bytes: 8192, flush_operations: 2 };

parity("events and statistics of a written export", [
  {
    ...file,
    name: "a write beyond the threshold is told once",
    steps: [
      {
        execute: "block-set-write-threshold",
        arguments: { "node-name": "f", "write-threshold": 65536 },
      },
      write("0"),
      write("60k"),
      { execute: "query-named-block-nodes" },
      write("62k"),
      { event: "BLOCK_WRITE_THRESHOLD" },
      write("128k"),
      { execute: "query-named-block-nodes" },
    ],
  },
  {
    ...file,
    name: "statistics of the node",
    steps: [write("0"), write("512k"), {
      execute: "query-blockstats",
      arguments: { "query-nodes": true },
    }],
    differs: {
      reason: "`query-blockstats` counts what exports and jobs have asked of a node",
      expect: (theirs) => {
        const steps = structuredClone(theirs.steps);
        const { return: [{ stats }] } = steps.at(-1) as {
          return: [{ stats: Record<string, unknown> }];
        };
        Object.assign(stats, WRITTEN);
        return { ...theirs, steps };
      },
    },
  },
  {
    ...file,
    name: "exports are deleted before the end",
    steps: [{ execute: "quit" }, { ends: true }],
  },
  {
    ...file,
    name: "exports are deleted on SIGTERM",
    steps: [{ execute: "query-block-exports" }, { signal: "SIGTERM" }],
  },
]);

const io = (...commands: string[]): Step => ({
  tool: [
    "sh",
    "-c",
    `qemu-io -f raw ${commands.map((one) => `-c '${one}'`).join(" ")} 'nbd+unix:///f?socket=nbd' |
     sed 's/, [0-9]* ops.*//'`,
  ],
});
const length: Step = { tool: ["nbdinfo", "--size", "nbd+unix:///f?socket=nbd"] };
const cut = (size: string): Step => ({ tool: ["truncate", "-s", size, "a.raw"] });
const nodes: Step = { execute: "query-named-block-nodes" };
const blockResize = (size: number): Step => ({
  execute: "block_resize",
  arguments: { "node-name": "f", size },
});
parity("an exported image that changes its length underneath", [
  {
    ...file,
    name: "what it grows by is not seen",
    needs: ["qemu-io", "nbdinfo"],
    steps: [cut("2M"), length, io("read 1020k 4k", "write 1020k 4k", "length"), nodes, {
      tool: ["stat", "-c", "%s", "a.raw"],
    }],
  },
  {
    ...file,
    name: "what it lost reads as zeroes, and comes back when it is written",
    needs: ["qemu-io", "nbdinfo"],
    steps: [
      cut("64k"),
      length,
      io("read 0 64k", "read -P 0 512k 64k", "read -P 0 60k 8k", "read -P 0 1020k 4k"),
      io("write -P 7 512k 4k", "read -P 7 512k 4k", "read -P 0 508k 4k", "write -z 900k 4k"),
      nodes,
      { tool: ["stat", "-c", "%s", "a.raw"] },
    ],
  },
  {
    ...file,
    name: "block_resize is refused until the export is gone",
    needs: ["nbdinfo"],
    steps: [
      blockResize(2097152),
      del({ id: "e" }),
      deleted,
      blockResize(2097152),
      add({ "node-name": "f" }),
      length,
    ],
  },
]);
