/**
 * qcow2 over NBD beside the original, slice by slice in turn: `deno run -A bench/qcow2.ts [--rows=A,B] [--slices=N]
 * [--seconds=S] [--size=MIB] [--dir=DIR] [--qsd=PROGRAM]`. Images are in the page cache; each server has its own copy.
 * Rows that allocate take a new image for each slice, and a number of requests in place of a time. Rows that are
 * judged by raw have qsd on a raw image take its turns, too.
 */
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import { Generator, type Pattern, runProgram, type Sample } from "./clients.ts";
import { writeFiles } from "./files.ts";
import { sync } from "./image.ts";
import { DEFAULTS } from "./load/workload.ts";
import { QmpClient } from "./qmp.ts";
import { cell, type Check, check, judge, type RowResult, tables } from "./report.ts";
import type { Targets } from "./rows.ts";
import { EXPORT_NAME, type Kind, ORIGINAL, QSD, type Server, start } from "./servers.ts";
import { measured } from "./stats.ts";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "" },
    slices: { type: "string", default: "5" },
    seconds: { type: "string", default: "1" },
    size: { type: "string", default: "512" },
    dir: { type: "string" },
    qsd: { type: "string", default: QSD.program },
  },
});
const size = Number(values.size) * 2 ** 20;
const seconds = Number(values.seconds);

/**
 * Images, by name: made once, copied for each server (or slice). `base.raw` is noise of the full size, `files.raw` what
 * images hold that are compressed: programs, libraries and texts of this machine.
 */
const IMAGES: Readonly<Record<string, (dir: string, path: string) => Promise<unknown>>> = {
  raw: (dir, path) => Deno.copyFile(`${dir}/base.raw`, path),
  /** Nothing but a length: what it costs the kernel to find pages. */
  sparse: async (_dir, path) => {
    using file = await Deno.create(path);
    await file.truncate(size);
  },
  full: (dir, path) => runProgram("qemu-img", ["convert", "-O", "qcow2", `${dir}/base.raw`, path]),
  empty: (_dir, path) => runProgram("qemu-img", ["create", "-qf", "qcow2", path, String(size)]),
  overlay: (dir, path) =>
    runProgram("qemu-img", [
      ...["create", "-qf", "qcow2", "-F", "raw", "-b", `${dir}/base.raw`],
      path,
    ]),
  compressed: (dir, path) =>
    runProgram("qemu-img", ["convert", "-c", "-O", "qcow2", `${dir}/files.raw`, path]),
  zstd: (dir, path) =>
    runProgram("qemu-img", [
      ...["convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd"],
      ...[`${dir}/files.raw`, path],
    ]),
  /** 64 GiB whose tables take 8 MiB; all of it reads as what was preallocated. */
  huge: (_dir, path) =>
    runProgram("qemu-img", [
      ...["create", "-qf", "qcow2", "-o", "preallocation=metadata", path, "64G"],
    ]),
};

interface Row extends Pattern {
  readonly id: string;
  readonly title: string;
  readonly image: keyof typeof IMAGES;
  readonly targets: Targets;
  /** Each slice begins with a new image. */
  readonly fresh?: boolean;
  /** Options of the qcow2 node. */
  readonly options?: Record<string, unknown>;
  /** A raw image on which qsd does the same in turn. Reads must not be more than 15 % below it. */
  readonly beside?: "raw" | "sparse";
}

const READ = { pattern: "randread", blockSize: 4096, depth: 32 } as const;
const WRITE = { pattern: "randwrite", blockSize: 4096, depth: 32 } as const;
const BIG = { pattern: "read", blockSize: 256 * 1024, depth: 8 } as const;

/** Reads of clusters compressed so. */
function compressedRows(type: "zlib" | "zstd"): Row[] {
  const common = {
    image: type === "zlib" ? "compressed" : type,
    targets: { original: 2, cpu: 0.5 },
  };
  return [
    {
      id: `${type}-4k`,
      title: `compressed, ${type}: 4k sequential reads, 32 deep`,
      ...READ,
      ...common,
      pattern: "read",
    },
    {
      id: `${type}-64k`,
      title: `compressed, ${type}: 64k sequential reads, 8 deep`,
      ...common,
      pattern: "read",
      blockSize: 65536,
      depth: 8,
    },
    {
      id: `${type}-random`,
      title: `compressed, ${type}: 4k random reads, 32 deep`,
      ...READ,
      ...common,
    },
  ];
}

const ROWS: readonly Row[] = [
  {
    id: "randread",
    title: "4k random reads, 32 deep",
    image: "full",
    ...READ,
    targets: { original: 3.5, cpu: 0.5 },
    beside: "raw",
  },
  {
    id: "read-256k",
    title: "256k reads, 8 deep",
    image: "full",
    ...BIG,
    targets: { original: 2.5, cpu: 0.5 },
    beside: "raw",
  },
  {
    id: "allocate-256k",
    title: "256k sequential writes that allocate, 8 deep",
    image: "empty",
    ...BIG,
    pattern: "write",
    fresh: true,
    targets: { original: 1.2, cpu: 0.5 },
    beside: "sparse",
  },
  {
    id: "write-256k",
    title: "256k sequential writes, allocated, 8 deep",
    image: "full",
    ...BIG,
    pattern: "write",
    targets: { cpu: 0.5 },
  },
  {
    id: "randwrite",
    title: "4k random writes, allocated, 32 deep",
    image: "full",
    ...WRITE,
    targets: { original: 1.5, cpu: 0.5 },
  },
  {
    id: "cow",
    title: "4k random writes, copied from a backing file, 32 deep",
    image: "overlay",
    ...WRITE,
    fresh: true,
    targets: { original: 1.5, cpu: 0.5 },
  },
  ...(["zlib", "zstd"] as const).flatMap(compressedRows),
  {
    id: "l2-miss",
    title: "4k random reads of 64 GiB with an L2 cache of 512 KiB, 32 deep",
    image: "huge",
    ...READ,
    options: { "l2-cache-size": 512 * 1024 },
    targets: { cpu: 0.5 },
  },
];

function nodeOf(row: Row, filename: string): Record<string, unknown> {
  const file = { driver: "file", filename };
  return row.image === "raw" || row.image === "sparse"
    ? { driver: "raw", file }
    : { driver: "qcow2", file, ...row.options };
}

function kindFor(kind: Kind, row: Row): Kind {
  return {
    ...kind,
    arguments: (site, socket, qmp) => {
      const node = { "node-name": "n", ...nodeOf(row, site.image) };
      return [
        ...["--blockdev", JSON.stringify(node)],
        ...["--chardev", `socket,id=q,path=${qmp},server=on,wait=off`, "--monitor", "chardev=q"],
        ...["--nbd-server", `addr.type=unix,addr.path=${socket}`],
        ...["--export", `type=nbd,id=e,node-name=n,name=${EXPORT_NAME},writable=on`],
      ];
    },
  };
}

function noise(path: string): void {
  using file = Deno.openSync(path, { create: true, write: true });
  for (let done = 0; done < size; done += 2 ** 20) {
    const block = randomBytes(2 ** 20);
    for (let at = 0; at < block.length;) at += file.writeSync(block.subarray(at));
  }
  file.syncSync();
}

function resident(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
/** After so many requests hardly anything is compiled any more: the last tier comes after 16,000 to 25,000. */
const WARM_REQUESTS = 20_000;
/** So long takes at least as many where there are no new images, also where they are slow (64k of zstd). */
const WARM_SECONDS = 5;

/** The column of qsd on a raw image. */
const BESIDE = "qsd on raw";

/** Has the machine under us bring the memory of a new image, so that no slice waits for it. */
function fetchPages(path: string): void {
  const block = new Uint8Array(2 ** 20);
  const file = Deno.openSync(path, { create: true, write: true });
  for (let done = 0; done < size; done += block.length) file.writeSync(block);
  file.close();
  Deno.removeSync(path);
}

const note = (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(`${text}\n`));

/** Requests of a slice on a new image: hardly any meets a cluster that is there. */
function countOf({ pattern, blockSize }: Row): number {
  return Math.floor(size / (pattern === "write" ? blockSize : 8 * 65536));
}

/** Slices on new images that only warm the server up: later ones find it as it is after a while. */
function warmSlices(row: Row): number {
  return Math.ceil(WARM_REQUESTS / countOf(row));
}

/** One server in one row. */
class Subject {
  readonly samples: Sample[] = [];
  #slices = 0;

  private constructor(
    private readonly row: Row,
    private readonly dir: string,
    private readonly server: Server,
    private readonly qmp: QmpClient | undefined,
  ) {}

  static async start(kind: Kind, row: Row, dir: string): Promise<Subject> {
    const image = `${dir}/${kind.name}.img`;
    await Deno.remove(image).catch(() => {});
    await IMAGES[row.image]!(dir, image);
    const server = await start(kindFor(kind, row), { image, directory: dir, qmp: true });
    const qmp = row.fresh ? await QmpClient.connect(server.qmp!) : undefined;
    return new Subject(row, dir, server, qmp);
  }

  /** So much load that most of what is compiled while it runs is compiled then. Slices on new images count theirs. */
  async warmUp(generator: Generator): Promise<void> {
    if (this.qmp !== undefined) return;
    const { pattern, blockSize, depth } = this.row;
    await generator.slice(this.server, { pattern, blockSize, depth }, WARM_SECONDS, 0);
    sync(`${this.dir}/${this.server.name}.img`);
  }

  /** Seconds of load; or as many requests as hardly ever meet a cluster that is there, on a new image. */
  async slice(generator: Generator, seed: number): Promise<void> {
    const { row, server } = this;
    const pattern = { pattern: row.pattern, blockSize: row.blockSize, depth: row.depth };
    if (this.qmp === undefined) {
      this.samples.push(await generator.slice(server, pattern, seconds, seed));
      // What is to be written back is not for the next one to wait for.
      sync(`${this.dir}/${server.name}.img`);
      return;
    }
    const name = `n${this.#slices++}`;
    const image = `${this.dir}/${server.name}.${name}`;
    await IMAGES[row.image]!(this.dir, image);
    await this.qmp.execute("blockdev-add", { "node-name": name, ...nodeOf(row, image) });
    const exported = { type: "nbd", id: name, "node-name": name, name, writable: true };
    await this.qmp.execute("block-export-add", exported);
    fetchPages(`${image}.pages`);
    const result = await generator.run({
      ...DEFAULTS,
      ...pattern,
      target: { path: server.socket },
      exportName: name,
      warmup: 0,
      count: countOf(row),
      seed,
      cpuOf: server.pid,
    });
    // Or its pages would stay in memory.
    await this.#drop(name);
    await Deno.remove(image);
    if (this.#slices > warmSlices(row)) {
      this.samples.push({ rate: result.rate, cpuUs: result.serverCpuUs! });
    }
  }

  async #drop(name: string): Promise<void> {
    const qmp = this.qmp!;
    const gone = () => qmp.execute("query-block-exports");
    await qmp.execute("block-export-del", { id: name, mode: "hard" });
    while (JSON.stringify(await gone()).includes(`"${name}"`)) await delay(5);
    await qmp.execute("blockdev-del", { "node-name": name });
  }

  /** What it took of memory at most, in MiB, and its end. */
  async stop(): Promise<string> {
    const memory = resident(this.server.pid);
    await this.qmp?.close();
    await this.server.stop();
    await Deno.remove(`${this.dir}/${this.server.name}.img`).catch(() => {});
    return `${this.server.name} ${Math.round(memory)}`;
  }
}

interface Measured {
  readonly cells: RowResult["cells"];
  readonly memory: readonly string[];
}

async function measure(
  row: Row,
  kinds: readonly Kind[],
  generator: Generator,
  dir: string,
): Promise<Measured> {
  const subjects: Subject[] = [];
  const memory: string[] = [];
  try {
    for (const kind of kinds) subjects.push(await Subject.start(kind, row, dir));
    if (row.beside !== undefined) {
      const { options: _, ...plain } = row;
      const beside = { ...kinds[0]!, name: BESIDE.replaceAll(" ", "-") };
      subjects.push(await Subject.start(beside, { ...plain, image: row.beside }, dir));
    }
    for (const subject of subjects) await subject.warmUp(generator);
    const taken = subjects.map(({ samples }) => samples);
    for (let slice = 0; !measured(taken, Number(values.slices)); slice++) {
      for (let turn = 0; turn < subjects.length; turn++) {
        await subjects[(slice + turn) % subjects.length]!.slice(generator, slice + 1);
      }
    }
  } finally {
    for (const subject of subjects) memory.push(await subject.stop());
  }
  const cells = Object.fromEntries(
    subjects.map((subject, at) => [kinds[at]?.name ?? BESIDE, cell(subject.samples)]),
  );
  return { cells, memory };
}

/** "Reads never more than 15 % below raw on the same row". */
function besideRaw(row: Row, cells: RowResult["cells"]): Check[] {
  const raw = cells[BESIDE];
  if (raw === undefined || row.beside !== "raw") return [];
  return [check("rate / raw", cells[QSD.name]!.rate / raw.rate, ">=", 0.85)];
}

const dir = await Deno.makeTempDir({
  prefix: "qsd-bench-",
  ...(values.dir === undefined ? {} : { dir: values.dir }),
});
const generator = new Generator();
try {
  const wanted = values.rows.split(",");
  const rows = ROWS.filter(({ id }) => wanted.some((word) => id.includes(word)));
  noise(`${dir}/base.raw`);
  if (rows.some(({ image }) => image === "compressed" || image === "zstd")) {
    writeFiles(`${dir}/files.raw`, size);
  }
  const kinds = [{ ...QSD, program: values.qsd }, ORIGINAL];
  const results: RowResult[] = [];
  const memory: string[] = [];
  for (const row of rows) {
    note(row.id);
    const found = await measure(row, kinds, generator, dir);
    const checks = [...judge(row, found.cells), ...besideRaw(row, found.cells)];
    results.push({ id: row.id, title: row.title, unit: "requests/s", cells: found.cells, checks });
    if (found.memory.length > 0) memory.push(`- ${row.title}: ${found.memory.join(", ")}`);
  }
  say(tables(results, [...kinds.map(({ name }) => name), BESIDE]));
  say(`\n### Most memory that was resident, MiB\n\n${memory.join("\n")}`);
} finally {
  await generator.close();
  await Deno.remove(dir, { recursive: true });
}
