/**
 * qcow2 over NBD beside the original, slice by slice in turn: `deno run -A bench/qcow2.ts [--rows=A,B] [--slices=N]
 * [--seconds=S] [--size=MIB] [--dir=DIR] [--qsd=PROGRAM]`. Images are in the page cache; each server has its own copy.
 * Rows that allocate begin each slice with a new image and a new server.
 */
import { randomBytes } from "node:crypto";
import { parseArgs } from "node:util";
import { Generator, type Pattern, runProgram, type Sample } from "./clients.ts";
import { cell, type Check, check, judge, type RowResult, tables } from "./report.ts";
import type { Targets } from "./rows.ts";
import { EXPORT_NAME, type Kind, ORIGINAL, QSD, type Server, start } from "./servers.ts";

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

/** Images, by name: made once, copied for each server (or slice). `base.raw` is noise of the full size. */
const IMAGES: Readonly<Record<string, (dir: string, path: string) => Promise<unknown>>> = {
  raw: (dir, path) => Deno.copyFile(`${dir}/base.raw`, path),
  full: (dir, path) => runProgram("qemu-img", ["convert", "-O", "qcow2", `${dir}/base.raw`, path]),
  empty: (_dir, path) => runProgram("qemu-img", ["create", "-qf", "qcow2", path, String(size)]),
  overlay: (dir, path) =>
    runProgram("qemu-img", [
      ...["create", "-qf", "qcow2", "-F", "raw", "-b", `${dir}/base.raw`],
      path,
    ]),
  compressed: (dir, path) =>
    runProgram("qemu-img", ["convert", "-c", "-O", "qcow2", `${dir}/text.raw`, path]),
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
  /** The row on raw that it must not be more than 15 % below. */
  readonly beside?: string;
}

const READ = { pattern: "randread", blockSize: 4096, depth: 32 } as const;
const WRITE = { pattern: "randwrite", blockSize: 4096, depth: 32 } as const;
const BIG = { pattern: "read", blockSize: 256 * 1024, depth: 8 } as const;

const ROWS: readonly Row[] = [
  {
    id: "raw-randread",
    title: "raw: 4k random reads, 32 deep",
    image: "raw",
    ...READ,
    targets: {},
  },
  { id: "raw-read-256k", title: "raw: 256k reads, 8 deep", image: "raw", ...BIG, targets: {} },
  {
    id: "randread",
    title: "4k random reads, 32 deep",
    image: "full",
    ...READ,
    targets: { original: 3.5, cpu: 0.5 },
    beside: "raw-randread",
  },
  {
    id: "read-256k",
    title: "256k reads, 8 deep",
    image: "full",
    ...BIG,
    targets: { original: 2.5, cpu: 0.5 },
    beside: "raw-read-256k",
  },
  {
    id: "allocate-256k",
    title: "256k sequential writes that allocate, 8 deep",
    image: "empty",
    ...BIG,
    pattern: "write",
    fresh: true,
    targets: { original: 1.2, cpu: 0.5 },
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
  {
    id: "compressed-4k",
    title: "compressed: 4k sequential reads, 32 deep",
    image: "compressed",
    ...READ,
    pattern: "read",
    targets: { original: 2, cpu: 0.5 },
  },
  {
    id: "compressed-64k",
    title: "compressed: 64k sequential reads, 8 deep",
    image: "compressed",
    pattern: "read",
    blockSize: 65536,
    depth: 8,
    targets: { original: 2, cpu: 0.5 },
  },
  {
    id: "compressed-random",
    title: "compressed: 4k random reads, 32 deep",
    image: "compressed",
    ...READ,
    targets: { original: 2, cpu: 0.5 },
  },
  {
    id: "l2-miss",
    title: "4k random reads of 64 GiB with an L2 cache of 512 KiB, 32 deep",
    image: "huge",
    ...READ,
    options: { "l2-cache-size": 512 * 1024 },
    targets: { cpu: 0.5 },
  },
];

function kindFor(kind: Kind, row: Row): Kind {
  return {
    ...kind,
    arguments: (site, socket) => {
      const file = { driver: "file", filename: site.image };
      const node = row.image === "raw"
        ? { driver: "raw", "node-name": "n", file }
        : { driver: "qcow2", "node-name": "n", file, ...row.options };
      return [
        ...["--blockdev", JSON.stringify(node)],
        ...["--nbd-server", `addr.type=unix,addr.path=${socket}`],
        ...["--export", `type=nbd,id=e,node-name=n,name=${EXPORT_NAME},writable=on`],
      ];
    },
  };
}

function noise(path: string, compressible: boolean): void {
  using file = Deno.openSync(path, { create: true, write: true });
  for (let done = 0; done < size; done += 2 ** 20) {
    const block = randomBytes(2 ** 20);
    // Words from a small vocabulary: about a third of its size.
    if (compressible) { for (let i = 0; i < block.length; i++) block[i] = 97 + (block[i]! & 7); }
    for (let at = 0; at < block.length;) at += file.writeSync(block.subarray(at));
  }
  file.syncSync();
}

function resident(pid: number): number {
  const status = Deno.readTextFileSync(`/proc/${pid}/status`);
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(status)?.[1]) / 1024;
}

const say = (text: string) => Deno.stdout.writeSync(new TextEncoder().encode(`${text}\n`));
const note = (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(`${text}\n`));

async function measure(row: Row, kinds: readonly Kind[], generator: Generator, dir: string) {
  const samples: Record<string, Sample[]> = {};
  const servers = new Map<string, Server>();
  const memory: string[] = [];
  const open = async (kind: Kind) => {
    const image = `${dir}/${kind.name}.img`;
    await Deno.remove(image).catch(() => {});
    await IMAGES[row.image]!(dir, image);
    return await start(kindFor(kind, row), { image, directory: dir, qmp: false });
  };
  try {
    if (!row.fresh) { for (const kind of kinds) servers.set(kind.name, await open(kind)); }
    for (let slice = 0; slice < Number(values.slices); slice++) {
      for (const kind of kinds) {
        if (row.fresh) servers.set(kind.name, await open(kind));
        const server = servers.get(kind.name)!;
        const pattern = { pattern: row.pattern, blockSize: row.blockSize, depth: row.depth };
        (samples[kind.name] ??= []).push(
          await generator.slice(server, pattern, seconds, slice + 1),
        );
        if (row.fresh) await server.stop();
      }
    }
    for (const [name, server] of row.fresh ? [] : servers) {
      memory.push(`${name} ${Math.round(resident(server.pid))}`);
    }
  } finally {
    for (const server of servers.values()) await server.stop();
    for (const kind of kinds) await Deno.remove(`${dir}/${kind.name}.img`).catch(() => {});
  }
  const cells = Object.fromEntries(Object.entries(samples).map(([name, all]) => [name, cell(all)]));
  return { cells, memory };
}

/** "Never more than 15 % below raw on the same row". */
function besideRaw(row: Row, results: readonly RowResult[], rate: number): Check[] {
  const raw = results.find(({ id }) => id === row.beside)?.cells[QSD.name];
  return raw === undefined ? [] : [check("rate / raw", rate / raw.rate, ">=", 0.85)];
}

const dir = await Deno.makeTempDir({
  prefix: "qsd-bench-",
  ...(values.dir === undefined ? {} : { dir: values.dir }),
});
const generator = new Generator();
try {
  const wanted = values.rows.split(",");
  const rows = ROWS.filter(({ id }) => wanted.some((word) => id.includes(word)));
  noise(`${dir}/base.raw`, false);
  if (rows.some(({ image }) => image === "compressed")) noise(`${dir}/text.raw`, true);
  const kinds = [{ ...QSD, program: values.qsd }, ORIGINAL];
  const results: RowResult[] = [];
  const memory: string[] = [];
  for (const row of rows) {
    note(row.id);
    const found = await measure(row, kinds, generator, dir);
    const checks = [
      ...judge(row, found.cells),
      ...besideRaw(row, results, found.cells[QSD.name]!.rate),
    ];
    results.push({ id: row.id, title: row.title, unit: "requests/s", cells: found.cells, checks });
    if (found.memory.length > 0) memory.push(`- ${row.title}: ${found.memory.join(", ")}`);
  }
  say(tables(results, kinds.map(({ name }) => name)));
  say(`\n### Most memory that was resident, MiB\n\n${memory.join("\n")}`);
} finally {
  await generator.close();
  await Deno.remove(dir, { recursive: true });
}
