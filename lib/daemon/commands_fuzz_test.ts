/**
 * Every command with arguments made from its schema, against a live daemon in this process: the reply is a result
 * or an error of a known class, never a bug of ours, and after an error the daemon is as it was before. From time to
 * time the daemon is stopped as it stands, and another one started. QSD_FUZZ_CASES sets the number of cases,
 * QSD_FUZZ_SEED the seed.
 */
import assert from "node:assert/strict";
import { traceEvents, TraceRegistry } from "../observe/mod.ts";
import { chance, type Pick } from "../base/mod.ts";
import { almost, type Taste } from "../qmp/arbitrary.ts";
import { Dispatcher, type JsonValue, writeJson } from "../qmp/mod.ts";
import { allCommands } from "../qmp/schema/mod.ts";
import { createContext, LinuxSys } from "../sys/mod.ts";
import { Services } from "./services.ts";

function setting(name: string, byDefault: number): number {
  const permission = Deno.permissions.querySync({ name: "env", variable: name });
  return permission.state === "granted" ? Number(Deno.env.get(name) ?? byDefault) : byDefault;
}
const cases = setting("QSD_FUZZ_CASES", 1500);
const firstSeed = setting("QSD_FUZZ_SEED", 1);
/** Cases before the daemon is stopped and another one started. */
const LIFE = 250;

const CLASSES = ["GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound"];
const errors = ["error"];

const names = ["n", "m", "f", "r", "e", "x", "", "1", "a b", "#block1", "x".repeat(40), "\u00e9"];
const files = ["a.img", "b.img", "missing.img", "no/such.img", "", ".", "x\0y", "/dev/null"];
/** Never an image's: what character devices write, they write whether or not they come to life. */
const outputs = ["a.log", "no/such.log", "", ".", "x\0y"];
/** Words by the member that they are for; nothing here leaves the test's folder or this process. */
const words: Readonly<Record<string, readonly string[]>> = {
  filename: files,
  file: [...names, ...files],
  path: ["sock", "no/such/sock", "", "/", "/objects", "/objects/x", "s", "objects", "/chardevs"],
  paths: ["/", "/objects", "x", "zz"],
  in: outputs,
  out: outputs,
  logfile: outputs,
  device: names,
  host: ["127.0.0.1", "::1", ""],
  port: ["0", "x", "", "70000"],
  str: ["nobody", "", "a b"],
  property: ["type", "data", "x", "__proto__", "format"],
  typename: ["secret", "object", "zz", "constructor"],
  implements: ["object", "user-creatable", "zz"],
  chardev: ["c", "d", "zz", ""],
  name: [...names, "qmp_*", "nbd_receive_request", "*"],
  data: ["abc", "YWJj", "!"],
};
/** Words that reach out of this process: its own descriptors and terminal, devices, other machines. */
const withheld = ["fd", "vsock", "stdio", "pty", "serial", "parallel", "udp", "host_cdrom"];

const taste: Taste = {
  text: (member, pick) => pickOf(words[member] ?? names, pick),
  integer: (_member, pick) => pickOf([0, 1, 512, 4096, 65536, 1 << 20, -1, 2n ** 64n - 1n], pick),
  words: (_member, values) => values.filter((value) => !withheld.includes(value)),
};

const pickOf = <T>(list: readonly T[], pick: Pick): T => list[pick(list.length)]!;

/** A daemon with a few things in it. */
class Subject {
  readonly bugs: string[] = [];
  readonly services: Services;
  private readonly sys = new LinuxSys();
  private readonly dispatcher: Dispatcher;

  constructor() {
    const registry = new TraceRegistry(traceEvents, { write() {}, realtimeUs: () => 0 });
    const log = { error: (text: string) => void this.bugs.push(text), warn() {}, info() {} };
    const trace = (name: string) => registry.point("main", name);
    this.services = new Services(
      createContext({ name: "main", sys: this.sys, log, trace }),
      registry,
    );
    const bug = (command: string, error: unknown) =>
      void this.bugs.push(`${command}: ${(error as Error).stack ?? error}`);
    this.dispatcher = new Dispatcher(this.services.commands, bug, trace);
  }

  async run(execute: string, args: unknown): Promise<Record<string, unknown>> {
    const request = { execute, arguments: args } as JsonValue;
    const reply = await this.dispatcher.dispatch(
      request,
      { negotiated: true, oob: false },
      () => {},
    );
    return reply as unknown as Record<string, unknown>;
  }

  async furnish(): Promise<void> {
    const { jobs, commands } = this.services;
    const done = async (execute: string, args: unknown) =>
      assert.deepEqual(await this.run(execute, args), { return: {} }, execute);
    await done("blockdev-create", {
      "job-id": "first",
      options: { driver: "file", filename: "a.img", size: 65536 },
    });
    await jobs.find("first").concluded;
    await done("blockdev-add", { driver: "file", "node-name": "f", filename: "a.img" });
    await done("blockdev-add", { driver: "raw", "node-name": "r", file: "f" });
    await done("blockdev-add", { driver: "null-co", "node-name": "n", size: 65536 });
    await done("object-add", { "qom-type": "secret", id: "s", data: "abc" });
    if (commands.find("chardev-add") !== undefined) {
      await done("chardev-add", { id: "c", backend: { type: "null", data: {} } });
    }
  }

  /** All that can be asked. */
  async state(): Promise<string> {
    const asked = [
      await this.run("query-named-block-nodes", {}),
      await this.run("x-debug-query-block-graph", {}),
      await this.run("query-block-exports", {}),
      await this.run("query-jobs", {}),
      await this.run("query-chardev", {}),
      await this.run("qom-list-get", { paths: ["/", "/objects", "/chardevs"] }),
      await this.run("trace-event-get-state", { name: "nbd_*" }),
    ];
    return asked.map((one) => writeJson(one)).join("\n");
  }

  /** Waits for what commands have set going. */
  async settle(): Promise<void> {
    const { jobs, exports } = this.services;
    for (const job of jobs.list()) if (job.status === "running") await job.concluded;
    for (const one of exports.list()) await one.gone;
  }

  async end(): Promise<void> {
    await this.services.stop();
    this.sys.dispose();
  }
}

/** One life of a daemon. Returns how many commands succeeded, and which failed at least once. */
async function live(seeds: readonly number[]): Promise<{ succeeded: number; failed: string[] }> {
  const commands = Object.keys(allCommands).filter((name) => name !== "quit");
  const subject = new Subject();
  const failed = new Set<string>();
  let succeeded = 0;
  try {
    await subject.furnish();
    let before = await subject.state();
    for (const seed of seeds) {
      const pick = chance(seed);
      const name = pickOf(commands, pick);
      const args = almost(allCommands[name]!.arguments, pick, taste);
      const what = `seed ${seed}: ${name} ${writeJson(args)}`;
      const reply = await subject.run(name, args);
      assert.deepEqual(subject.bugs, [], what);
      if ("return" in reply) {
        succeeded++;
        await subject.settle();
        before = await subject.state();
        continue;
      }
      failed.add(name);
      assert.deepEqual(Object.keys(reply), errors, what);
      const error = reply["error"] as { class: string; desc: string };
      assert.ok(CLASSES.includes(error.class) && error.desc !== "", what);
      assert.equal(await subject.state(), before, `${what} (${error.desc}) changed the daemon`);
    }
  } catch (error) {
    // What the end says after that is not the reason.
    await subject.end().catch(() => {});
    throw error;
  }
  await subject.end();
  return { succeeded, failed: [...failed] };
}

Deno.test("commands with arguments from the schema: an error leaves the daemon as it was", async () => {
  const home = Deno.cwd();
  const folder = await Deno.makeTempDir();
  const failed = new Set<string>();
  let succeeded = 0;
  try {
    for (let seed = firstSeed; seed < firstSeed + cases; seed += LIFE) {
      const count = Math.min(LIFE, firstSeed + cases - seed);
      const place = await Deno.makeTempDir({ dir: folder });
      Deno.chdir(place);
      const life = await live(Array.from({ length: count }, (_, i) => seed + i));
      Deno.chdir(home);
      await Deno.remove(place, { recursive: true });
      life.failed.forEach((name) => failed.add(name));
      succeeded += life.succeeded;
    }
  } finally {
    Deno.chdir(home);
    await Deno.remove(folder, { recursive: true });
  }
  // The values are neither all good nor all bad, and reach the commands that take any.
  assert.ok(succeeded > cases / 20, `only ${succeeded} of ${cases} commands succeeded`);
  assert.ok(succeeded < cases * 0.9, `${succeeded} of ${cases} commands succeeded`);
  for (const name of ["blockdev-add", "object-add", "blockdev-create"]) assert.ok(failed.has(name));
});
