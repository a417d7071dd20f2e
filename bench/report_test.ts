import assert from "node:assert/strict";
import { parseFio } from "./clients.ts";
import { cell, check, digits, judge, singlesTable, tables } from "./report.ts";
import { ROWS } from "./rows.ts";
import { parseOptions } from "./bench.ts";

const slow = cell([{ rate: 100, cpuUs: 40 }, { rate: 90, cpuUs: 44 }, { rate: 120, cpuUs: 42 }]);
const fast = cell([{ rate: 500, cpuUs: 8 }]);

Deno.test("a cell holds the medians of its slices", () => {
  const { error, ...rest } = slow;
  assert.deepEqual(rest, { rate: 100, cpuUs: 42, slices: 3, p50: null, p99: null });
  assert.equal(error.toFixed(4), "0.1604"); // the quartiles are 90 and 120
});

Deno.test("a target is met from its limit on, and missed just short of it", () => {
  const targets = { original: 5, nbdkit: 1, cpu: 0.2 };
  const cells = { qsd: fast, "qemu-storage-daemon": slow, nbdkit: { ...fast, rate: 501 } };
  assert.deepEqual(judge({ targets }, cells).map((one) => [one.what, one.met]), [
    ["rate / original", true],
    ["rate / nbdkit", false],
    ["CPU / original", true],
  ]);
  assert.equal(check("x", 0.201, "<=", 0.2).met, false);
  assert.equal(check("x", NaN, ">=", 1).met, false);
});

Deno.test("nothing is judged where a server did not run", () => {
  assert.deepEqual(judge({ targets: { original: 5, cpu: 1 } }, { qsd: fast }), []);
});

Deno.test("numbers keep three digits, and group thousands", () => {
  assert.deepEqual([1234567, 999.4, 0.12345, NaN].map(digits), ["1 234 567", "999", "0.123", "-"]);
});

Deno.test("the tables show rates, ratios and missed targets", () => {
  const cells = { qsd: fast, "qemu-storage-daemon": slow };
  const checks = judge({ targets: { original: 6 } }, cells);
  const text = tables(
    [{ id: "a", title: "reads", unit: "requests/s", cells, checks }],
    ["qsd", "qemu-storage-daemon"],
  );
  assert.match(
    text,
    /\| reads \| 500 ±0 % \| 100 ±16 % \| 5 \| - \| 1 \| \*\*missed\*\*: .*5 \(at least 6\) \|/,
  );
  const singles = singlesTable([{ title: "start", values: { qsd: "90" }, checks: [] }], ["qsd"]);
  assert.match(singles, /\| start \| 90 \| {2}\|/);
});

Deno.test("fio's JSON gives the rate and the CPU time per request", () => {
  const job = { error: 0, read: { iops: 70, total_ios: 140 }, write: { iops: 30, total_ios: 60 } };
  assert.deepEqual(parseFio("fio: a note\n" + JSON.stringify({ jobs: [job] }), 400), {
    rate: 100,
    cpuUs: 2,
  });
  assert.throws(() => parseFio(JSON.stringify({ jobs: [{ ...job, error: 5 }] }), 1), /error 5/);
});

Deno.test("options choose rows and single figures by parts of their names", () => {
  const chosen = parseOptions(["--rows", "light-randread,start", "--slices", "7"]);
  assert.ok(typeof chosen === "object");
  assert.deepEqual(chosen.rows.map((row) => row.id), [
    "light-randread-4k-32",
    "light-randread-4k-1",
  ]);
  assert.deepEqual([chosen.singles, chosen.slices], [["start"], 7]);
  assert.throws(() => parseOptions(["--rows", "nope"]), /no row matches nope/);
  assert.throws(() => parseOptions(["--servers", "x"]), /no such server: x/);
  assert.throws(() => parseOptions(["--slices", "0"]), /--slices/);
  assert.equal(new Set(ROWS.map((row) => row.id)).size, ROWS.length);
});
