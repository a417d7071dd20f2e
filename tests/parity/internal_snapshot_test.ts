/** Snapshots inside images: what is taken, shown and removed, and what is refused in which words. */
import { type Case, parity, type Step } from "./mould.ts";

const add = (args: Record<string, unknown>): Step => ({ execute: "blockdev-add", arguments: args });
const del = (name: string): Step => ({
  execute: "blockdev-del",
  arguments: { "node-name": name },
});
const take = (device: string, name: string): Step => ({
  execute: "blockdev-snapshot-internal-sync",
  arguments: { device, name },
});
const remove = (device: string, which: { id?: string; name?: string }): Step => ({
  execute: "blockdev-snapshot-delete-internal-sync",
  arguments: { device, ...which },
});

const FILE = { driver: "file", "node-name": "f", filename: "a.qcow2" };
const QCOW2 = { driver: "qcow2", "node-name": "q", file: "f" };
const create = (options: string, name: string) => ({
  make: ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, name, "1M"],
});
const files = {
  "a.qcow2": create("cluster_size=64k", "a.qcow2"),
  "one.qcow2": create("refcount_bits=1,preallocation=metadata", "one.qcow2"),
  "data.qcow2": create("data_file=data.raw", "data.qcow2"),
  "b.raw": { size: 1048576 },
};
const of = (name: string, ...steps: Step[]): Case => ({ name, files, steps });
const open = [add(FILE), add(QCOW2)];

parity("internal snapshots", [
  of("taken twice by one name", ...open, take("q", "a"), take("q", "a"), take("q", "b")),
  of("empty name and unknown device", ...open, take("q", ""), take("nobody", "a"), take("", "a")),
  of("of a child", ...open, take("f", "a"), remove("f", { id: "1" })),
  of(
    "refused by formats without them",
    add({ ...FILE, filename: "b.raw" }),
    take("f", "a"),
    remove("f", { id: "1" }),
    add({ driver: "raw", "node-name": "r", file: "f" }),
    take("r", "a"),
    remove("r", { name: "a" }),
    add({ driver: "null-co", "node-name": "n" }),
    take("n", "a"),
  ),
  of(
    "through a raw node",
    ...open,
    add({ driver: "raw", "node-name": "r", file: "q" }),
    take("r", "a"),
    take("q", "b"),
    remove("r", { id: "7" }),
    del("r"),
    take("q", "a"),
  ),
  of(
    "with an external data file",
    add({
      driver: "qcow2",
      "node-name": "d",
      file: { driver: "file", filename: "data.qcow2" },
      "data-file": { driver: "file", filename: "data.raw" },
    }),
    take("d", "a"),
    remove("d", { id: "1" }),
  ),
  of(
    "refused by counts of one bit",
    add({ ...FILE, filename: "one.qcow2" }),
    add(QCOW2),
    // The original leaks a cluster here; that qsd does not is tested beside the source.
    take("q", "a"),
  ),
  of(
    "removed by what is not there",
    ...open,
    take("q", "a"),
    take("q", "b"),
    remove("q", {}),
    remove("q", { id: "9" }),
    remove("q", { name: "nobody" }),
    remove("q", { id: "2", name: "a" }),
    remove("q", { id: "", name: "" }),
    remove("nobody", { id: "1" }),
  ),
  of(
    "read-only",
    add({ ...FILE, "read-only": true }),
    add({ ...QCOW2, "read-only": true }),
    take("q", "a"),
    take("q", ""),
  ),
  of(
    "bad arguments",
    ...open,
    {
      execute: "blockdev-snapshot-internal-sync",
      arguments: { device: "q" },
    },
    { execute: "blockdev-snapshot-internal-sync", arguments: { device: "q", name: 1 } },
    {
      execute: "blockdev-snapshot-delete-internal-sync",
      arguments: { name: "a" },
    },
  ),
]);
