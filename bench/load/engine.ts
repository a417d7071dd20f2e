/** Runs a workload over its connections and measures a window of it. Blocks the calling thread. */
import { cpuUs } from "../proc.ts";
import { Histogram } from "../stats.ts";
import { Connection } from "./connection.ts";
import type { LinuxSys } from "../../lib/sys/mod.ts";
import { Waiter } from "./sockets.ts";
import type { Latency, Result, Workload } from "./workload.ts";

/** Nanoseconds of a monotonic clock. */
function now(): number {
  return performance.now() * 1e6;
}

/** Connects, loads, measures, disconnects. Throws if the server breaks the protocol or sends wrong data. */
export function runLoad(sys: LinuxSys, work: Workload): Result {
  const histogram = work.latency ? new Histogram() : null;
  const connections: Connection[] = [];
  let waiter: Waiter | undefined;
  try {
    for (let i = 0; i < work.connections; i++) {
      connections.push(new Connection(sys, work, i, histogram));
    }
    waiter = new Waiter(sys, connections.map((connection) => connection.fd));
    return new Run(work, connections, waiter, histogram).run();
  } finally {
    for (const connection of connections) connection.close();
    waiter?.close();
  }
}

/** Totals at one moment. */
interface Mark {
  readonly ns: number;
  readonly completed: number;
  readonly calls: number;
  readonly ownCpu: number;
  readonly serverCpu: number;
}

class Run {
  /** Requests that may still be made. */
  #left: number;

  constructor(
    readonly work: Workload,
    readonly connections: Connection[],
    readonly waiter: Waiter,
    readonly histogram: Histogram | null,
  ) {
    this.#left = work.count > 0 ? work.count : Infinity;
  }

  run(): Result {
    const { work } = this;
    const byCount = work.count > 0;
    const begin = now();
    if (!byCount) this.#loadUntil(begin + work.warmup * 1e9);
    this.histogram?.reset();
    const start = this.#mark();
    if (byCount) this.#drain();
    else this.#loadUntil(start.ns + work.seconds * 1e9);
    const end = this.#mark();
    this.#left = 0;
    if (!byCount) this.#drain();
    return this.#result(start, end);
  }

  #loadUntil(deadline: number): void {
    let time = now();
    while (time < deadline) {
      this.#turn(time);
      time = now();
    }
  }

  #drain(): void {
    do this.#turn(now()); while (this.#left > 0 || this.connections.some((c) => c.inFlight > 0));
  }

  /** Makes and sends requests, waits for something to come, and takes it. */
  #turn(time: number): void {
    let sending = false;
    for (const connection of this.connections) {
      if (this.#left > 0) this.#left -= connection.stage(this.#left, time);
      if (connection.sending) connection.flush();
      sending ||= connection.sending;
    }
    const [only] = this.connections;
    if (this.connections.length === 1 && !sending) {
      if (only!.inFlight > 0) only!.receive(true, now);
    } else {
      this.#waitMany();
    }
  }

  #waitMany(): void {
    const { connections, waiter } = this;
    let waiting = false;
    for (let i = 0; i < connections.length; i++) {
      waiter.wantSend(i, connections[i]!.sending);
      waiting ||= connections[i]!.inFlight > 0;
    }
    if (waiting) waiter.wait(10_000, this.#readable);
  }

  readonly #readable = (index: number): void => this.connections[index]!.receive(false, now);

  #mark(): Mark {
    let completed = 0;
    let calls = 0;
    for (const connection of this.connections) {
      completed += connection.completed;
      calls += connection.calls;
    }
    return {
      ns: now(),
      completed,
      calls,
      ownCpu: cpuUs(Deno.pid),
      serverCpu: this.work.cpuOf > 0 ? cpuUs(this.work.cpuOf) : 0,
    };
  }

  #result(start: Mark, end: Mark): Result {
    const requests = end.completed - start.completed;
    const seconds = (end.ns - start.ns) / 1e9;
    const errors: Record<string, number> = {};
    for (const connection of this.connections) {
      for (const [error, count] of connection.errors) errors[error] = (errors[error] ?? 0) + count;
    }
    return {
      requests,
      seconds,
      rate: requests / seconds,
      bytesPerSecond: requests * this.work.blockSize / seconds,
      callsPerRequest: (end.calls - start.calls) / requests,
      generatorCpuUs: (end.ownCpu - start.ownCpu) / requests,
      serverCpuUs: this.work.cpuOf > 0 ? (end.serverCpu - start.serverCpu) / requests : null,
      errors,
      latency: this.histogram === null ? null : summary(this.histogram),
    };
  }
}

function summary(histogram: Histogram): Latency {
  return {
    p50: histogram.percentile(0.5) / 1000,
    p90: histogram.percentile(0.9) / 1000,
    p99: histogram.percentile(0.99) / 1000,
    p999: histogram.percentile(0.999) / 1000,
    max: histogram.max / 1000,
  };
}
