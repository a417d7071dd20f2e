/** What is measured once a server rather than in slices: start, memory, idling, QMP under load. */
import { EXPORT_NAME, type Kind, QSD, QSD_COMPILED, type Server, signalChild } from "./servers.ts";
import { memory, threadTimes } from "./proc.ts";
import { check, digits, type Single } from "./report.ts";
import { median, percentile } from "./stats.ts";
import { QmpClient, startToGreeting } from "./qmp.ts";
import type { Generator, Pattern } from "./clients.ts";
import { DEFAULTS } from "./load/workload.ts";
import { LinuxSys } from "../lib/sys/mod.ts";
import { connectTo } from "./load/sockets.ts";
import { negotiate } from "./load/negotiate.ts";

const MIB = 2 ** 20;

/** Start to QMP greeting, the kinds in turn. */
export async function measureStart(
  kinds: readonly Kind[],
  slices: number,
  failed: (what: string) => void,
): Promise<Single> {
  const times = new Map<string, number[]>(kinds.map((kind) => [kind.name, []]));
  for (let i = 0; i < slices; i++) {
    for (const kind of kinds) {
      if (!times.has(kind.name)) continue;
      try {
        times.get(kind.name)!.push(await startToGreeting(kind));
      } catch (error) {
        times.delete(kind.name);
        failed(`start: ${String(error)}`);
      }
    }
  }
  const values: Record<string, string> = {};
  for (const [name, ms] of times) values[name] = digits(median(ms));
  return {
    title: "start to QMP greeting, ms",
    values,
    checks: [QSD, QSD_COMPILED].flatMap(({ name }) => {
      const ms = times.get(name);
      return ms ? [check(name, median(ms), "<=", 150, " ms")] : [];
    }),
  };
}

/** Resident memory now, before any client has come. */
export function measureIdleMemory(servers: readonly Server[]): Single {
  const values: Record<string, string> = {};
  for (const server of servers) values[server.name] = digits(memory(server.pid).rss / MIB);
  return { title: "idle memory (VmRSS), MiB", values, checks: [] };
}

/** The most memory in all of a run, given in bytes by server. */
export function peakMemory(peaks: ReadonlyMap<string, number>): Single {
  const values: Record<string, string> = {};
  const checks = [];
  for (const [name, bytes] of peaks) {
    const mib = bytes / MIB;
    values[name] = digits(mib);
    if (name === QSD.name) checks.push(check("qsd", mib, "<=", 128, " MiB"));
  }
  return { title: "peak memory under all of this load (VmHWM), MiB", values, checks };
}

/** CPU time while a client is connected that asks for nothing, for `seconds`, all servers at once. */
export async function measureIdleCpu(servers: readonly Server[], seconds: number): Promise<Single> {
  const sys = new LinuxSys();
  const scratch = sys.allocate(65536);
  const fds: number[] = [];
  try {
    for (const server of servers) {
      const fd = connectTo(sys, { path: server.socket });
      fds.push(fd);
      negotiate(sys, fd, scratch, EXPORT_NAME, false);
    }
    await pause(3); // what the load before has set going comes to rest: collectors, trimming
    const before = servers.map((server) => threadTimes(server.pid));
    await pause(seconds);
    const values: Record<string, string> = {};
    const checks = [];
    for (const [i, server] of servers.entries()) {
      const after = threadTimes(server.pid);
      const us = Math.max(0, after.cpuNs - before[i]!.cpuNs) / 1000 / seconds;
      const switches = Math.max(0, after.switches - before[i]!.switches) / seconds;
      values[server.name] = `${digits(us)} (${digits(switches)} switches)`;
      // Half a thousandth of a CPU is what zero means here: a few timers.
      if (server.name === QSD.name) checks.push(check("qsd", us, "<=", 500, " us/s"));
    }
    return { title: "idle with a client: CPU us a second, context switches", values, checks };
  } finally {
    for (const fd of fds) sys.close(fd);
    scratch.unmap();
    sys.dispose();
  }
}

/** Round trips of query-version while the light generator loads the same server. */
export async function measureQmp(
  servers: readonly Server[],
  generator: Generator,
  seconds: number,
  failed: (what: string) => void,
): Promise<Single[]> {
  const loads: [string, Pattern][] = [
    ["4k reads, 32 in flight", { pattern: "randread", blockSize: 4096, depth: 32 }],
    ["1 MiB reads, 4 connections", { pattern: "read", blockSize: MIB, depth: 4, connections: 4 }],
    ["256k writes, 8 in flight", { pattern: "write", blockSize: 256 * 1024, depth: 8 }],
  ];
  const singles: Single[] = [];
  for (const [title, pattern] of loads) {
    const values: Record<string, string> = {};
    const checks = [];
    for (const server of servers) {
      if (server.qmp === null) continue;
      try {
        const times = await qmpUnderLoad(server, server.qmp, generator, pattern, seconds);
        const p99 = percentile(times, 0.99);
        values[server.name] = [median(times), p99, Math.max(...times)].map(digits).join(" / ");
        if (server.name === QSD.name) checks.push(check("qsd p99", p99, "<=", 10, " ms"));
      } catch (error) {
        failed(`qmp: ${server.name} under ${title}: ${String(error)}`);
      }
    }
    singles.push({ title: `QMP reply under ${title}: ms, p50 / p99 / max`, values, checks });
  }
  return singles;
}

async function qmpUnderLoad(
  server: Server,
  path: string,
  generator: Generator,
  pattern: Pattern,
  seconds: number,
): Promise<number[]> {
  const client = await QmpClient.connect(path);
  try {
    let loaded = true;
    const load = generator.run({
      ...DEFAULTS,
      ...pattern,
      target: { path: server.socket },
      exportName: EXPORT_NAME,
      seconds,
    }).finally(() => loaded = false);
    const [times] = await Promise.all([client.roundTrips(() => !loaded), load]);
    return times;
  } finally {
    await client.close();
  }
}

/**
 * What the generator itself can reach and costs: against a server that only answers. Lines of text.
 * A server's own rate can be told from this only as far as it lies well below.
 */
export async function qualifyGenerator(
  generator: Generator,
  directory: string,
  seconds: number,
): Promise<string[]> {
  const path = `${directory}/null.nbd`;
  const script = new URL("load/null_server.ts", import.meta.url).pathname;
  const lines: string[] = [];
  const patterns: [string, Pattern][] = [
    ["4k reads, 32 in flight", { pattern: "randread", blockSize: 4096, depth: 32 }],
    ["4k reads, 1 in flight", { pattern: "randread", blockSize: 4096, depth: 1 }],
    ["4k writes, 32 in flight", { pattern: "randwrite", blockSize: 4096, depth: 32 }],
    ["256k reads, 8 in flight", { pattern: "read", blockSize: 256 * 1024, depth: 8 }],
    ["256k writes, 8 in flight", { pattern: "write", blockSize: 256 * 1024, depth: 8 }],
  ];
  for (const [title, pattern] of patterns) {
    const child = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", script, path],
      stdin: "null",
      stdout: "null",
    }).spawn();
    try {
      while (!await Deno.stat(path).then(() => true, () => false)) await pause(0.01);
      const result = await generator.run({
        ...DEFAULTS,
        ...pattern,
        target: { path },
        exportName: EXPORT_NAME,
        seconds,
      });
      const { rate, generatorCpuUs, callsPerRequest } = result;
      lines.push(
        `${title}: ${digits(rate)} requests/s, ${digits(generatorCpuUs)} us of CPU and ` +
          `${digits(callsPerRequest)} calls of send and recv a request`,
      );
    } catch (error) {
      signalChild(child, "SIGKILL");
      await child.status;
      throw error;
    }
    await child.status; // it ends with its client, and removes its socket
  }
  return lines;
}

function pause(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
