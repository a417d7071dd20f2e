import assert from "node:assert/strict";
import { page, progressBar, statusLines, type StatusModel } from "./status_view.ts";

const counters = { requests: 3, errors: 1, bytesRead: 4096, bytesWritten: 0, inFlight: 2 };
const quiet = {
  node: "f",
  name: undefined,
  shuttingDown: false,
  address: undefined,
  inUse: undefined,
  iothread: undefined,
  counters: undefined,
};
const model: StatusModel = {
  title: "qsd 1, pid 2, up 3 s",
  nodes: [
    {
      name: "f",
      driver: "file",
      size: 1 << 30,
      marks: ["writable"],
      children: [],
      filename: "disk.raw",
      bitmaps: [],
    },
    {
      name: "top",
      driver: "raw",
      size: 512,
      marks: ["read-only", "cache.direct"],
      children: [{ role: "file", node: "f" }, { role: "backing", node: "gone\x1b" }],
      filename: undefined,
      bitmaps: [{ name: "b0", count: 65536, marks: ["recording"] }],
    },
  ],
  exports: [{ ...quiet, id: "e", type: "nbd", node: "top", name: "disk", counters }, {
    ...quiet,
    id: "v",
    type: "vhost-user-blk",
    address: "unix:v.sock",
    inUse: true,
    iothread: "t",
  }],
  iothreads: [{ id: "t", pollMax: 32768e-9, turns: 5, parks: 2 }],
  addresses: ["unix:nbd"],
  clients: [
    { peer: "client 1", export: "disk", counters, unsent: 4096, stalled: 0.4 },
    { peer: "client 2", export: undefined, counters: undefined, unsent: 0, stalled: 0 },
    { peer: "client 3", export: "disk", counters, unsent: 131072, stalled: 245 },
  ],
  jobs: [{ id: "j", type: "create", status: "running", current: 1, total: 4, error: undefined }],
  requests: Array.from({ length: 12 }, (_, i) => ({
    op: "read",
    node: "top",
    offset: i,
    length: 4096,
    age: 1.5,
  })),
};

Deno.test("status shows the tree, clients below their export, jobs and requests", () => {
  const lines = statusLines(model, 200);
  assert.deepEqual(lines.slice(0, 7), [
    "qsd 1, pid 2, up 3 s",
    "",
    "Nodes",
    "  top                raw     512 B   read-only, cache.direct",
    "  ├─ b0              bitmap  64 KiB  dirty, recording",
    "  ├─ file: f         file    1 GiB   writable                 disk.raw",
    "  └─ backing: gone\\x1b",
  ]);
  const text = lines.join("\n");
  assert.match(text, /NBD server on unix:nbd\n {2}e +nbd as "disk" +node top +3 requests, .* 2 in/);
  assert.match(text, /└─ client 1 .*1 errors/);
  assert.match(text, /client 2: negotiating/);
  assert.deepEqual(
    text.match(/client \d.* takes nothing for .*/g)?.map((line) => line.slice(0, 8)),
    [
      "client 3",
    ],
  );
  assert.match(text, /takes nothing for 4 min 05 s \(128 KiB waiting\)\n/);
  assert.match(text, /v +vhost-user-blk +node f, iothread t\n {2}└─ unix:v.sock: a front-end is/);
  assert.match(text, /IOThreads\n {2}t {2}polls up to 33 µs {2}5 turns {2}slept 2 times\n/);
  assert.match(text, /\[#####-{15}\] {2}25 %/);
  assert.match(text, /read {2}node top {2}4 KiB at 0 .*for 1.5 s\n/);
  assert.match(text, /and 2 more$/);
});

Deno.test("no line is wider than the terminal, whatever the daemon says", () => {
  for (const width of [1, 10, 40]) {
    for (const line of statusLines(model, width)) assert.ok([...line].length <= width, line);
  }
});

Deno.test("nodes that stand on each other end, and empty parts say so", () => {
  const node = (name: string, child: string) => ({
    name,
    driver: "raw",
    size: 0,
    marks: [],
    children: [{ role: "file", node: child }],
    filename: undefined,
    bitmaps: [],
  });
  const empty = {
    ...model,
    iothreads: [],
    exports: [],
    addresses: [],
    clients: [],
    jobs: [],
    requests: [],
  };
  const lines = statusLines(
    { ...empty, nodes: [node("a", "b"), node("r", "a"), node("b", "a")] },
    80,
  );
  assert.ok(lines.length < 20);
  assert.deepEqual(statusLines({ ...empty, nodes: [] }, 80).slice(2), [
    "Nodes",
    "  none",
    "",
    "Exports",
    "  none",
  ]);
});

Deno.test("a page shows what fits and where it is", () => {
  const lines = ["1", "2", "3", "4", "5"];
  assert.deepEqual(page(lines, 0, 6, 80), lines);
  assert.deepEqual(page(lines, 1, 4, 80), ["2", "3", "4", "lines 2 to 4 of 5; arrows scroll"]);
  assert.equal(progressBar(0, 0), "");
  assert.match(progressBar(9, 4), /100 %$/);
});
