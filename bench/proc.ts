/** Facts about a running process from Linux's /proc (proc(5)): CPU time, memory, context switches. */

/** USER_HZ: the unit of the times in /proc/PID/stat; 100 on every architecture that qsd runs on. */
const TICKS_PER_SECOND = 100;

/** CPU time of a whole process, threads that have ended included, from the text of /proc/PID/stat. Microseconds. */
export function parseStatCpuUs(stat: string): number {
  // The name in parentheses may hold spaces and parentheses itself: fields are counted from the last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const utime = Number(fields[11]);
  const stime = Number(fields[12]);
  if (!Number.isFinite(utime) || !Number.isFinite(stime)) {
    throw new Error(`not the text of /proc/PID/stat: ${stat.slice(0, 60)}`);
  }
  return (utime + stime) * (1e6 / TICKS_PER_SECOND);
}

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

/** CPU time that process `pid` has used, user and system, all threads, in microseconds (steps of 10 ms). */
export function cpuUs(pid: number): number {
  return parseStatCpuUs(Deno.readTextFileSync(`/proc/${pid}/stat`));
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
