import assert from "node:assert/strict";
import {
  cpuUs,
  memory,
  parseContextSwitches,
  parseSchedstatNs,
  parseStatusMemory,
  threadTimes,
} from "./proc.ts";
import { fileSystemOf } from "./machine.ts";

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
  const clock = cpuUs(Deno.pid);
  const began = performance.now();
  let sum = 0;
  for (let i = 0; i < 3e6; i++) sum += Math.sqrt(i);
  const used = cpuUs(Deno.pid) - clock;
  const passed = (performance.now() - began) * 1000;
  const after = threadTimes(Deno.pid);
  assert.ok(sum > 0 && after.cpuNs > before.cpuNs && after.threads >= 1);
  assert.ok(used > 100 && used <= passed * after.threads);
  assert.throws(() => cpuUs(2 ** 24), /no CPU clock/);
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
