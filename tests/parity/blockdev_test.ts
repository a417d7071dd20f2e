/** Commands on block nodes: what succeeds, what is refused, and in which words. */
import { type Case, parity, says, type Step } from "./mould.ts";

const add = (args: Record<string, unknown>): Step => ({ execute: "blockdev-add", arguments: args });
const del = (name: string): Step => ({
  execute: "blockdev-del",
  arguments: { "node-name": name },
});
const reopen = (...options: Record<string, unknown>[]): Step => ({
  execute: "blockdev-reopen",
  arguments: { options },
});
const refusal = (desc: string) => ({ error: { class: "GenericError", desc } });
const nodes: Step = { execute: "query-named-block-nodes" };
const flat: Step = { execute: "query-named-block-nodes", arguments: { flat: true } };
const NULL = { driver: "null-co", "node-name": "n", size: 1048576 };
const FILE = { driver: "file", "node-name": "f", filename: "a.raw" };
const RAW = { driver: "raw", "node-name": "r", file: "f" };
const TOP = { driver: "qcow2", "node-name": "t", file: { driver: "file", filename: "t" } };
const files = { "a.raw": { size: 1048576, noise: 3 }, "b.raw": { size: 65536, noise: 4 } };
const of = (name: string, ...steps: Step[]): Case => ({ name, files, steps });

parity("blockdev-add", [
  of("null-co and its shape", add(NULL), nodes, flat),
  of("null-aio and its shape", add({ ...NULL, driver: "null-aio" }), nodes),
  of("null-co without a size", add({ driver: "null-co", "node-name": "n" }), nodes),
  of("a file and its shape", add(FILE), nodes),
  of("a read-only file", add({ ...FILE, "read-only": true }), nodes),
  of("a file with auto-read-only", add({ ...FILE, "auto-read-only": true }), nodes),
  of("a file with cache.direct", add({ ...FILE, cache: { direct: true } }), nodes),
  of("a file with no-flush", add({ ...FILE, cache: { "no-flush": true } }), nodes),
  of(
    "a file with discard and detect-zeroes",
    add({ ...FILE, discard: "unmap", "detect-zeroes": "unmap" }),
    nodes,
  ),
  of("raw on a file by name", add(FILE), add(RAW), nodes, flat),
  of("raw on a nested file", add({ ...RAW, file: { driver: "file", filename: "a.raw" } }), nodes),
  of("raw on a nested named file", add({ ...RAW, file: FILE }), nodes),
  of("raw with a window", add({ ...RAW, file: FILE, offset: 4096, size: 8192 }), nodes),
  of("raw at the very end", add({ ...RAW, file: FILE, offset: 1048576 }), nodes),
  of("raw past the end", add({ ...RAW, file: FILE, offset: 1048577 }), nodes),
  of("raw with a size past the end", add({ ...RAW, file: FILE, size: 2097152 }), nodes),
  of("raw with an odd size", add({ ...RAW, file: FILE, size: 1000 }), nodes),
  of("raw with an odd offset", add({ ...RAW, file: FILE, offset: 100 }), nodes),
  of(
    "raw on raw on a file",
    add(FILE),
    add(RAW),
    add({ driver: "raw", "node-name": "s", file: "r" }),
    nodes,
  ),
  of(
    "two windows on one file",
    add(FILE),
    add({ ...RAW, offset: 0, size: 4096 }),
    add({ ...RAW, "node-name": "s", offset: 4096 }),
    nodes,
  ),
  of("the same name twice", add(NULL), add(NULL), nodes),
  of(
    "the same name as a nested child",
    add({ ...RAW, file: FILE }),
    add({ ...NULL, "node-name": "f" }),
    nodes,
  ),
  of("the child's name is the node's", add({ ...RAW, "node-name": "f", file: FILE }), nodes),
  of("no name", add({ driver: "null-co" }), nodes),
  of(
    "bad names",
    ...["", "1", "-a", "a b", "a/b", "#block1", "é", "n".repeat(32)].map((name) =>
      add({ ...NULL, "node-name": name })
    ),
  ),
  of(
    "good names",
    ...["a", "a-b.c_d", "A1", "n".repeat(31)].map((name) => add({ ...NULL, "node-name": name })),
    nodes,
  ),
  of("no driver", add({ "node-name": "n" })),
  of("unknown driver", add({ driver: "nonsense", "node-name": "n" })),
  of("driver of a wrong type", add({ driver: 1, "node-name": "n" })),
  of("unknown member", add({ ...NULL, nonsense: 1 })),
  of("unknown nested member", add({ ...RAW, file: { ...FILE, nonsense: 1 } })),
  of("unknown child", add({ ...RAW, file: "nobody" })),
  of("missing child", add({ driver: "raw", "node-name": "r" })),
  of("missing file", add({ ...FILE, filename: "nobody" })),
  of("missing nested file", add({ ...RAW, file: { ...FILE, filename: "nobody" } }), nodes),
  of("missing filename", add({ driver: "file", "node-name": "f" })),
  of("no arguments", { execute: "blockdev-add" }),
  of("backing on a driver without one", add({ ...NULL, backing: null })),
  of("force-share on a writable node", add({ ...NULL, "force-share": true })),
  of("detect-zeroes=unmap without discard", add({ ...NULL, "detect-zeroes": "unmap" })),
  of("read-only raw on a writable file", add(FILE), add({ ...RAW, "read-only": true }), nodes),
  of("writable raw on a read-only file", add({ ...FILE, "read-only": true }), add(RAW), nodes),
  of(
    "writable window on a read-only file",
    add({ ...FILE, "read-only": true }),
    add({ ...RAW, size: 512 }),
    nodes,
  ),
  of(
    "odd and huge sizes",
    ...[511, 513, 2 ** 40].map((size, at) => add({ ...NULL, "node-name": `n${at}`, size })),
    nodes,
  ),
]);

parity("an empty backing", [
  {
    name: "means none",
    files: {
      base: { make: ["qemu-img", "create", "-f", "raw", "base", "1M"] },
      t: { make: ["qemu-img", "create", "-f", "qcow2", "-b", "base", "-F", "raw", "t"] },
    },
    needs: ["qemu-img"],
    args: [
      "--blockdev",
      "qcow2,node-name=c,file.driver=file,file.filename=t,read-only=on,backing=",
    ],
    steps: [
      nodes,
      del("c"),
      add({ ...TOP, backing: "" }),
      flat,
      reopen({ ...TOP, backing: "" }),
      del("t"),
      add({ driver: "raw", "node-name": "r", file: { ...TOP, "node-name": "i", backing: "" } }),
      flat,
      add({ ...FILE, backing: "" }),
    ],
    differs: says(
      "every warning begins with the program's name",
      (stderr) => stderr.replace(/^(?=warning: )/gm, "qemu-storage-daemon: "),
    ),
  },
]);

parity("blockdev-del", [
  of("a node", add(NULL), del("n"), nodes),
  of("nobody", del("nobody")),
  of("an empty name", del("")),
  of("a node with a parent", add(FILE), add(RAW), del("f"), del("r"), del("f"), nodes),
  {
    ...of(
      "a backing node, given and inline",
      add(FILE),
      add({ ...TOP, backing: "f" }),
      del("f"),
      add({ ...TOP, "node-name": "u", file: { driver: "file", filename: "u" }, backing: "f" }),
      del("f"),
      del("u"),
      del("f"),
      del("t"),
      del("f"),
      add({ ...TOP, backing: FILE }),
      del("f"),
      del("t"),
    ),
    files: {
      ...files,
      t: { make: ["qemu-img", "create", "-f", "qcow2", "t", "1M"] },
      u: { copy: "t" },
    },
    needs: ["qemu-img"],
  },
  of("a nested child", add({ ...RAW, file: FILE }), del("f"), del("r"), nodes),
  of("no arguments", { execute: "blockdev-del" }),
  of("a name of a wrong type", { execute: "blockdev-del", arguments: { "node-name": 1 } }),
  of("twice", add(NULL), del("n"), del("n"), add(NULL), nodes),
]);

parity("blockdev-reopen", [
  of("nobody", reopen(NULL)),
  of("no name", reopen({ driver: "null-co" })),
  of("nothing changed", add(NULL), reopen(NULL), nodes),
  of(
    "to read-only and back",
    add(FILE),
    reopen({ ...FILE, "read-only": true }),
    nodes,
    reopen(FILE),
    nodes,
  ),
  of("another filename", add(FILE), reopen({ ...FILE, filename: "b.raw" }), nodes),
  {
    ...of("another driver", add(FILE), reopen({ ...NULL, "node-name": "f" }), nodes),
    differs: {
      reason: "the original names an option that only the old driver has, qsd what is wrong",
      expect: (theirs) => ({
        ...theirs,
        steps: theirs.steps.with(1, refusal("Cannot change the option 'driver'")),
      }),
    },
  },
  of("another size of null-co", add(NULL), reopen({ ...NULL, size: 4096 }), nodes),
  of(
    "cache and discard",
    add(FILE),
    reopen({ ...FILE, cache: { direct: true }, discard: "unmap" }),
    nodes,
  ),
  of(
    "discard, which stays where it is not named",
    add({ ...FILE, discard: "unmap" }),
    reopen({ ...FILE, "detect-zeroes": "unmap" }),
    reopen({ ...FILE, discard: "ignore" }),
    reopen({ ...FILE, "detect-zeroes": "unmap" }),
    nodes,
  ),
  of(
    "a raw window",
    add(FILE),
    add(RAW),
    reopen({ ...RAW, offset: 4096 }),
    nodes,
    reopen({ ...RAW, size: 512 }),
    nodes,
    reopen(RAW),
    nodes,
  ),
  of("a raw window past the end", add(FILE), add(RAW), reopen({ ...RAW, size: 2097152 }), nodes),
  of(
    "another child",
    add(FILE),
    add({ ...FILE, "node-name": "g", filename: "b.raw" }),
    add(RAW),
    reopen({ ...RAW, file: "g" }),
    nodes,
  ),
  of("an unknown child", add(FILE), add(RAW), reopen({ ...RAW, file: "nobody" }), nodes),
  of("without the child", add(FILE), add(RAW), reopen({ driver: "raw", "node-name": "r" }), nodes),
  of(
    "two at once, the second fails",
    add(FILE),
    add(RAW),
    reopen({ ...FILE, "read-only": true }, { ...RAW, file: "nobody" }),
    nodes,
  ),
  of(
    "file read-only beneath a writable raw",
    add(FILE),
    add(RAW),
    reopen({ ...FILE, "read-only": true }),
    nodes,
  ),
  of("not a list", { execute: "blockdev-reopen", arguments: { options: {} } }),
  of("a list of a wrong type", { execute: "blockdev-reopen", arguments: { options: [1] } }),
  of("no arguments", { execute: "blockdev-reopen" }),
]);

const resize = (args: Record<string, unknown>): Step => ({
  execute: "block_resize",
  arguments: args,
});
parity("block_resize", [
  of(
    "grows and shrinks a file",
    add(FILE),
    resize({ "node-name": "f", size: 2097152 }),
    nodes,
    resize({ "node-name": "f", size: 512 }),
    nodes,
    { tool: ["stat", "-c", "%s", "a.raw"] },
  ),
  of("to nothing", add(FILE), resize({ "node-name": "f", size: 0 }), nodes),
  of("to an odd size", add(FILE), resize({ "node-name": "f", size: 1000 }), nodes, {
    tool: ["stat", "-c", "%s", "a.raw"],
  }),
  of("negative", add(FILE), resize({ "node-name": "f", size: -1 })),
  of("nobody", resize({ "node-name": "nobody", size: 512 })),
  of("by device", add(FILE), resize({ device: "f", size: 512 })),
  of("by both", add(FILE), resize({ device: "f", "node-name": "f", size: 512 })),
  of("by neither", add(FILE), resize({ size: 512 })),
  of("without a size", add(FILE), resize({ "node-name": "f" })),
  of(
    "a read-only node",
    add({ ...FILE, "read-only": true }),
    resize({ "node-name": "f", size: 512 }),
  ),
  of("null-co", add(NULL), resize({ "node-name": "n", size: 512 })),
  of("raw", add(FILE), add(RAW), resize({ "node-name": "r", size: 512 }), nodes),
  of(
    "a raw window with a size",
    add(FILE),
    add({ ...RAW, size: 4096 }),
    resize({ "node-name": "r", size: 8192 }),
    nodes,
  ),
  of(
    "a raw window with an offset",
    add(FILE),
    add({ ...RAW, offset: 4096 }),
    resize({ "node-name": "r", size: 8192 }),
    nodes,
    { tool: ["stat", "-c", "%s", "a.raw"] },
  ),
  of(
    "a file beneath a window",
    add(FILE),
    add({ ...RAW, size: 4096 }),
    resize({ "node-name": "f", size: 8192 }),
  ),
]);

const threshold = (args: Record<string, unknown>): Step => ({
  execute: "block-set-write-threshold",
  arguments: args,
});
const stats = (query: boolean): Step => ({
  execute: "query-blockstats",
  arguments: { "query-nodes": query },
});
parity("queries", [
  of("query-block is empty", add(NULL), { execute: "query-block" }),
  of("query-blockstats is empty", add(NULL), { execute: "query-blockstats" }),
  of(
    "query-blockstats of nodes",
    add(NULL),
    add({ ...RAW, file: FILE }),
    stats(true),
    stats(false),
  ),
  of(
    "write threshold is kept",
    add(FILE),
    threshold({ "node-name": "f", "write-threshold": 4096 }),
    nodes,
    threshold({ "node-name": "f", "write-threshold": 0 }),
    nodes,
  ),
  of("write threshold of nobody", threshold({ "node-name": "nobody", "write-threshold": 1 })),
  of("write threshold without a value", add(FILE), threshold({ "node-name": "f" })),
  of("flat of a wrong type", { execute: "query-named-block-nodes", arguments: { flat: "yes" } }),
]);
