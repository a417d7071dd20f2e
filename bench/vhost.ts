/**
 * vhost-user-blk, qsd beside qemu-storage-daemon: `deno run -A bench/vhost.ts [--seconds=N] [--rounds=N]
 * [--only=TEXT] [--qsd=PROGRAM]`. Both serve the same file in turns, driven by one load generator
 * (load/vhost.ts); printed are medians, their ratio, and the server's CPU time a request.
 */
import { runVhost, type VhostResult, type VhostWork } from "./load/vhost.ts";
import { signalChild } from "./servers.ts";

const SIZE = 256 * 1024 * 1024;
const ROOT = new URL("..", import.meta.url).pathname;

interface Row {
  readonly name: string;
  readonly node: "raw" | "null-co" | "qcow2";
  readonly write?: boolean;
  readonly blockSize: number;
  readonly depth: number;
  readonly queues?: number;
  readonly polling?: boolean;
  readonly halt?: number;
  /** At least so many times the original's rate. */
  readonly target: number;
}

const ROWS: readonly Row[] = [
  { name: "raw: 4k reads, depth 1", node: "raw", blockSize: 4096, depth: 1, target: 3 },
  {
    name: "raw: 4k reads, depth 1, sleeping",
    node: "raw",
    blockSize: 4096,
    depth: 1,
    halt: 0,
    target: 1,
  },
  { name: "raw: 4k reads, depth 32", node: "raw", blockSize: 4096, depth: 32, target: 2.5 },
  {
    name: "raw: 4k writes, depth 1",
    node: "raw",
    write: true,
    blockSize: 4096,
    depth: 1,
    target: 1,
  },
  {
    name: "raw: 4k writes, depth 32",
    node: "raw",
    write: true,
    blockSize: 4096,
    depth: 32,
    target: 2.5,
  },
  { name: "raw: 256k reads, depth 8", node: "raw", blockSize: 262144, depth: 8, target: 1.1 },
  {
    name: "raw: 256k writes, depth 8",
    node: "raw",
    write: true,
    blockSize: 262144,
    depth: 8,
    target: 1,
  },
  {
    name: "raw: 4k reads, depth 32, 2 queues",
    node: "raw",
    blockSize: 4096,
    depth: 32,
    queues: 2,
    target: 1,
  },
  {
    name: "raw: 4k reads, depth 1, polling",
    node: "raw",
    blockSize: 4096,
    depth: 1,
    polling: true,
    target: 1,
  },
  {
    name: "raw: 4k reads, depth 32, polling",
    node: "raw",
    blockSize: 4096,
    depth: 32,
    polling: true,
    target: 1,
  },
  { name: "null-co: 4k reads, depth 1", node: "null-co", blockSize: 4096, depth: 1, target: 1 },
  { name: "null-co: 4k reads, depth 32", node: "null-co", blockSize: 4096, depth: 32, target: 1 },
  { name: "qcow2: 4k reads, depth 1", node: "qcow2", blockSize: 4096, depth: 1, target: 1 },
  { name: "qcow2: 4k reads, depth 32", node: "qcow2", blockSize: 4096, depth: 32, target: 1 },
  {
    name: "qcow2: 4k writes, depth 32",
    node: "qcow2",
    write: true,
    blockSize: 4096,
    depth: 32,
    target: 1,
  },
];

interface Daemon {
  readonly pid: number;
  readonly socket: string;
  stop(): Promise<void>;
}

async function startDaemon(program: string, directory: string, row: Row): Promise<Daemon> {
  const socket = `${directory}/s-${crypto.randomUUID().slice(0, 8)}`;
  const image = `${directory}/${row.node}.img`;
  const file = { driver: "file", "node-name": "f", filename: image, locking: "off" };
  const nodes: Record<string, unknown>[] = row.node === "null-co"
    ? [{ driver: "null-co", "node-name": "n", size: SIZE, "read-zeroes": false }]
    : [file, { driver: row.node, "node-name": "n", file: "f" }];
  const child = new Deno.Command(program, {
    args: [
      ...nodes.flatMap((node) => ["--blockdev", JSON.stringify(node)]),
      "--export",
      `type=vhost-user-blk,id=e,node-name=n,addr.type=unix,addr.path=${socket},writable=on,` +
      `num-queues=${row.queues ?? 1}`,
    ],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  for (let i = 0; i < 500; i++) {
    try {
      Deno.statSync(socket);
      break;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return {
    pid: child.pid,
    socket,
    async stop() {
      signalChild(child, "SIGTERM");
      await child.status;
    },
  };
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

function option(name: string, otherwise: string): string {
  const found = Deno.args.find((arg) => arg.startsWith(`--${name}=`));
  return found?.slice(name.length + 3) ?? otherwise;
}

function say(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}

async function makeImages(directory: string): Promise<void> {
  const block = new Uint8Array(1 << 20);
  for (let at = 0; at < block.length; at += 65536) {
    crypto.getRandomValues(block.subarray(at, at + 65536));
  }
  const raw = `${directory}/raw.img`;
  using file = Deno.openSync(raw, { write: true, create: true });
  for (let at = 0; at < SIZE; at += block.length) file.writeSync(block);
  const convert = ["convert", "-f", "raw", "-O", "qcow2", raw, `${directory}/qcow2.img`];
  await new Deno.Command("qemu-img", { args: convert }).output();
}

/** Runs a row: slices in turns. */
async function measure(
  row: Row,
  directory: string,
  rounds: number,
  seconds: number,
): Promise<string> {
  const programs = [option("qsd", `${ROOT}qsd`), "qemu-storage-daemon"];
  const daemons = await Promise.all(programs.map((p) => startDaemon(p, directory, row)));
  const results: VhostResult[][] = [[], []];
  for (let round = 0; round < rounds; round++) {
    for (const [i, daemon] of daemons.entries()) {
      const work: VhostWork = {
        socket: daemon.socket,
        write: row.write ?? false,
        blockSize: row.blockSize,
        depth: row.depth,
        queues: row.queues ?? 1,
        polling: row.polling ?? false,
        halt: row.halt ?? 200,
        seconds,
        size: SIZE,
        seed: round + 1,
        pid: daemon.pid,
      };
      results[i]!.push(await runVhost(work));
    }
  }
  await Promise.all(daemons.map((daemon) => daemon.stop()));
  const rate = results.map((all) => median(all.map((one) => one.rate)));
  const cpu = results.map((all) => median(all.map((one) => one.cpuUs)));
  const ratio = rate[0]! / rate[1]!;
  const kick = median(results[0]!.map((one) => one.perKick));
  return [
    row.name.padEnd(36),
    ...rate.map((value) => Math.round(value).toLocaleString("en").padStart(9)),
    `${ratio.toFixed(2)}x`.padStart(7),
    (ratio >= row.target ? "" : `(< ${row.target})`).padStart(8),
    ...cpu.map((value) => value.toFixed(2).padStart(7)),
    kick.toFixed(1).padStart(7),
  ].join(" ");
}

async function main(): Promise<void> {
  const rounds = Number(option("rounds", "3"));
  const seconds = Number(option("seconds", "1"));
  const only = option("only", "");
  const directory = await Deno.makeTempDir({ dir: option("dir", "/tmp") });
  try {
    await makeImages(directory);
    say(
      `${"requests/s".padEnd(36)}       qsd  original   ratio          cpu us  (orig.) per kick`,
    );
    for (const row of ROWS) {
      if (row.name.includes(only)) say(await measure(row, directory, rounds, seconds));
    }
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

if (import.meta.main) await main();
