/** Exports of type vhost-user-blk: their options, what is refused, and how they come and go. */
import { type Case, parity, type Step, together } from "./mould.ts";

const unix = (path: string) => ({ type: "unix", path });
const add = (more: Record<string, unknown> = {}): Step => ({
  execute: "block-export-add",
  arguments: { type: "vhost-user-blk", id: "e", "node-name": "n", addr: unix("vu.sock"), ...more },
});
const query: Step = { execute: "query-block-exports" };
const del = (id = "e", mode?: string): Step => ({
  execute: "block-export-del",
  arguments: mode === undefined ? { id } : { id, mode },
});
const gone: Step = { event: "BLOCK_EXPORT_DELETED" };
const node = (more: Record<string, unknown> = {}): Step => ({
  execute: "blockdev-add",
  arguments: { driver: "null-co", "node-name": "n", size: 65536, ...more },
});
const drop: Step = { execute: "blockdev-del", arguments: { "node-name": "n" } };
/** `steps`, which leave no export, with a node `n`. */
const of = (name: string, ...steps: Step[]): Case => ({
  name,
  args: [],
  steps: [node(), ...steps, drop],
});
/** Each is refused. */
const refused = (name: string, ...options: Record<string, unknown>[]): Case =>
  of(name, ...options.map(add), query);

together("vhost-user-blk exports", [
  of("defaults", add(), query, del(), gone, query),
  of(
    "all options",
    node(),
    add({
      writable: true,
      "num-queues": 4,
      "logical-block-size": 4096,
      writethrough: true,
    }),
    query,
    del("e", "hard"),
    gone,
  ),
  of(
    "twice on one node, and one identifier twice",
    node(),
    add(),
    add(),
    add({
      id: "f",
      addr: unix("vu2.sock"),
    }),
    query,
    del("f"),
    gone,
    del(),
    gone,
  ),
  of(
    "a node in use stays",
    node(),
    add(),
    {
      execute: "blockdev-del",
      arguments: { "node-name": "n" },
    },
    del(),
    gone,
    { execute: "blockdev-del", arguments: { "node-name": "n" } },
  ),
  refused("a bad number of queues", { "num-queues": 0 }, { "num-queues": -1 }, {
    "num-queues": 65536,
  }, { "num-queues": "2" }),
  refused(
    "a bad logical block size",
    { "logical-block-size": 256 },
    { "logical-block-size": 513 },
    { "logical-block-size": 4194304 },
    { "logical-block-size": "512" },
  ),
  refused(
    "a bad address",
    { addr: undefined },
    { addr: {} },
    { addr: { type: "unix" } },
    {
      addr: { type: "nowhere" },
    },
    { addr: unix("no/such/directory/vu.sock") },
    {
      addr: { type: "inet", host: "127.0.0.1", port: "0" },
    },
  ),
  refused("what is not there", { "node-name": "nothing" }, { iothread: "nothing" }, {
    id: "not an identifier",
  }, { unknown: 1 }),
  of(
    "a read-only node is not written",
    node({ "read-only": true }),
    add({ writable: true }),
    query,
  ),
  of("deleting what is not there", del(), del("e", "hard"), del("e", "gently")),
]);

const option = (...values: string[]): string[] => [
  "--blockdev",
  "null-co,node-name=n,size=65536",
  ...values.flatMap((value) => ["--export", value]),
];
const vu = "vhost-user-blk,id=e,node-name=n";
parity(
  "--export vhost-user-blk",
  [
    vu,
    `${vu},addr.type=unix`,
    `${vu},addr.type=unix,addr.path=vu.sock,num-queues=0`,
    `${vu},addr.type=unix,addr.path=vu.sock,num-queues=many`,
    `${vu},addr.type=unix,addr.path=vu.sock,logical-block-size=1000`,
    `${vu},addr.type=unix,addr.path=no/such/vu.sock`,
    `${vu},addr.type=unix,addr.path=vu.sock,writable=perhaps`,
    `${vu},addr.type=unix,addr.path=vu.sock,name=n`,
  ].map((value): Case => ({ name: value, args: option(value), steps: [] })),
);
