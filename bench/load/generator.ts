/**
 * A light NBD load generator.
 *
 *   deno run -A bench/load/generator.ts --socket PATH --pattern randread --bs 4096 --depth 32 --seconds 2
 *
 * With `--serve` it reads one workload as a line of JSON on standard input after another and answers
 * each with a line: how bench/main.ts uses it, so that the compiled code stays warm between slices.
 */
import { parseArgs } from "node:util";
import { serveLines } from "../served.ts";
import { runLoad } from "./engine.ts";
import { LinuxSys } from "../../lib/sys/mod.ts";
import { DEFAULTS, type Pattern, PATTERNS, type Result, type Workload } from "./workload.ts";

const USAGE = `Usage: generator.ts (--socket PATH | --connect HOST:PORT) [options]
  --export NAME      the export (default: the empty name)
  --pattern P        ${PATTERNS.join(", ")} (default: randread)
  --read-percent N   reads among rw and randrw (default: 70)
  --bs BYTES         bytes of a request (default: 4096)
  --depth N          requests in flight on each connection (default: 32)
  --connections N    (default: 1)
  --seconds S        measured time (default: 1), after --warmup S (default: 0.2)
  --count N          so many requests, instead of a time
  --seed N           (default: 1)
  --structured       structured replies
  --verify           write a pattern; compare what is read with it
  --latency          time every request
  --cpu-of PID       also the CPU time of this process per request
  --json             print the result as JSON`;

/** The workload that the command line asks for. Throws with what is wrong. */
export function parseCommandLine(args: string[]): { work: Workload; json: boolean } {
  const { values } = parseArgs({
    args,
    options: {
      socket: { type: "string" },
      connect: { type: "string" },
      export: { type: "string" },
      pattern: { type: "string" },
      "read-percent": { type: "string" },
      bs: { type: "string" },
      depth: { type: "string" },
      connections: { type: "string" },
      seconds: { type: "string" },
      warmup: { type: "string" },
      count: { type: "string" },
      seed: { type: "string" },
      structured: { type: "boolean" },
      verify: { type: "boolean" },
      latency: { type: "boolean" },
      "cpu-of": { type: "string" },
      json: { type: "boolean" },
    },
  });
  const number = (name: keyof typeof values, fallback: number, least: number): number => {
    const text = values[name];
    if (text === undefined) return fallback;
    const value = Number(text);
    if (!(value >= least)) throw new Error(`--${name} must be a number of at least ${least}`);
    return value;
  };
  const pattern = (values.pattern ?? DEFAULTS.pattern) as Pattern;
  if (!PATTERNS.includes(pattern)) {
    throw new Error(`--pattern must be one of ${PATTERNS.join(", ")}`);
  }
  const work: Workload = {
    target: parseTarget(values.socket, values.connect),
    exportName: values.export ?? DEFAULTS.exportName,
    pattern,
    readPercent: number("read-percent", DEFAULTS.readPercent, 0),
    blockSize: number("bs", DEFAULTS.blockSize, 1),
    depth: number("depth", DEFAULTS.depth, 1),
    connections: number("connections", DEFAULTS.connections, 1),
    seconds: number("seconds", DEFAULTS.seconds, 0.01),
    warmup: number("warmup", DEFAULTS.warmup, 0),
    count: number("count", DEFAULTS.count, 0),
    seed: number("seed", DEFAULTS.seed, 0),
    structured: values.structured ?? false,
    verify: values.verify ?? false,
    latency: values.latency ?? false,
    cpuOf: number("cpu-of", DEFAULTS.cpuOf, 0),
  };
  return { work, json: values.json ?? false };
}

function parseTarget(socket?: string, connect?: string): Workload["target"] {
  if (socket !== undefined) return { path: socket };
  const found = /^(.+):(\d+)$/.exec(connect ?? "");
  if (!found) throw new Error("--socket PATH or --connect HOST:PORT is needed");
  return { host: found[1]!, port: Number(found[2]) };
}

/** The result for people. */
export function describeResult(work: Workload, result: Result): string {
  const us = (value: number) => `${value.toFixed(2)} us`;
  const lines = [
    `${work.pattern} of ${work.blockSize} bytes, ${work.depth} in flight on each of ${work.connections}`,
    `  ${Math.round(result.rate)} requests/s, ${(result.bytesPerSecond / 1e9).toFixed(3)} GB/s` +
    ` (${result.requests} in ${result.seconds.toFixed(2)} s)`,
    `  generator ${us(result.generatorCpuUs)} CPU and ${
      result.callsPerRequest.toFixed(3)
    } calls a request`,
  ];
  if (result.serverCpuUs !== null) lines.push(`  server ${us(result.serverCpuUs)} CPU a request`);
  if (result.latency) {
    const { p50, p90, p99, p999, max } = result.latency;
    lines.push(
      `  latency p50 ${us(p50)}, p90 ${us(p90)}, p99 ${us(p99)}, p99.9 ${us(p999)}, max ${us(max)}`,
    );
  }
  for (const [error, count] of Object.entries(result.errors)) {
    lines.push(`  ${count} replies with NBD error ${error}`);
  }
  return lines.join("\n");
}

function print(text: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(text + "\n"));
}

async function main(args: string[]): Promise<number> {
  const sys = new LinuxSys();
  try {
    if (args.includes("--help")) {
      print(USAGE);
    } else if (args.includes("--serve")) {
      await serveLines((work: Workload) => runLoad(sys, work));
    } else {
      const { work, json } = parseCommandLine(args);
      const result = runLoad(sys, work);
      print(json ? JSON.stringify(result) : describeResult(work, result));
      return Object.keys(result.errors).length > 0 ? 1 : 0;
    }
    return 0;
  } catch (error) {
    Deno.stderr.writeSync(
      new TextEncoder().encode(`load: ${error instanceof Error ? error.message : error}\n`),
    );
    return 1;
  } finally {
    sys.dispose();
  }
}

if (import.meta.main) Deno.exit(await main(Deno.args));
