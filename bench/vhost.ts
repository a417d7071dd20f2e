/**
 * vhost-user-blk, qsd beside qemu-storage-daemon, slice by slice in turn, driven by one load generator
 * (load/vhost.ts): `deno run -A bench/vhost.ts [options]`. Prints Markdown, or JSON.
 *
 * A server that dies in the middle (the original aborts now and then when a front-end leaves) is started again;
 * the slice is repeated, and the report says how often that was, and what the server said.
 */
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { runProgram, type Sample } from "./clients.ts";
import type { VhostResult, VhostWork } from "./load/vhost.ts";
import { describeMachine, fileSystemOf } from "./machine.ts";
import { cell, judge, type RowResult, tables } from "./report.ts";
import { Served } from "./served.ts";
import { ORIGINAL, QSD, signalChild } from "./servers.ts";
import { measured } from "./stats.ts";
import { VHOST_ROWS, type VhostNode, type VhostRow } from "./vhost_rows.ts";

const USAGE = `Usage: deno run -A bench/vhost.ts [options]
  --rows A,B       rows whose name holds A or B; "=NAME" is just that one
  --qsd PROGRAM    what to run as qsd (default: the launcher of this tree)
  --other PROGRAM  a second qsd to run beside it, column "other": an A/B test of two builds
  --slices N       slices a server in each row (default: 5); up to three times as many where rates vary
  --seconds S      seconds a slice (default: 1)
  --dir DIR        where the images are made (default: the directory for temporary files)
  --size MIB       size of the disk (default: 256)
  --json           print JSON
  --output FILE    also write the Markdown to FILE
  --list           print the names of the rows`;

const { values } = parseArgs({
  args: Deno.args.filter((arg) => arg !== "--"),
  options: {
    rows: { type: "string", default: "" },
    qsd: { type: "string", default: QSD.program },
    other: { type: "string" },
    slices: { type: "string", default: "5" },
    seconds: { type: "string", default: "1" },
    dir: { type: "string" },
    size: { type: "string", default: "256" },
    json: { type: "boolean", default: false },
    output: { type: "string" },
    list: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});
const slices = Number(values.slices);
const seconds = Number(values.seconds);
const size = Number(values.size) * 2 ** 20;

function say(text: string): 0 {
  const bytes = new TextEncoder().encode(`${text}\n`);
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  return 0;
}
const note = (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(`${text}\n`));

/** Seconds of load before the first slice of a server: what it compiles while it runs is compiled then. */
const FIRST_WARMUP = 1;
/** How often a slice is tried on a server that dies. */
const TRIES = 5;

/** A server in a row: started again when it has died. */
class Subject {
  readonly samples: Sample[] = [];
  /** Last words of each time it died. */
  readonly deaths: string[] = [];
  #child: Deno.ChildProcess | undefined;
  #ended = false;
  #said = "";
  #drained: Promise<void> = Promise.resolve();
  #socket = "";
  #starts = 0;

  constructor(
    readonly name: string,
    private readonly program: string,
    private readonly row: VhostRow,
    private readonly dir: string,
  ) {}

  /** Starts it, and waits until it listens. Throws with what it said if it ends instead. */
  async start(): Promise<void> {
    const { row } = this;
    this.#socket = `${this.dir}/${this.name}-${this.#starts++}`;
    this.#ended = false;
    this.#said = "";
    const child = new Deno.Command(this.program, {
      args: [
        ...(row.thread ? ["--object", "iothread,id=t"] : []),
        ...nodesOf(row.node, imagePath(this.dir, row.node, this.name)).flatMap((node) => [
          "--blockdev",
          JSON.stringify(node),
        ]),
        "--export",
        `type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=${this.#socket},` +
        `writable=on,num-queues=${row.queues}${row.thread ? ",iothread=t" : ""}`,
      ],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.#child = child;
    this.#drained = this.#listen(child);
    child.status.then(() => void (this.#ended = true));
    const deadline = performance.now() + 10_000;
    while (!await Deno.stat(this.#socket).then(() => true, () => false)) {
      if (this.#ended || performance.now() > deadline) {
        await this.stop();
        throw new Error(`${this.name} does not serve: ${this.#said.trim() || "it is silent"}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async #listen(child: Deno.ChildProcess): Promise<void> {
    const text = child.stderr.pipeThrough(new TextDecoderStream());
    for await (const piece of text) this.#said = (this.#said + piece).slice(-4000);
  }

  /** One slice; again if the server dies in it. Throws what failed while it was alive. */
  async slice(generator: Served<VhostWork, VhostResult>, seed: number): Promise<void> {
    const { row } = this;
    for (let attempt = 1;; attempt++) {
      if (this.#ended) await this.#restart();
      try {
        const { rate, cpuUs } = await generator.run({
          socket: this.#socket,
          write: row.write,
          blockSize: row.blockSize,
          depth: row.depth,
          queues: row.queues,
          polling: row.polling,
          halt: row.halt,
          seconds,
          ...(this.samples.length === 0 ? { warmup: FIRST_WARMUP } : {}),
          size,
          seed,
          pid: this.#child!.pid,
        }, 2 * seconds + 10);
        this.samples.push({ rate, cpuUs });
        return;
      } catch (error) {
        // A process that dumps its core takes a while to end.
        for (let i = 0; i < 50 && !this.#ended; i++) {
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        if (!this.#ended || attempt === TRIES) throw error;
      }
    }
  }

  async #restart(): Promise<void> {
    await this.#bury();
    note(`${this.name} died, and is started again: ${this.deaths.at(-1)}`);
    await this.start();
  }

  async #bury(): Promise<void> {
    const status = await this.#child!.status;
    await this.#drained;
    this.deaths.push(this.#said.trim() || `${status.signal ?? status.code}`);
  }

  /** Ends it. */
  async stop(): Promise<void> {
    if (this.#child === undefined) return;
    if (this.#ended) return await this.#bury();
    signalChild(this.#child, "SIGTERM");
    const killer = setTimeout(() => signalChild(this.#child!, "SIGKILL"), 5000);
    await this.#child.status;
    clearTimeout(killer);
    await this.#drained;
  }
}

function imagePath(dir: string, node: VhostNode, server: string): string {
  return node === "qcow2" ? `${dir}/${server}.qcow2` : `${dir}/raw.img`;
}

function nodesOf(node: VhostNode, filename: string): Record<string, unknown>[] {
  if (node === "null-co") {
    return [{ driver: "null-co", "node-name": "n", size, "read-zeroes": false }];
  }
  const file = { driver: "file", "node-name": "f", filename, locking: "off" };
  return [file, { driver: node, "node-name": "n", file: "f" }];
}

/** One raw image of random bytes for all; a copy as qcow2 for each server. */
async function makeImages(dir: string, nodes: Set<VhostNode>, servers: readonly string[]) {
  if (nodes.has("raw") || nodes.has("qcow2")) {
    const block = randomBytes(2 ** 20);
    using file = Deno.openSync(`${dir}/raw.img`, { write: true, create: true });
    for (let at = 0; at < size; at += block.length) {
      block.writeUInt32LE(at / block.length, 0);
      for (let done = 0; done < block.length;) done += file.writeSync(block.subarray(done));
    }
    file.syncSync();
  }
  if (!nodes.has("qcow2")) return;
  for (const server of servers) {
    const target = imagePath(dir, "qcow2", server);
    await runProgram("qemu-img", ["convert", "-O", "qcow2", `${dir}/raw.img`, target]);
  }
}

/** A row: slices in turns. */
async function measure(
  row: VhostRow,
  subjects: readonly Subject[],
  generator: Served<VhostWork, VhostResult>,
): Promise<RowResult> {
  try {
    for (const subject of subjects) await subject.start();
    const taken = subjects.map(({ samples }) => samples);
    for (let slice = 0; !measured(taken, slices); slice++) {
      for (const subject of subjects) await subject.slice(generator, slice + 1);
    }
  } finally {
    for (const subject of subjects) await subject.stop();
  }
  const cells = Object.fromEntries(subjects.map(({ name, samples }) => [name, cell(samples)]));
  const { id, title } = row;
  return { id, title, unit: "requests/s", cells, checks: judge(row, cells) };
}

function chosenRows(): readonly VhostRow[] {
  const wanted = values.rows.split(",");
  const rows = VHOST_ROWS.filter(({ id }) =>
    wanted.some((word) => word.startsWith("=") ? id === word.slice(1) : id.includes(word))
  );
  if (rows.length === 0) throw new Error(`no row matches ${values.rows}`);
  return rows;
}

interface Run {
  readonly results: readonly RowResult[];
  readonly deaths: readonly string[];
  readonly failures: readonly string[];
}

async function run(dir: string, programs: readonly (readonly [string, string])[]): Promise<Run> {
  const rows = chosenRows();
  const results: RowResult[] = [];
  const deaths: string[] = [];
  const failures: string[] = [];
  await makeImages(dir, new Set(rows.map(({ node }) => node)), programs.map(([name]) => name));
  const generator = new Served<VhostWork, VhostResult>("load/vhost.ts");
  try {
    for (const row of rows) {
      note(row.id);
      const subjects = programs.map(([name, program]) => new Subject(name, program, row, dir));
      try {
        results.push(await measure(row, subjects, generator));
      } catch (error) {
        failures.push(`${row.id}: ${error instanceof Error ? error.message : error}`);
      }
      for (const { name, deaths: words } of subjects) {
        deaths.push(...words.map((text) => `${name} in ${row.id}: ${text}`));
      }
    }
  } finally {
    await generator.close();
  }
  return { results, deaths, failures };
}

async function describe(dir: string, { results, deaths, failures }: Run, names: readonly string[]) {
  const missed = results.flatMap(({ checks }) => checks).filter(({ met }) => !met).length;
  const list = (title: string, lines: readonly string[]) =>
    lines.length === 0 ? [] : [`\n${title}:\n`, lines.map((text) => `- ${text}`).join("\n")];
  return [
    `${
      new Date().toISOString().slice(0, 10)
    }. ${await describeMachine()}. Disk of ${values.size} ` +
    `MiB in the page cache, on ${
      fileSystemOf(dir, await Deno.readTextFile("/proc/self/mountinfo"))
    }. ` +
    `At least ${slices} slices of ${seconds} s a server in each row, in turn. Targets missed: ${missed}.`,
    ...list(`Servers that died and were started again: ${deaths.length}`, deaths),
    ...list("**Failed**", failures),
    ...(results.length > 0 ? ["\n" + tables(results, names)] : []),
  ].join("\n") + "\n";
}

async function main(): Promise<number> {
  if (values.help) return say(USAGE);
  if (values.list) return say(VHOST_ROWS.map(({ id }) => id).join("\n"));
  const programs: [string, string][] = [[QSD.name, values.qsd], [ORIGINAL.name, ORIGINAL.program]];
  if (values.other !== undefined) programs.splice(1, 0, ["other", values.other]);
  const dir = await Deno.makeTempDir({
    prefix: "qsd-bench-",
    ...(values.dir === undefined ? {} : { dir: values.dir }),
  });
  try {
    const found = await run(dir, programs);
    const text = await describe(dir, found, programs.map(([name]) => name));
    if (values.output !== undefined) await Deno.writeTextFile(values.output, text);
    say(values.json ? JSON.stringify(found, null, 2) : text);
    return found.failures.length > 0 ? 1 : 0;
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
}

if (import.meta.main) Deno.exit(await main());
