import assert from "node:assert/strict";
import {
  cpuUs,
  memory,
  parseContextSwitches,
  parseSchedstatNs,
  parseStatCpuUs,
  parseStatusMemory,
  threadTimes,
} from "./proc.ts";
import { fileSystemOf } from "./machine.ts";

const STAT =
  "4290 (a) b (c) S 1 4290 4290 0 -1 4194304 99 0 0 0 123 45 6 7 20 0 1 0 129173 3133440 383";

Deno.test("CPU time is utime and stime, whatever the process is called", () => {
  assert.equal(parseStatCpuUs(STAT), (123 + 45) * 10_000);
  assert.throws(() => parseStatCpuUs("nonsense"), /not the text/);
});

Deno.test("memory is read in bytes from the status file", () => {
  const status =
    "Name:\tx\nVmPeak:\t  999 kB\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
  assert.deepEqual(parseStatusMemory(status), { rss: 2 ** 20, peak: 2 ** 21 });
  assert.throws(() => parseStatusMemory("Name:\tx\n"), /VmRSS/);
});

Deno.test("switches of both kinds are counted, and schedstat's first field is the CPU time", () => {
  const status = "voluntary_ctxt_switches:\t40\nnonvoluntary_ctxt_switches:\t2\n";
  assert.equal(parseContextSwitches(status), 42);
  assert.equal(parseSchedstatNs("1141090 60793 1\n"), 1141090);
});

Deno.test("the figures of this very process are plausible", () => {
  const before = threadTimes(Deno.pid);
  let sum = 0;
  for (let i = 0; i < 3e6; i++) sum += Math.sqrt(i);
  const after = threadTimes(Deno.pid);
  assert.ok(sum > 0 && after.cpuNs > before.cpuNs && after.threads >= 1);
  assert.ok(cpuUs(Deno.pid) > 0);
  const { rss, peak } = memory(Deno.pid);
  assert.ok(peak >= rss && rss > 2 ** 20);
});

Deno.test("the file system is that of the longest mount point that holds the path", () => {
  const info = [
    "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw",
    "30 22 0:26 / /dev/shm rw shared:2 - tmpfs tmpfs rw",
  ].join("\n");
  assert.equal(fileSystemOf("/tmp/x", info), "ext4");
  assert.equal(fileSystemOf("/dev/shm/x", info), "tmpfs");
  assert.equal(fileSystemOf("/dev/shmx", info), "ext4");
});
