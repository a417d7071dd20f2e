import assert from "node:assert/strict";
import { AdaptivePolling } from "./adaptive.ts";
import { SizeClassPool } from "./buffers.ts";
import { errnoName, errnoNumber, errnoText } from "./errno.ts";
import { formatIPv4, formatIPv6, getSockaddr, parseIPv4, parseIPv6, putSockaddr } from "./inet.ts";
import {
  getFlockType,
  getI64,
  getRights,
  getStatx,
  getU64,
  makedev,
  putFlock,
  putIovecs,
  putMsghdr,
  putRights,
  putU64,
} from "./layout.ts";
import { createLog } from "./log.ts";
import { TimerHeap } from "./timers.ts";
import type { Memory, SocketAddress } from "./types.ts";

Deno.test("errno: names, numbers and texts as glibc has them", () => {
  assert.equal(errnoName(2), "ENOENT");
  assert.equal(errnoText(2), "No such file or directory");
  assert.equal(errnoText(28), "No space left on device");
  assert.equal(errnoText(9999), "Unknown error 9999");
  assert.equal(errnoName(9999), "E9999");
  assert.equal(errnoNumber("EOPNOTSUPP"), 95);
  assert.equal(errnoNumber("ENOTSUP"), 95);
  assert.equal(errnoNumber("EWOULDBLOCK"), 11);
  assert.equal(errnoNumber("ENONSENSE"), undefined);
});

Deno.test("errno texts are those of the running libc", () => {
  const libc = Deno.dlopen("libc.so.6", {
    strerror: { parameters: ["i32"], result: "pointer" },
  });
  for (let errno = 1; errno < 134; errno++) {
    if (errnoName(errno) === `E${errno}`) continue;
    const text = Deno.UnsafePointerView.getCString(libc.symbols.strerror(errno)!);
    assert.equal(errnoText(errno), text, errnoName(errno));
  }
  libc.close();
});

Deno.test("64-bit numbers survive the way through memory", () => {
  const view = new DataView(new ArrayBuffer(8));
  for (const value of [0, 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 47 - 1, 2 ** 53 - 1]) {
    putU64(view, 0, value);
    assert.equal(getU64(view, 0), value);
    assert.equal(view.getBigUint64(0, true), BigInt(value));
  }
  view.setBigInt64(0, -5n, true);
  assert.equal(getI64(view, 0), -5);
});

Deno.test("iovecs, flock, msghdr lie as the kernel wants them", () => {
  const words = new Uint32Array(8);
  putIovecs(words, [1, 0x7fff_1234_5678, 2 ** 40], [9, 4096, 2 ** 33], 1, 2);
  assert.deepEqual([...words], [0x12345678, 0x7fff, 4096, 0, 0, 256, 0, 2]);
  const flock = new DataView(new ArrayBuffer(32));
  putFlock(flock, 1, 100, 2 ** 40);
  assert.equal(flock.getInt16(0, true), 1);
  assert.equal(flock.getBigInt64(8, true), 100n);
  assert.equal(flock.getBigInt64(16, true), 1n << 40n);
  assert.equal(getFlockType(flock), 1);
  const header = new DataView(new ArrayBuffer(56));
  putMsghdr(header, { iov: 0x7f00_0000_1000, segments: 3, control: 5, controlLength: 20 });
  const fields = Array.from({ length: 7 }, (_, i) => header.getBigUint64(8 * i, true));
  assert.deepEqual(fields, [0n, 0n, 0x7f00_0000_1000n, 3n, 5n, 20n, 0n]);
});

Deno.test("statx is decoded from its documented offsets", () => {
  const view = new DataView(new ArrayBuffer(256));
  view.setUint32(4, 4096, true);
  view.setUint16(28, 0o060660, true);
  view.setBigUint64(32, 77n, true);
  view.setBigUint64(40, 1n << 40n, true);
  view.setBigUint64(48, 8n, true);
  view.setUint32(128, 259, true);
  view.setUint32(132, 300, true);
  view.setUint32(136, 8, true);
  view.setUint32(140, 1, true);
  assert.deepEqual(getStatx(view), {
    kind: "block",
    size: 2 ** 40,
    allocated: 4096,
    blockSize: 4096,
    device: 0x801,
    inode: 77,
    mode: 0o060660,
    rdev: makedev(259, 300),
  });
  assert.equal(makedev(259, 300), (259 << 8) + 2 ** 20 + (300 & 255));
});

Deno.test("SCM_RIGHTS are written and read back; cut messages give only what is there", () => {
  const view = new DataView(new ArrayBuffer(64));
  const length = putRights(view, [3, 4, 5]);
  assert.equal(length, 28);
  const fds: number[] = [];
  getRights(view, length, fds);
  assert.deepEqual(fds, [3, 4, 5]);
  for (const cut of [0, 8, 16, 27]) {
    const none: number[] = [];
    getRights(view, cut, none);
    assert.deepEqual(none, []);
  }
  view.setInt32(12, 2, true); // SCM_CREDENTIALS
  const other: number[] = [];
  getRights(view, length, other);
  assert.deepEqual(other, []);
});

Deno.test("IPv4 text is strict", () => {
  assert.deepEqual([...parseIPv4("192.168.0.255")!], [192, 168, 0, 255]);
  for (
    const bad of [
      "",
      "1.2.3",
      "1.2.3.4.5",
      "256.1.1.1",
      "01.2.3.4",
      "1.2.3.a",
      "1..2.3",
      " 1.2.3.4",
    ]
  ) {
    assert.equal(parseIPv4(bad), undefined, bad);
  }
  assert.equal(formatIPv4(new Uint8Array([1, 2, 3, 4])), "1.2.3.4");
});

Deno.test("IPv6 text is read in every form and written in the canonical one", () => {
  const forms: [string, string][] = [
    ["::", "::"],
    ["::1", "::1"],
    ["1::", "1::"],
    ["2001:DB8:0:0:0:0:0:1", "2001:db8::1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["1:0:0:2:0:0:0:3", "1:0:0:2::3"],
    ["::ffff:10.0.0.1", "::ffff:10.0.0.1"],
    ["64:ff9b::1.2.3.4", "64:ff9b::102:304"],
    ["fe80::1:2:3:4", "fe80::1:2:3:4"],
  ];
  for (const [text, canonical] of forms) assert.equal(formatIPv6(parseIPv6(text)!), canonical);
  for (
    const bad of [
      "",
      ":",
      ":::",
      "1:2:3:4:5:6:7",
      "1:2:3:4:5:6:7:8:9",
      "1::2::3",
      "g::",
      "12345::",
      "1:2:3:4:5:6:7:8::",
      "1.2.3.4::",
      "::1%eth0",
    ]
  ) {
    assert.equal(parseIPv6(bad), undefined, bad);
  }
});

Deno.test("socket addresses survive the way through bytes", () => {
  const bytes = new Uint8Array(128);
  const addresses: SocketAddress[] = [
    { family: "unix", path: "/run/qsd.sock" },
    { family: "unix", path: "\0abstract\0name" },
    { family: "unix", path: "" },
    { family: "unix", path: "/" + "x".repeat(106) },
    { family: "inet", host: "10.1.2.3", port: 10809 },
    { family: "inet6", host: "fe80::1", port: 1, scope: 3 },
    { family: "inet6", host: "::", port: 65535 },
    { family: "vsock", cid: 2, port: 5000 },
  ];
  for (const address of addresses) {
    const length = putSockaddr(bytes, address);
    assert(length !== undefined);
    assert.deepEqual(getSockaddr(bytes, length), address);
  }
  putSockaddr(bytes, { family: "inet", host: "1.2.3.4", port: 0x1234 });
  assert.deepEqual([...bytes.slice(0, 8)], [2, 0, 0x12, 0x34, 1, 2, 3, 4]);
  assert.equal(putSockaddr(bytes, { family: "unix", path: "a\0b" }), undefined);
  assert.equal(putSockaddr(bytes, { family: "unix", path: "ä".repeat(54) }), undefined);
});

Deno.test("timers expire by deadline, then by age; cancelled ones never", () => {
  const heap = new TimerHeap();
  const deadlines = Array.from({ length: 200 }, (_, i) => (i * 7919) % 50);
  const timers = deadlines.map((deadline) => heap.add(deadline, () => {}));
  timers.filter((_, i) => i % 3 === 0).forEach((timer) => timer.cancel());
  const left = timers.filter((_, i) => i % 3 !== 0)
    .sort((a, b) => a.deadline - b.deadline || a.order - b.order);
  assert.equal(heap.take(-1), undefined);
  for (const timer of left) {
    assert.equal(heap.next(), timer.deadline);
    assert.equal(heap.take(timer.deadline), timer);
  }
  assert.equal(heap.next(), Infinity);
});

Deno.test("cancelled timers do not pile up until they would have expired", () => {
  const heap = new TimerHeap();
  const kept = Array.from({ length: 50 }, (_, i) => heap.add(i, () => {}));
  const long = Array.from({ length: 50 }, () => heap.add(1000, () => {}));
  for (let i = 0; i < 10_000; i++) {
    long.push(heap.add(1000, () => {}));
    long.shift()!.cancel();
    assert.ok(heap.size <= 200, `${heap.size} timers`);
  }
  for (const timer of kept) assert.equal(heap.take(50), timer);
  // What has expired is not cancelled any more, and does not count.
  for (const timer of kept) timer.cancel();
  for (const timer of long) timer.cancel();
  for (const timer of long) timer.cancel();
  assert.equal(heap.size, 0);
  assert.equal(heap.next(), Infinity);
});

Deno.test("polling grows while it would have helped and shrinks when it cannot", () => {
  const polling = new AdaptivePolling();
  polling.configure({ pollMaxNs: 32768 });
  const seen = [];
  for (let i = 0; i < 6; i++) {
    polling.learn(30_000);
    seen.push(polling.ns);
  }
  assert.deepEqual(seen, [4000, 8000, 16000, 32000, 32000, 32000]);
  polling.learn(32_700);
  assert.equal(polling.ns, 32768);
  polling.learn(1e6);
  assert.equal(polling.ns, 0);
  polling.configure({ pollGrow: 3, pollShrink: 2, pollMaxNs: 10_000 });
  polling.learn(9000);
  polling.learn(9000);
  assert.equal(polling.ns, 10_000);
  polling.learn(1e6);
  assert.equal(polling.ns, 5000);
  polling.configure({ pollMaxNs: 0 });
  polling.learn(1);
  assert.equal(polling.ns, 0);
});

Deno.test("without a limit of its own polling learns to catch whoever answers within 100 us, and nobody slower", () => {
  const polling = new AdaptivePolling();
  for (let i = 0; i < 6; i++) polling.learn(80_000);
  assert.ok(polling.ns >= 80_000);
  polling.learn(101_000);
  assert.equal(polling.ns, 0);
});

Deno.test("polling that ends no wait rests, for longer each time, until it ends one again", () => {
  const polling = new AdaptivePolling();
  polling.configure({ pollMaxNs: 32768 });
  /** Whoever is waited for begins once we sleep: each wait is `more` longer than the polling. Waits with polling. */
  const inVain = (waits: number, more: number) => {
    let polled = 0;
    for (let i = 0; i < waits; i++) {
      if (polling.ns > 0) polled++;
      polling.learn(polling.ns + more);
    }
    return polled;
  };
  assert.ok(inVain(10_000, 10_000) < 200);
  // It still finds out that things have changed.
  let caught = 0;
  for (let i = 0; i < 300; i++) {
    if (polling.ns >= 10_000) caught++;
    polling.learn(10_000);
  }
  assert.ok(caught > 20, `${caught}`);
  assert.equal(polling.ns, 16_000);
  // From then on it does not give up so soon, and long waits alone are no reason to rest.
  for (let i = 0; i < 100; i++) {
    polling.learn(1e6);
    assert.equal(polling.ns, 0);
    polling.learn(3000);
    assert.equal(polling.ns, 4000);
    polling.learn(3000);
  }
});

/** Memory that only counts. */
function counting(): { live: () => number; allocate: (length: number) => Memory } {
  let live = 0;
  const allocate = (length: number): Memory => {
    live += length;
    const bytes = new Uint8Array(0);
    const view = new DataView(bytes.buffer);
    return { address: 4096, length, bytes, view, unmap: () => void (live -= length) };
  };
  return { live: () => live, allocate };
}

Deno.test("buffers: rounded to classes, reused, bounded, trimmed, counted", () => {
  const { live, allocate } = counting();
  const pool = new SizeClassPool(allocate, 16384);
  const a = pool.acquire(1);
  const b = pool.acquire(4097);
  assert.deepEqual([a.length, b.length, pool.inUse, pool.kept], [4096, 8192, 12288, 0]);
  pool.release(a);
  assert.deepEqual([pool.inUse, pool.kept, live()], [8192, 4096, 12288]);
  assert.equal(pool.acquire(4096), a);
  const c = pool.acquire(32768);
  pool.release(c);
  assert.equal(live(), 12288, "what does not fit into the bound goes back at once");
  pool.release(a);
  pool.release(b);
  assert.deepEqual([pool.inUse, pool.kept], [0, 12288]);
  pool.trim();
  assert.deepEqual([pool.kept, live()], [0, 0]);
  assert.throws(() => pool.release(a), /not from this pool/);
});

Deno.test("log lines have QEMU's form", () => {
  const lines: string[] = [];
  const log = createLog("qsd", (line) => lines.push(line));
  log.error("a");
  log.warn("b");
  log.info("c");
  assert.deepEqual(lines, ["qsd: a\n", "qsd: warning: b\n", "qsd: info: c\n"]);
});
