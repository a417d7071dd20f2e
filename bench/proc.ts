/** Facts about a running process: its CPU clock, and from Linux's /proc (proc(5)) memory and context switches. */

/** Memory of a process in bytes. */
export interface Memory {
  /** Now resident (VmRSS). */
  readonly rss: number;
  /** The most that ever was resident (VmHWM). */
  readonly peak: number;
}

/** VmRSS and VmHWM from the text of /proc/PID/status. Bytes. */
export function parseStatusMemory(status: string): Memory {
  return { rss: kibField(status, "VmRSS"), peak: kibField(status, "VmHWM") };
}

function kibField(status: string, name: string): number {
  const found = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status);
  if (!found) throw new Error(`/proc/PID/status has no ${name}`);
  return Number(found[1]) * 1024;
}

/** Nanoseconds on a CPU from the text of /proc/PID/task/TID/schedstat. */
export function parseSchedstatNs(schedstat: string): number {
  const ns = Number(schedstat.split(" ")[0]);
  if (!Number.isFinite(ns)) throw new Error("not the text of a schedstat file");
  return ns;
}

/** Times a thread gave up or lost its CPU, from the text of /proc/PID/task/TID/status. */
export function parseContextSwitches(status: string): number {
  let sum = 0;
  for (const found of status.matchAll(/^(?:non)?voluntary_ctxt_switches:\s+(\d+)$/gm)) {
    sum += Number(found[1]);
  }
  return sum;
}

/** What gives the CPU clock of another process (clock_getcpuclockid(3)). */
const { symbols: LIBC } = Deno.dlopen("libc.so.6", {
  clock_getcpuclockid: { parameters: ["i32", "buffer"], result: "i32" },
  clock_gettime: { parameters: ["i32", "buffer"], result: "i32" },
});

/**
 * CPU time that process `pid` has used, user and system, all threads, those that have ended included, in microseconds.
 * Its clock is exact; the times in /proc/PID/stat are the same ones, in steps of 10 ms.
 */
export function cpuUs(pid: number): number {
  const clock = new Int32Array(1);
  const time = new BigInt64Array(2);
  const errno = LIBC.clock_getcpuclockid(pid, clock);
  if (errno !== 0) throw new Error(`process ${pid} has no CPU clock (errno ${errno})`);
  if (LIBC.clock_gettime(clock[0]!, time) !== 0) {
    throw new Error(`the CPU clock of process ${pid} cannot be read`);
  }
  return Number(time[0]) * 1e6 + Number(time[1]) / 1e3;
}

/** Memory of process `pid`, in bytes. */
export function memory(pid: number): Memory {
  return parseStatusMemory(Deno.readTextFileSync(`/proc/${pid}/status`));
}

/** Exact CPU time (nanoseconds) and context switches of the threads that `pid` has now: for idle processes. */
export function threadTimes(pid: number): { cpuNs: number; switches: number; threads: number } {
  let cpuNs = 0;
  let switches = 0;
  let threads = 0;
  for (const task of Deno.readDirSync(`/proc/${pid}/task`)) {
    const base = `/proc/${pid}/task/${task.name}`;
    try {
      const ns = parseSchedstatNs(Deno.readTextFileSync(`${base}/schedstat`));
      switches += parseContextSwitches(Deno.readTextFileSync(`${base}/status`));
      cpuNs += ns;
      threads++;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // the thread has just ended
    }
  }
  return { cpuNs, switches, threads };
}
