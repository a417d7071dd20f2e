/** blockdev-create for file, and the jobs that it makes: events, errors, verbs. */
import { type Case, parity, type Step } from "./mould.ts";

const create = (options: Record<string, unknown>, id: unknown = "j"): Step => ({
  execute: "blockdev-create",
  arguments: { "job-id": id, options },
});
const file = (more: Record<string, unknown> = {}) => ({
  driver: "file",
  filename: "new.img",
  size: 1 << 20,
  ...more,
});
const verb = (name: string, id = "j"): Step => ({ execute: `job-${name}`, arguments: { id } });
const query: Step = { execute: "query-jobs" };
const moved: Step = { event: "JOB_STATUS_CHANGE" };
/** created, running, waiting, pending, concluded. */
const succeeds: Step[] = [moved, moved, moved, moved, moved, query];
/** created, running, aborting, concluded. */
const fails: Step[] = [moved, moved, moved, moved, query];
const size: Step = { tool: ["stat", "-c", "%s", "new.img"] };

const of = (name: string, ...steps: Step[]): Case => ({
  name,
  args: ["--blockdev", "null-co,node-name=n"],
  steps,
});
const once = (name: string, options: Record<string, unknown>, ...how: Step[]): Case =>
  of(name, create(options), ...how, verb("dismiss"), moved, query);

parity("blockdev-create", [
  once("a file", file(), ...succeeds, size),
  once("of no bytes", file({ size: 0 }), ...succeeds, size),
  once("of an odd size", file({ size: 1_000_001 }), ...succeeds, size),
  ...["off", "falloc", "full"].map((preallocation) =>
    once(`preallocation ${preallocation}`, file({ preallocation }), ...succeeds, {
      tool: ["stat", "-c", "%s %b", "new.img"],
    })
  ),
  once("preallocation metadata", file({ preallocation: "metadata" }), ...fails),
  once("nocow", file({ nocow: true }), ...succeeds),
  once("extent-size-hint", file({ "extent-size-hint": 65536 }), ...succeeds),
  once("extent-size-hint that is too large", file({ "extent-size-hint": 2 ** 40 }), ...fails),
  once("in a folder that is not there", file({ filename: "no/such.img" }), ...fails),
  once("without a name", file({ filename: "" }), ...fails),
  once("a folder", file({ filename: "." }), ...fails),
  once("a device", file({ filename: "/dev/null" }), ...fails),
  {
    ...once("over an image whose size is fixed by an export", file(), ...fails),
    files: { "new.img": { size: 4096 } },
    args: [
      ...["--blockdev", "file,node-name=n,filename=new.img"],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd", "--export", "nbd,id=e,node-name=n"],
    ],
  },
  {
    ...once("over an old file", file({ size: 512 }), ...succeeds, size),
    files: { "new.img": { size: 1 << 20, noise: 3 } },
  },
]);

parity("blockdev-create refuses", [
  of(
    "drivers that cannot",
    ...["null-co", "host_device", "raw"].map((driver) => create({ driver })),
  ),
  of("drivers before ids", create({ driver: "null-co" }, "a b")),
  of("bad ids", create(file(), ""), create(file(), "1"), create(file(), "a b"), query),
  of("ids in use", create(file()), ...succeeds, create(file()), query),
  of("missing members", create({ driver: "file" }), create({ driver: "file", filename: "x" })),
  of("unknown members", create(file({ nope: 1 })), create({ driver: "raw", size: 1 })),
  of("unknown driver and mode", create({ driver: "zz" }), create(file({ preallocation: "zz" }))),
  of("wrong types", create(file({ size: "1M" })), create(file({ nocow: 1 })), create(file(), 3)),
]);

parity("job verbs", [
  of(
    "on a job that has concluded",
    create(file()),
    ...succeeds,
    ...["pause", "cancel", "complete", "finalize"].map((name) => verb(name)),
    verb("resume"),
  ),
  of(
    "on no job",
    ...["pause", "resume", "cancel", "complete", "finalize", "dismiss"].map((name) => verb(name)),
  ),
  of(
    "several jobs are listed newest first",
    create(file(), "a"),
    ...succeeds,
    create(file(), "b"),
    ...succeeds,
  ),
  of("dismiss twice", create(file()), ...succeeds, verb("dismiss"), verb("dismiss")),
]);
