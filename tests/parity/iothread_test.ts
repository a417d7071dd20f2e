/** IOThreads: the objects and their properties, which thread exports and nodes may be moved to, what is refused. */
import { type Case, parity, type Step, together } from "./mould.ts";
import { qomGet as get, qomSet as set } from "./steps.ts";

const object = (args: Record<string, unknown>): Step => ({
  execute: "object-add",
  arguments: args,
});
const iothread = (id: string, more: Record<string, unknown> = {}): Step =>
  object({ "qom-type": "iothread", id, ...more });
const del = (id: string): Step => ({ execute: "object-del", arguments: { id } });
const node = (name: string): Step => ({
  execute: "blockdev-add",
  arguments: { driver: "null-co", "node-name": name, size: 65536 },
});
const exported = (id: string, more: Record<string, unknown> = {}): Step => ({
  execute: "block-export-add",
  arguments: { type: "nbd", id, name: id, "node-name": "n", ...more },
});
const place = (name: string, iothread: string | null, force?: boolean): Step => ({
  execute: "x-blockdev-set-iothread",
  arguments: { "node-name": name, iothread, ...(force === undefined ? {} : { force }) },
});
const unexport = (id: string): Step[] => [
  { execute: "block-export-del", arguments: { id } },
  { event: "BLOCK_EXPORT_DELETED" },
];
const fixed = { "fixed-iothread": true };

const of = (name: string, ...steps: Step[]): Case => ({
  name,
  args: ["--nbd-server", "addr.type=unix,addr.path=nbd"],
  steps,
});
const properties = [
  "poll-max-ns",
  "poll-grow",
  "poll-shrink",
  "aio-max-batch",
  "thread-pool-min",
  "thread-pool-max",
];

together("iothread objects", [
  of("defaults", iothread("a"), ...properties.map((one) => get("/objects/a", one)), del("a")),
  of("what qom-list shows", iothread("a"), {
    execute: "qom-list",
    arguments: { path: "/objects/a" },
  }, del("a")),
  of(
    "given and changed",
    iothread("a", { "poll-max-ns": 0, "poll-grow": 3, "poll-shrink": 2, "aio-max-batch": 7 }),
    ...properties.map((one) => get("/objects/a", one)),
    set("/objects/a", "poll-max-ns", 5),
    set("/objects/a", "thread-pool-max", 80),
    set("/objects/a", "thread-pool-min", 80),
    ...properties.map((one) => get("/objects/a", one)),
    set("/objects/a", "poll-max-ns", "x"),
    set("/objects/a", "poll-max-ns", -1),
    set("/objects/a", "aio-max-batch", -3),
    set("/objects/a", "thread-pool-max", 0),
    set("/objects/a", "thread-pool-max", 79),
    set("/objects/a", "thread-pool-min", 81),
    // The original refuses the last three and shows them all the same.
    ...properties.slice(0, 4).map((one) => get("/objects/a", one)),
    del("a"),
  ),
  of(
    "refused",
    iothread("a", { "poll-max-ns": -1 }),
    iothread("a", { "thread-pool-min": 5, "thread-pool-max": 3 }),
    iothread("a", { "thread-pool-max": 0 }),
    iothread("a", { "poll-grow": -1 }),
    iothread("a", { nonsense: 1 }),
    iothread("1a"),
    iothread("a"),
    iothread("a"),
    del("a"),
    del("a"),
  ),
  of(
    "types",
    { execute: "qom-list-types", arguments: { implements: "event-loop-base" } },
    { execute: "qom-list-properties", arguments: { typename: "iothread" } },
    { execute: "qom-list-properties", arguments: { typename: "main-loop" } },
    { execute: "qom-list-properties", arguments: { typename: "event-loop-base" } },
  ),
]);

parity("the main-loop object", [
  of(
    "one, which stays",
    object({ "qom-type": "main-loop", id: "m", "thread-pool-min": 65 }),
    object({ "qom-type": "main-loop", id: "m", "aio-max-batch": -1 }),
    object({ "qom-type": "main-loop", id: "m" }),
    object({ "qom-type": "main-loop", id: "m2" }),
    get("/objects/m", "thread-pool-max"),
    set("/objects/m", "thread-pool-min", 65),
    set("/objects/m", "thread-pool-min", 2),
    get("/objects/m", "thread-pool-min"),
    del("m"),
  ),
]);

together("exports and nodes in IOThreads", [
  of(
    "exports that are not fixed go where the last one wants",
    ...[iothread("a"), iothread("b"), node("n")],
    exported("e1", { iothread: "a" }),
    exported("e2", { iothread: "b" }),
    exported("e3", { iothread: "b", ...fixed }),
    exported("e4", { iothread: "a", ...fixed }),
    exported("e5", { iothread: "b" }),
    exported("e6", { iothread: "b", ...fixed }),
    exported("e7", { iothread: "zz" }),
    { execute: "query-block-exports" },
    ...["e1", "e2", "e3", "e5", "e6"].flatMap(unexport),
    { execute: "blockdev-del", arguments: { "node-name": "n" } },
    ...[del("a"), del("b")],
  ),
  of(
    "a fixed export keeps its node where it is",
    ...[iothread("a"), iothread("b"), node("n")],
    exported("e1", { iothread: "a", ...fixed }),
    place("n", "b"),
    place("n", "b", true),
    place("n", null),
    place("n", null, true),
    place("n", "a", true),
    place("n", "zz"),
    place("n", "zz", true),
    place("x", "a"),
    ...unexport("e1"),
    { execute: "blockdev-del", arguments: { "node-name": "n" } },
    ...[del("a"), del("b")],
  ),
  of(
    "fixed in the main thread",
    ...[iothread("a"), node("n")],
    exported("e1", fixed),
    place("n", "a"),
    place("n", "a", true),
    exported("e3", { iothread: "a", ...fixed }),
    ...unexport("e1"),
    { execute: "blockdev-del", arguments: { "node-name": "n" } },
    del("a"),
  ),
  of(
    "moved by force, and without users",
    ...[iothread("a"), iothread("b"), node("n")],
    place("n", "a"),
    place("n", "b"),
    exported("e1"),
    place("n", "a"),
    place("n", "a", true),
    place("n", null, true),
    ...unexport("e1"),
    place("n", "b", false),
    place("n", null),
    { execute: "blockdev-del", arguments: { "node-name": "n" } },
    ...[del("a"), del("b")],
  ),
  of(
    "wrong arguments",
    { execute: "x-blockdev-set-iothread", arguments: { "node-name": "n" } },
    { execute: "x-blockdev-set-iothread", arguments: { iothread: null } },
    { execute: "x-blockdev-set-iothread", arguments: { "node-name": "n", iothread: 5 } },
    {
      execute: "x-blockdev-set-iothread",
      arguments: { "node-name": "n", iothread: null, force: 1 },
    },
  ),
]);

parity("iothreads of the command line", [
  ...[
    "iothread,id=a,poll-max-ns=-1",
    "iothread,id=a,poll-max-ns=x",
    "iothread,id=a,thread-pool-max=0",
    "iothread,id=a,thread-pool-min=65",
    "iothread,help",
    "main-loop,help",
    "main-loop,id=m,poll-max-ns=1",
  ].map((argument): Case => ({ name: argument, args: ["--object", argument] })),
  {
    name: "an export on the command line",
    args: [
      ...["--object", "iothread,id=a", "--blockdev", "null-co,node-name=n,size=65536"],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
      ...["--export", "nbd,id=e,node-name=n,iothread=a,fixed-iothread=on"],
      ...["--export", "nbd,id=e2,node-name=n,name=x,iothread=b"],
    ],
  },
]);
