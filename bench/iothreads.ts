/**
 * Two exports on two IOThreads beside one on one, and beside two on one thread: `deno run -A bench/iothreads.ts
 * [--export=nbd|vhost-user-blk] [--node=raw|null-co] [--seconds=N] [--rounds=N] [--qsd=PROGRAM] [--bs=BYTES] [--depth=N]`.
 *
 * The load generators run on the same two cores as the threads, and what they use the threads cannot have. Their
 * cost is accounted for like this: in a slice of W seconds the machine has C*W seconds of processor time (C cores),
 * of which the generators used G, as the kernel says. The rest, C*W - G, was the server's to use; time in which a core
 * was idle counts as the server's, too, so that waiting for a lock would show. The rate of two threads with two cores
 * of their own is therefore
 *
 *     requests / (C*W - G) * 2
 *
 * The rate of one thread with one core of its own is its requests over the processor time that the server used for
 * them; with one export and with two, whichever is better (more load makes larger batches, which cost less a request).
 * "scaling" is the first over the second: 2 is perfect. The plain rates are printed as well.
 *
 * The generators sleep while they wait (a vhost-user front-end that polled would take time that is the threads').
 */
import { Generator } from "./clients.ts";
import { cpuUs } from "./proc.ts";
import { DEFAULTS } from "./load/workload.ts";
import { Served } from "./served.ts";
import { signalChild } from "./servers.ts";
import type { VhostResult, VhostWork } from "./load/vhost.ts";
import { parseArgs } from "node:util";

const ROOT = new URL("..", import.meta.url).pathname;
const SIZE = 64 * 1024 * 1024;
/** The scaling that the project is to reach. */
const TARGET = 1.7;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    qsd: { type: "string", default: `${ROOT}qsd` },
    bs: { type: "string", default: "4096" },
    depth: { type: "string", default: "32" },
    export: { type: "string", default: "nbd" },
    node: { type: "string", default: "raw" },
  },
});
const seconds = Number(values.seconds);
const vhost = values.export === "vhost-user-blk";

interface Slice {
  readonly rate: number;
  readonly wall: number;
  readonly generators: number;
  readonly server: number;
}

/** What loads one export. */
interface Load {
  readonly pid: number;
  /** Requests a second, and for how long. */
  run(directory: string, name: string, seed: number): Promise<{ rate: number; seconds: number }>;
  close(): Promise<void>;
}

function nbdLoad(): Load {
  const generator = new Generator();
  return {
    pid: generator.pid,
    close: () => generator.close(),
    run: (directory, exportName, seed) =>
      generator.run({
        ...DEFAULTS,
        pattern: "randread",
        blockSize: Number(values.bs),
        depth: Number(values.depth),
        target: { path: `${directory}/nbd` },
        exportName,
        seconds,
        warmup: 0,
        seed,
      }),
  };
}

function vhostLoad(): Load {
  const served = new Served<VhostWork, VhostResult>("load/vhost.ts");
  return {
    pid: served.pid,
    close: () => served.close(),
    async run(directory, name, seed) {
      const { rate } = await served.run({
        socket: `${directory}/${name}.sock`,
        write: false,
        blockSize: Number(values.bs),
        depth: Number(values.depth),
        queues: 1,
        polling: false,
        halt: 0,
        seconds,
        warmup: 0,
        size: SIZE,
        seed,
        pid: served.pid,
      }, seconds + 10);
      return { rate, seconds };
    },
  };
}

/** Loads the exports at once, each from a generator of its own. Times in seconds. */
async function slice(
  loads: readonly Load[],
  pid: number,
  directory: string,
  exports: readonly string[],
  seed: number,
): Promise<Slice> {
  const used = () => loads.reduce((sum, one) => sum + cpuUs(one.pid), 0) / 1e6;
  const [before, server] = [used(), cpuUs(pid) / 1e6];
  const began = performance.now();
  const results = await Promise.all(
    exports.map((name, i) => loads[i]!.run(directory, name, seed + i)),
  );
  const wall = (performance.now() - began) / 1000;
  return {
    rate: results.reduce((sum, { rate }) => sum + rate, 0),
    wall,
    generators: used() - before,
    server: cpuUs(pid) / 1e6 - server,
  };
}

const say = (line: string) => void Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
const median = (list: readonly number[]) => list.toSorted((a, b) => a - b)[list.length >> 1]!;

async function main(): Promise<void> {
  const directory = await Deno.makeTempDir({ dir: "/dev/shm" });
  const node = (name: string) => {
    if (values.node === "null-co") {
      return ["--blockdev", `null-co,node-name=${name},size=${SIZE},read-zeroes=off`];
    }
    Deno.writeFileSync(`${directory}/${name}.raw`, new Uint8Array(SIZE).fill(1));
    return ["--blockdev", `file,node-name=${name},filename=${directory}/${name}.raw`];
  };
  const on = (
    name: string,
    thread: string,
  ) => [
    "--export",
    `${values.export},id=${name},node-name=${name},iothread=${thread}` +
    (vhost ? `,addr.type=unix,addr.path=${directory}/${name}.sock` : ""),
  ];
  const child = new Deno.Command(values.qsd!, {
    args: [
      ...["--object", "iothread,id=t0", "--object", "iothread,id=t1"],
      ...["a", "b", "c"].flatMap(node),
      ...(vhost ? [] : ["--nbd-server", `addr.type=unix,addr.path=${directory}/nbd`]),
      ...[...on("a", "t0"), ...on("b", "t1"), ...on("c", "t0")],
      ...["--pidfile", `${directory}/pid`],
    ],
    stdin: "null",
  }).spawn();
  const loads = vhost ? [vhostLoad(), vhostLoad()] : [nbdLoad(), nbdLoad()];
  try {
    while (!await Deno.stat(`${directory}/pid`).then(() => true, () => false)) {
      await new Promise((go) => setTimeout(go, 20));
    }
    const run = (names: readonly string[], seed: number) =>
      slice(loads, child.pid, directory, names, seed);
    for (const seed of [1, 2]) await run(["a", "b"], seed); // everything compiled
    const cores = navigator.hardwareConcurrency;
    const alone: number[] = [], plain: number[] = [], one: number[] = [], two: number[] = [];
    const scaling: number[] = [];
    for (let round = 0; round < Number(values.rounds); round++) {
      const single = await run(["a"], 10 + round);
      const both = await run(["a", "b"], 20 + round);
      const shared = await run(["a", "c"], 30 + round);
      const ofOne = Math.max(...[single, shared].map((at) => at.rate * at.wall / at.server));
      const ofTwo = both.rate * both.wall / (cores * both.wall - both.generators) * 2;
      alone.push(single.rate);
      plain.push(both.rate);
      one.push(ofOne);
      two.push(ofTwo);
      scaling.push(ofTwo / ofOne);
      say(
        `round ${round + 1}: one export ${single.rate.toFixed(0)}/s, two on two threads ` +
          `${both.rate.toFixed(0)}/s, two on one thread ${shared.rate.toFixed(0)}/s; ` +
          `scaling ${(ofTwo / ofOne).toFixed(2)}`,
      );
    }
    say(
      `medians: plain ${median(alone).toFixed(0)}/s and ${
        median(plain).toFixed(0)
      }/s; with cores of their own ` +
        `${median(one).toFixed(0)}/s and ${median(two).toFixed(0)}/s: scaling ${
          median(scaling).toFixed(2)
        } (at least ${TARGET}: ${median(scaling) >= TARGET ? "met" : "missed"})`,
    );
  } finally {
    for (const load of loads) await load.close();
    signalChild(child, "SIGTERM");
    await child.status;
    await Deno.remove(directory, { recursive: true });
  }
}

await main();
