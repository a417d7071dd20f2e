/**
 * `deno task bench`: qsd and the installed peers on the same work in one run, slice by slice in turn, so
 * that whatever else the machine does falls on all alike. Prints Markdown, or JSON.
 */
import { parseArgs } from "node:util";
import { makeImage, readOnce, sync } from "./image.ts";
import { Generator, installed, type Sample } from "./clients.ts";
import { describeMachine, fileSystemOf } from "./machine.ts";
import { memory } from "./proc.ts";
import { cell, judge, type RowResult, type Single, singlesTable, tables } from "./report.ts";
import { type Row, ROWS, type Tools } from "./rows.ts";
import { type Kind, KINDS, QSD, QSD_COMPILED, type Server, start, version } from "./servers.ts";
import { measured } from "./stats.ts";
import {
  measureIdleCpu,
  measureIdleMemory,
  measureQmp,
  measureStart,
  peakMemory,
  qualifyGenerator,
} from "./singles.ts";

const USAGE = `Usage: deno task bench [options]
  --quick          the light rows only, 3 short slices each: below a minute
  --rows A,B       rows whose name holds A or B; single figures: start, memory, idle, qmp, generator
  --servers A,B    ${KINDS.map((kind) => kind.name).join(", ")}
  --qsd PROGRAM    what to run as qsd (default: the launcher of this tree)
  --other PROGRAM  a second qsd to run beside it, column "other": an A/B test of two builds
  --slices N       slices a server in each row (default: 5); up to three times as many where rates vary
  --seconds S      seconds a slice (default: 1; fio: whole seconds)
  --dir DIR        where the image is made (default: the directory for temporary files)
  --size MIB       size of the image (default: 1024)
  --piece KIB      the image is written in such pieces (default: 4): so large, at most, are folios of its page cache
  --json           print JSON
  --output FILE    also write the Markdown to FILE (behind its mark)
  --list           print the names of the rows`;

/** What the command line asks for. */
export interface Options {
  readonly rows: readonly Row[];
  /** Names of the single figures wanted. */
  readonly singles: readonly string[];
  readonly servers: readonly string[];
  readonly qsd: string;
  readonly other: string | undefined;
  readonly slices: number;
  readonly seconds: number;
  readonly dir: string | undefined;
  readonly sizeMib: number;
  readonly pieceKib: number;
  readonly json: boolean;
  readonly output: string | undefined;
}

/** The column of `--other`. */
const OTHER = "other";
const SINGLES = ["start", "memory", "idle", "qmp", "generator"];

/** The options; null after printing the help or the list. Throws with what is wrong. */
export function parseOptions(args: string[]): Options | "help" | "list" {
  const { values } = parseArgs({
    args: args.filter((arg) => arg !== "--"),
    options: {
      quick: { type: "boolean" },
      rows: { type: "string" },
      servers: { type: "string" },
      qsd: { type: "string" },
      other: { type: "string" },
      slices: { type: "string" },
      seconds: { type: "string" },
      dir: { type: "string" },
      size: { type: "string" },
      piece: { type: "string" },
      json: { type: "boolean" },
      output: { type: "string" },
      list: { type: "boolean" },
      help: { type: "boolean" },
    },
  });
  if (values.help) return "help";
  if (values.list) return "list";
  const quick = values.quick ?? false;
  const number = (name: "slices" | "seconds" | "size" | "piece", fallback: number): number => {
    const value = Number(values[name] ?? fallback);
    if (!(value > 0)) throw new Error(`--${name} must be a number above 0`);
    return value;
  };
  const wanted = values.rows?.split(",") ?? (quick ? ["light-", "start", "memory"] : [""]);
  const matches = (id: string) => wanted.some((part) => id.includes(part));
  const rows = ROWS.filter((row) => matches(row.id));
  const singles = SINGLES.filter(matches);
  if (rows.length + singles.length === 0) throw new Error(`no row matches ${values.rows}`);
  const servers = values.servers?.split(",") ?? KINDS.map((kind) => kind.name);
  for (const name of servers) {
    if (!KINDS.some((kind) => kind.name === name)) throw new Error(`no such server: ${name}`);
  }
  return {
    rows,
    singles,
    servers,
    qsd: values.qsd ?? QSD.program,
    other: values.other,
    slices: Math.ceil(number("slices", quick ? 3 : 5)),
    seconds: number("seconds", quick ? 0.3 : 1),
    dir: values.dir,
    sizeMib: Math.ceil(number("size", 1024)),
    pieceKib: Math.min(1024, Math.ceil(number("piece", 4))),
    json: values.json ?? false,
    output: values.output,
  };
}

/** Everything that a run found. */
export interface Report {
  readonly date: string;
  readonly machine: string;
  readonly fileSystem: string;
  readonly versions: Record<string, string>;
  readonly slices: number;
  readonly seconds: number;
  readonly imageMib: number;
  readonly pieceKib: number;
  readonly rows: RowResult[];
  readonly singles: Single[];
  /** What the load generator reaches and costs against a server that only answers. */
  readonly generator: string[];
  /** What was left out, and why. */
  readonly skipped: string[];
  /** What failed, and how. */
  readonly failures: string[];
  readonly elapsedSeconds: number;
}

class Bench {
  /** The most memory that each server ever had, in bytes. */
  readonly peaks = new Map<string, number>();
  readonly rows: RowResult[] = [];
  readonly singles: Single[] = [];
  readonly skipped: string[] = [];
  readonly failures: string[] = [];
  generator: string[] = [];
  readonly kinds: Kind[] = [];
  readonly versions: Record<string, string> = {};

  constructor(readonly options: Options, readonly directory: string) {}

  /** Runs everything asked for. The servers are stopped whatever happens. */
  async run(): Promise<void> {
    const { options, directory } = this;
    const candidates = KINDS.filter((kind) => options.servers.includes(kind.name))
      .map((kind) => kind === QSD ? { ...QSD, program: options.qsd } : kind);
    if (options.other !== undefined) {
      candidates.splice(1, 0, { ...QSD, name: OTHER, program: options.other });
    }
    for (const kind of candidates) {
      const found = await version(kind);
      if (found === null) this.skipped.push(`${kind.name}: it does not run here`);
      else this.kinds.push(kind);
      if (found !== null) this.versions[kind.name] = found;
    }
    const image = `${directory}/image.raw`;
    note(`making a file of ${options.sizeMib} MiB`);
    makeImage(image, options);
    // The nbdcopy rows need a second file.
    if (options.rows.some((row) => row.needs === "nbdcopy")) {
      note("and a copy for nbdcopy");
      makeImage(`${directory}/copy.raw`, options);
    }
    if (options.singles.includes("start")) {
      const starting = this.kinds.filter((kind) => kind.speaksQmp);
      note("start to QMP greeting");
      const failed = (what: string) => this.failed(what);
      this.singles.push(await measureStart(starting, options.slices * 2, failed));
    }
    const generator = new Generator();
    try {
      if (options.singles.includes("generator")) {
        note("the generator against a server that only answers");
        this.generator = await qualifyGenerator(generator, directory, options.seconds);
      }
      await this.#measure(generator);
    } finally {
      await generator.close();
    }
  }

  async #measure(generator: Generator): Promise<void> {
    const { options, kinds } = this;
    if (options.singles.includes("memory")) {
      await this.#serve(kinds, async (servers) => {
        await new Promise((resolve) => setTimeout(resolve, 500));
        this.singles.push(measureIdleMemory(servers));
      });
    }
    for (const row of options.rows) await this.#runRow(row, generator);
    if (options.singles.includes("qmp")) {
      note("QMP under load");
      const failed = (what: string) => this.failed(what);
      await this.#serve(kinds, async (servers) => {
        for (const server of servers) await warmUp(server, generator);
        this.singles.push(...await measureQmp(servers, generator, 2, failed));
      });
    }
    if (options.singles.includes("idle")) {
      note("idle CPU");
      await this.#serve(kinds, async (servers) => {
        for (const server of servers) await warmUp(server, generator);
        this.singles.push(await measureIdleCpu(servers, 5));
      });
    }
    if (options.singles.includes("memory")) this.singles.push(peakMemory(this.peaks));
  }

  /** Starts servers of `kinds`, has `use` use them, and stops them whatever happens. */
  async #serve(kinds: readonly Kind[], use: (servers: Server[]) => Promise<void>): Promise<void> {
    const { options, directory } = this;
    const servers: Server[] = [];
    try {
      for (const kind of kinds) {
        // From source or compiled, it is the same program: one of them is enough, unless both are asked for by name.
        if (kind.name === QSD_COMPILED.name && options.servers.length === KINDS.length) continue;
        try {
          servers.push(
            await start(kind, { image: `${directory}/image.raw`, directory, qmp: true }),
          );
        } catch (error) {
          this.failed(message(error));
        }
      }
      await use(servers);
      for (const { name, pid } of servers) {
        this.peaks.set(name, Math.max(this.peaks.get(name) ?? 0, memory(pid).peak));
      }
    } finally {
      for (const server of servers) await server.stop();
    }
  }

  /** Something that was to be measured failed: the run goes on, and ends with status 1. */
  failed(what: string): void {
    note(what);
    this.failures.push(what);
  }

  async #runRow(row: Row, generator: Generator): Promise<void> {
    if (row.needs !== null && !await installed(row.needs)) {
      this.skipped.push(`${row.id}: ${row.needs} is not installed`);
      return;
    }
    note(row.id);
    const names = row.kinds.map((kind) => kind.name);
    const kinds = this.kinds.filter(({ name }) =>
      names.includes(name) || name === QSD_COMPILED.name || name === OTHER
    );
    // New ones in each row: how fast a server is may depend on what it has done before (its heap, for one).
    await this.#serve(kinds, async (servers) => {
      for (const server of servers) await warmUp(server, generator);
      await this.#takeSlices(row, servers, generator);
    });
  }

  async #takeSlices(row: Row, running: readonly Server[], generator: Generator): Promise<void> {
    const samples = new Map<string, Sample[]>(running.map((server) => [server.name, []]));
    // The first slice only warms the servers up: it is not counted.
    for (let slice = 0; !measured(samples.values(), this.options.slices); slice++) {
      const tools: Omit<Tools, "seed"> = {
        generator,
        seconds: this.options.seconds,
        imageBytes: this.options.sizeMib * 2 ** 20,
        scratch: `${this.directory}/copy.raw`,
      };
      readOnce(`${this.directory}/image.raw`); // the machine may have taken its page cache back
      for (let turn = 0; turn < running.length; turn++) {
        const server = running[(slice + turn) % running.length]!;
        if (!samples.has(server.name)) continue; // it has failed before
        // Dirty pages cost less to write, and a full disk queue more: nobody is to find what another one left.
        for (const file of ["image.raw", "copy.raw"]) sync(`${this.directory}/${file}`);
        try {
          const seed = slice * running.length + turn + 1;
          const sample = await row.slice(server, { ...tools, seed });
          if (slice > 0) samples.get(server.name)!.push(sample);
        } catch (error) {
          samples.delete(server.name);
          this.failed(`${row.id}: ${server.name}: ${message(error)}`);
        }
      }
    }
    const cells = Object.fromEntries([...samples].map(([name, all]) => [name, cell(all)]));
    const { id, title, unit } = row;
    this.rows.push({ id, title, unit, cells, checks: judge(row, cells) });
  }
}

/** So much load that what is compiled while it runs is compiled then. */
async function warmUp(server: Server, generator: Generator): Promise<void> {
  await generator.slice(server, { pattern: "randread", blockSize: 4096, depth: 32 }, 0.5, 1);
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function note(text: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(`bench: ${text}\n`));
}

/** The report as Markdown. */
export function markdown(report: Report): string {
  const all = [QSD.name, OTHER, ...KINDS.map((kind) => kind.name).slice(1)];
  const names = all
    .filter((name) => name === QSD.name || report.rows.some((row) => row.cells[name]));
  const present = all
    .filter((name) => report.singles.some((single) => single.values[name] !== undefined));
  const missed = [...report.rows, ...report.singles].flatMap((one) => one.checks).filter((c) =>
    !c.met
  );
  const parts = [
    `${report.date}. ${report.machine}. Raw image of ${report.imageMib} MiB in the page cache, on ` +
    `${report.fileSystem}, written in pieces of ${report.pieceKib} KiB. At least ${report.slices} slices of ${report.seconds} s a server in each row, in turn. ` +
    `The run took ${Math.round(report.elapsedSeconds)} s. Targets missed: ${missed.length}.\n`,
    Object.entries(report.versions).map(([name, text]) => `- ${name}: ${text}`).join("\n"),
  ];
  if (report.skipped.length > 0) {
    parts.push(`\nLeft out:\n${report.skipped.map((text) => `- ${text}`).join("\n")}`);
  }
  if (report.failures.length > 0) {
    parts.push(`\n**Failed**:\n${report.failures.map((text) => `- ${text}`).join("\n")}`);
  }
  if (report.rows.length > 0) parts.push("\n" + tables(report.rows, names));
  if (report.singles.length > 0) {
    parts.push("\n### Start, memory, idling, control\n", singlesTable(report.singles, present));
  }
  if (report.generator.length > 0) {
    parts.push(
      "\n### The light generator itself, against a server that only answers\n",
      report.generator.map((text) => `- ${text}`).join("\n"),
    );
  }
  return parts.join("\n") + "\n";
}

/** Runs the benchmark that `args` ask for; the exit status. */
export async function main(args: string[]): Promise<number> {
  const options = parseOptions(args);
  if (options === "help") return print(USAGE);
  if (options === "list") return print([...ROWS.map((row) => row.id), ...SINGLES].join("\n"));
  const begin = performance.now();
  const directory = await Deno.makeTempDir({
    prefix: "qsd-bench-",
    ...(options.dir === undefined ? {} : { dir: options.dir }),
  });
  const bench = new Bench(options, directory);
  try {
    await bench.run();
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
  const report: Report = {
    date: new Date().toISOString().slice(0, 10),
    machine: await describeMachine(),
    fileSystem: fileSystemOf(directory, await Deno.readTextFile("/proc/self/mountinfo")),
    versions: bench.versions,
    slices: options.slices,
    seconds: options.seconds,
    imageMib: options.sizeMib,
    pieceKib: options.pieceKib,
    rows: bench.rows,
    singles: bench.singles,
    generator: bench.generator,
    skipped: bench.skipped,
    failures: bench.failures,
    elapsedSeconds: (performance.now() - begin) / 1000,
  };
  if (options.output !== undefined) await writeReport(options.output, markdown(report));
  print(options.json ? JSON.stringify(report, null, 2) : markdown(report));
  return report.failures.length > 0 ? 1 : 0;
}

const MARK = "<!-- last run -->\n";

/** Puts the report behind the mark in a file that has one, and makes the file otherwise. */
async function writeReport(path: string, text: string): Promise<void> {
  const old = await Deno.readTextFile(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  });
  const at = old.indexOf(MARK);
  const kept = at < 0 ? "" : old.slice(0, at + MARK.length);
  await Deno.writeTextFile(path, `${kept}\n## The last full run\n\n${text}`);
}

function print(text: string): number {
  const bytes = new TextEncoder().encode(text.endsWith("\n") ? text : text + "\n");
  for (let at = 0; at < bytes.length;) at += Deno.stdout.writeSync(bytes.subarray(at));
  return 0;
}
