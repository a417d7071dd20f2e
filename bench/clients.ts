/** The clients that load a server: the light generator of load/, fio's nbd engine and nbdcopy. */
import { cpuUs } from "./proc.ts";
import { DEFAULTS, type Result, type Workload } from "./load/workload.ts";
import { Served } from "./served.ts";
import { EXPORT_NAME, type Server } from "./servers.ts";

/** What one slice measured. */
export interface Sample {
  /** Requests a second; for nbdcopy MiB a second. Higher is better. */
  readonly rate: number;
  /** The server's CPU time per request (or MiB), in microseconds. */
  readonly cpuUs: number;
  /** Median and 99th percentile of a request's time in microseconds, where it was taken. */
  readonly p50?: number;
  readonly p99?: number;
}

/** What is asked of a client. */
export interface Pattern {
  readonly pattern: Workload["pattern"];
  readonly blockSize: number;
  readonly depth: number;
  readonly connections?: number;
}

/** The light generator in a process of its own. */
export class Generator {
  readonly #served = new Served<Workload, Result>("load/generator.ts");

  /** The process of the generator. */
  get pid(): number {
    return this.#served.pid;
  }

  /** Runs one workload; one at a time. Throws when it fails or any request did. */
  async run(work: Workload): Promise<Result> {
    const result = await this.#served.run(work, work.seconds + 10);
    if (Object.keys(result.errors).length > 0) {
      throw new Error(`requests failed: ${JSON.stringify(result.errors)}`);
    }
    return result;
  }

  /** One slice against `server`. */
  async slice(server: Server, pattern: Pattern, seconds: number, seed: number): Promise<Sample> {
    const result = await this.run({
      ...DEFAULTS,
      ...pattern,
      target: { path: server.socket },
      exportName: EXPORT_NAME,
      seconds,
      seed,
      latency: pattern.depth === 1,
      cpuOf: server.pid,
    });
    return {
      rate: result.rate,
      cpuUs: result.serverCpuUs!,
      ...(result.latency ? { p50: result.latency.p50, p99: result.latency.p99 } : {}),
    };
  }

  /** Ends the process. */
  close(): Promise<void> {
    return this.#served.close();
  }
}

/** The URI of a server's export. */
export function uri(server: Server): string {
  return `nbd+unix:///${EXPORT_NAME}?socket=${server.socket}`;
}

/** Runs a program to its end; its standard output. Throws with its standard error when it fails. */
export async function runProgram(program: string, args: string[]): Promise<string> {
  const output = await new Deno.Command(program, { args, stdin: "null" }).output();
  if (!output.success) {
    throw new Error(`${program} failed: ${new TextDecoder().decode(output.stderr).trim()}`);
  }
  return new TextDecoder().decode(output.stdout);
}

/**
 * One slice with fio's nbd engine. The server's CPU time is that of the whole run, by all its requests. `alignment`, in
 * bytes, is that of fio's buffers; without, they are malloc's, which begin 16 bytes into a page.
 */
export async function fioSlice(
  server: Server,
  pattern: Pattern,
  seconds: number,
  seed: number,
  alignment?: number,
): Promise<Sample> {
  const before = cpuUs(server.pid);
  const text = await runProgram("fio", [
    "--name=slice",
    "--ioengine=nbd",
    `--uri=${uri(server)}`,
    `--rw=${pattern.pattern}`,
    "--rwmixread=70",
    `--bs=${pattern.blockSize}`,
    `--iodepth=${pattern.depth}`,
    "--time_based",
    `--runtime=${Math.max(1, Math.round(seconds))}`,
    "--norandommap",
    ...(alignment === undefined ? [] : [`--iomem_align=${alignment}`]),
    `--randseed=${seed}`,
    "--output-format=json",
  ]);
  return parseFio(text, cpuUs(server.pid) - before);
}

/** Rate and CPU time per request from fio's JSON, given the server's CPU time in microseconds. */
export function parseFio(text: string, serverCpuUs: number): Sample {
  // fio may print notes before the object.
  const { jobs } = JSON.parse(text.slice(text.indexOf("{"))) as {
    jobs: {
      error: number;
      read: { iops: number; total_ios: number };
      write: { iops: number; total_ios: number };
    }[];
  };
  const [job] = jobs;
  if (!job || job.error !== 0) throw new Error(`fio reports error ${job?.error}`);
  return {
    rate: job.read.iops + job.write.iops,
    cpuUs: serverCpuUs / (job.read.total_ios + job.write.total_ios),
  };
}

/** One nbdcopy of the whole export to `target` (`null:` or a file), or of a file into it. */
export async function nbdcopySlice(
  server: Server,
  other: string,
  into: boolean,
  bytes: number,
): Promise<Sample> {
  const before = cpuUs(server.pid);
  const begin = performance.now();
  await runProgram("nbdcopy", into ? [other, uri(server)] : [uri(server), other]);
  const seconds = (performance.now() - begin) / 1000;
  const mib = bytes / 2 ** 20;
  return { rate: mib / seconds, cpuUs: (cpuUs(server.pid) - before) / mib };
}

/** Whether `program` can be run here. */
export async function installed(program: string): Promise<boolean> {
  try {
    await new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
      .output();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
