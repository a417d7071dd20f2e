/** Commands that make, change, remove and use character devices. */
import { type Difference, parity, type Step } from "./mould.ts";

const add = (id: string, type: string, data: Record<string, unknown> = {}): Step => ({
  execute: "chardev-add",
  arguments: { id, backend: { type, data } },
});
const change = (id: string, type: string, data: Record<string, unknown> = {}): Step => ({
  execute: "chardev-change",
  arguments: { id, backend: { type, data } },
});
const on = (command: string, id: string): Step => ({ execute: command, arguments: { id } });
const write = (device: string, data: string, format?: string): Step => ({
  execute: "ringbuf-write",
  arguments: { device, data, ...(format === undefined ? {} : { format }) },
});
const read = (device: string, size: number, format?: string): Step => ({
  execute: "ringbuf-read",
  arguments: { device, size, ...(format === undefined ? {} : { format }) },
});
const unix = (path: string) => ({ addr: { type: "unix", data: { path } } });
const inet = (port: string) => ({
  addr: { type: "inet", data: { host: "127.0.0.1", port } },
});

/** The original lists devices in the order of a hash table; qsd in that of their making. */
const inOrder = (labels: readonly string[]): Difference => ({
  reason: "query-chardev lists devices in the order in which they were made",
  expect: (theirs) => ({
    ...theirs,
    steps: theirs.steps.map((step) => {
      const list = (step as { return?: unknown }).return;
      if (!Array.isArray(list)) return step;
      const at = ({ label }: { label: string }) => labels.indexOf(label);
      return { ...(step as object), return: [...list].sort((a, b) => at(a) - at(b)) };
    }),
  }),
});

/** What the original does to step `index`, better. */
const better = (reason: string, index: number, reply: unknown): Difference => ({
  reason,
  expect: (theirs) => ({
    ...theirs,
    steps: theirs.steps.map((step, i) => i === index ? reply : step),
  }),
});

const refusedKinds: readonly (readonly [string, Record<string, unknown>])[] = [
  ["braille", {}],
  ["console", {}],
  ["dbus", { name: "x" }],
  ["msmouse", {}],
  ["qemu-vdagent", {}],
  ["spiceport", { fqdn: "x" }],
  ["spicevmc", { type: "x" }],
  ["testdev", {}],
  ["vc", { cols: 80 }],
  ["wctablet", {}],
  ["foo", {}],
];

parity("chardev commands", [
  {
    name: "a ring buffer keeps the newest bytes, and gives them once",
    steps: [
      add("rb", "ringbuf", { size: 16 }),
      write("rb", "abcé"),
      read("rb", 2),
      read("rb", 100),
      read("rb", 100),
      write("rb", "0123456789".repeat(3)),
      read("rb", 5),
      write("rb", "xyz"),
      read("rb", 1_000_000_000_000),
      write("rb", "YQBi/w==", "base64"),
      read("rb", 100, "base64"),
      write("rb", "YQ\n==", "base64"),
      write("rb", "", "base64"),
      write("rb", ""),
      read("rb", 1, "utf8"),
      write("rb", "4oKs4oI=", "base64"),
      read("rb", 4),
      read("rb", 4),
    ],
  },
  {
    name: "what a ring buffer refuses",
    steps: [
      add("rb", "memory"),
      add("odd", "ringbuf", { size: 1000 }),
      add("negative", "ringbuf", { size: -1 }),
      add("zero", "ringbuf", { size: 0 }),
      read("rb", 0),
      read("rb", -5),
      read("zz", 1),
      write("zz", "x"),
      read("qmp0", 1),
      write("qmp0", "x"),
      write("rb", "!!", "base64"),
      write("rb", "YQ ==", "base64"),
      write("rb", "x", "hex"),
      { execute: "ringbuf-write", arguments: { device: "rb" } },
      { execute: "ringbuf-read", arguments: { device: "rb" } },
    ],
  },
  {
    name: "incomplete base64 is refused",
    steps: [add("rb", "ringbuf"), write("rb", "YWJjYQ", "base64"), read("rb", 9)],
    differs: {
      reason: "the original takes it and drops what is incomplete",
      expect: (theirs) => ({
        ...theirs,
        steps: [
          theirs.steps[0],
          {
            error: {
              class: "GenericError",
              desc: "Base64 data contains invalid characters",
            },
          },
          { return: "" },
        ],
      }),
    },
  },
  {
    name: "devices of all kinds come and go",
    files: { in: { text: "hello" } },
    steps: [
      { tool: ["mkfifo", "both", "two.in", "two.out"] },
      add("null", "null", { logfile: "null.log" }),
      add("file", "file", { out: "out", in: "in" }),
      add("more", "file", { out: "out", append: true }),
      add("both", "pipe", { device: "both" }),
      add("two", "pipe", { device: "two" }),
      add("serial", "serial", { device: "/dev/null" }),
      add("udp", "udp", { remote: inet("9").addr, local: inet("0").addr }),
      add("server", "socket", unix("s")),
      add("client", "socket", { ...unix("qmp"), server: false, reconnect: 1 }),
      add("telnet", "socket", { ...unix("t"), telnet: true, wait: false }),
      { exist: ["null.log", "out", "s", "t"] },
      { execute: "query-chardev" },
      ...["null", "file", "more", "both", "two", "serial", "udp", "server", "telnet"].flatMap(
        (id) => [on("chardev-send-break", id), on("chardev-remove", id)],
      ),
      { exist: ["null.log", "out", "s", "t"] },
    ],
    differs: {
      reason: "query-chardev is in order; a client shows where it is connected to",
      expect(theirs) {
        const labels = "qmp0 null file more both two serial udp server client telnet".split(" ");
        const sorted = inOrder(labels).expect(theirs);
        // The original connects in a thread of its own, which may not have come to it yet.
        const text = JSON.stringify(sorted.steps)
          .replace(/"(unix:|disconnected:unix:qmp)"/, '"unix:qmp"');
        return { ...sorted, steps: JSON.parse(text) };
      },
    },
  },
  {
    name: "what cannot be made",
    steps: [
      ...refusedKinds.map(([type, data]) => add("x", type, data)),
      add("qmp0", "null"),
      add("x", "file"),
      add("x", "file", { out: "/nonexist/x" }),
      add("x", "null", { logfile: "/nonexist/x" }),
      add("x", "pipe", { device: "/nonexist/x" }),
      add("x", "serial", { device: "/nonexist/x" }),
      add("x", "parallel", { device: "/nonexist/x" }),
      add("x", "parallel", { device: "/dev/null" }),
      add("x", "mux", { chardev: "zz" }),
      add("x", "mux", { chardev: "qmp0" }),
      add("x", "udp", { remote: unix("x").addr }),
      add("x", "udp", { remote: inet("").addr }),
      add("x", "socket", { ...unix("x"), reconnect: 1 }),
      add("x", "socket", { ...unix("x"), server: false, wait: false }),
      add("x", "socket", { ...unix("x"), server: false }),
      add("x", "socket", { ...unix("x"), server: false, websocket: true }),
      add("x", "socket", { ...unix("x"), "tls-creds": "t" }),
      add("x", "socket", { ...unix("x"), "tls-authz": "t" }),
      add("x", "socket", { addr: { type: "fd", data: { str: "99" } } }),
      add("x", "socket", {}),
      { execute: "chardev-add", arguments: { id: "x", backend: { type: "null" } } },
      { execute: "chardev-add", arguments: { id: "x" } },
      { execute: "query-chardev" },
    ],
  },
  {
    name: "ids that the command line would refuse, and those that are taken",
    steps: [
      add("bad id!", "null"),
      add("", "null"),
      add("", "null"),
      on("chardev-remove", ""),
      on("chardev-remove", ""),
      on("chardev-remove", "qmp0"),
      on("chardev-send-break", "zz"),
      on("chardev-send-break", "qmp0"),
    ],
  },
  {
    name: "a device without a frontend is replaced",
    steps: [
      add("n", "null"),
      change("n", "ringbuf", { size: 4 }),
      write("n", "abcdef"),
      read("n", 9),
      change("n", "socket", unix("s")),
      { exist: ["s"] },
      change("n", "file", { out: "f" }),
      { exist: ["s", "f"] },
      change("zz", "null"),
      change("qmp0", "null"),
      { execute: "query-chardev" },
    ],
    differs: inOrder(["qmp0", "n"]),
  },
  {
    name: "a device that cannot be replaced stays",
    steps: [
      add("n", "ringbuf"),
      change("n", "file", { out: "/nonexist/x" }),
      write("n", "still here"),
    ],
    differs: better("the original has lost it", 2, { return: {} }),
  },
  {
    name: "multiplexers hold their base",
    steps: [
      add("base", "ringbuf"),
      add("m", "mux", { chardev: "base" }),
      add("again", "mux", { chardev: "base" }),
      add("over", "mux", { chardev: "m" }),
      on("chardev-remove", "base"),
      change("m", "null"),
      change("base", "null"),
      { execute: "query-chardev" },
    ],
    differs: inOrder(["qmp0", "base", "m", "over"]),
  },
]);
