/** --trace: which events, and where their lines go. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, runToEnd } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noise, noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { serveArgs } from "../harness/serve.ts";
import { skip } from "../harness/skips.ts";
import { lacks, run } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";
import { until } from "../harness/wait.ts";
import { LinuxSys, probeUring } from "../../lib/sys/mod.ts";

const suite = "interop/daemon_trace";

/** Starts a traced daemon, lets a client come and go, and stops it; gives what it wrote to stderr. */
async function traced(dir: TestDir, ...args: string[]): Promise<string> {
  noisy(dir.file("disk.raw"), 4096);
  await using daemon = await Daemon.start({ dir, args: [...args, ...serveArgs()] });
  using peer = await NbdPeer.connect(dir.file("nbd"));
  await peer.hello();
  await peer.go("disk");
  await peer.read(0, 512);
  await peer.disconnect();
  const { status, stderr } = await daemon.stop();
  assert.equal(status, 0);
  return stderr;
}

const REQUEST = /nbd_receive_request/;

Deno.test("events go to stderr, those whose pattern was given and no others", async () => {
  await using dir = TestDir.make();
  const stderr = await traced(dir, "--trace", "nbd_negotiate_*");
  assert.match(stderr, /nbd_negotiate_begin/);
  assert.doesNotMatch(stderr, REQUEST);
});

Deno.test("events go to a file that was named, and then not to stderr", async () => {
  await using dir = TestDir.make();
  const stderr = await traced(dir, "--trace", "enable=nbd_receive_request,file=log");
  assert.equal(stderr, "");
  const lines = Deno.readTextFileSync(dir.file("log")).trimEnd().split("\n");
  assert.ok(lines.length >= 1);
  for (const line of lines) assert.match(line, REQUEST);
});

Deno.test("a file lists events; unknown names are warned of by their line, and the rest is on", async () => {
  await using dir = TestDir.make();
  Deno.writeTextFileSync(dir.file("events"), "nosuch_event\nnbd_receive_request\nnor_this\n");
  const stderr = await traced(dir, "--trace", "events=events");
  const warnings = stderr.split("\n").filter((line) => line.includes("warning"));
  assert.equal(warnings.length, 2, stderr);
  assert.match(warnings[0]!, /:events:1: warning: trace event 'nosuch_event' does not exist$/);
  assert.match(warnings[1]!, /:events:3: warning: trace event 'nor_this' does not exist$/);
  assert.match(stderr, REQUEST);
});

Deno.test("an unknown event is warned of, and the daemon runs", async () => {
  await using daemon = await Daemon.start({ args: ["--trace", "nosuch"] });
  assert.match(
    daemon.stderr,
    /: --trace nosuch: warning: trace event 'nosuch' does not exist\n$/,
  );
});

Deno.test("files that cannot be opened end the start", async () => {
  await using dir = TestDir.make();
  const events = await runToEnd({ dir, args: ["--trace", "events=none"] });
  assert.equal(events.status, 1);
  assert.match(events.stderr, /No such file or directory/);
  const file = await runToEnd({ dir, args: ["--trace", "nbd_*,file=none/log"] });
  assert.equal(file.status, 1);
  assert.match(file.stderr, /No such file or directory/);
});

Deno.test("in the background stderr is kept for the events", { ignore: ON_ORIGINAL }, async () => {
  await using dir = TestDir.make();
  noisy(dir.file("disk.raw"), 4096);
  const args = ["--daemonize", "--trace", "nbd_negotiate_begin", ...serveArgs()];
  // Its stderr ends when the daemon does, so that waiting for the caller's end waits for that too.
  await using caller = Daemon.spawn({ dir, args, qmp: false });
  await caller.ready();
  const pid = Number(Deno.readTextFileSync(dir.file("pid")));
  try {
    using peer = await NbdPeer.connect(dir.file("nbd"));
    await peer.hello();
    await until(() => caller.stderr.includes("nbd_negotiate_begin"), "the event on stderr");
  } finally {
    Deno.kill(pid, "SIGTERM");
  }
  assert.equal((await caller.end()).status, 0);
});

/** The names of the events in `text`. */
const namesIn = (text: string) => new Set([...text.matchAll(/:(\w+) /g)].map(([, name]) => name!));

Deno.test({
  name:
    "behind a request are seen: qcow2's tables and clusters, the thread pool, vhost-user messages",
  ignore: ON_ORIGINAL || lacks(suite, "qemu-img"),
  fn: async () => {
    await using dir = TestDir.make();
    const image = ["create", "-q", "-f", "qcow2", dir.file("disk.qcow2"), "1M"];
    assert.equal((await run("qemu-img", image)).status, 0);
    const wanted = [
      "qcow2_cache_get_read",
      "qcow2_do_alloc_clusters_offset",
      "qcow2_cache_flush",
      "thread_pool_submit",
      "thread_pool_complete",
      "vhost_user_read",
      "vhost_user_write",
      "virtio_blk_handle_read",
      "virtio_blk_handle_write",
    ];
    await using daemon = await Daemon.start({
      dir,
      args: [
        ...wanted.flatMap((name) => ["--trace", name]),
        ...["--blockdev", "driver=file,node-name=file,filename=disk.qcow2"],
        ...["--blockdev", "driver=qcow2,node-name=disk,file=file"],
        "--export",
        "type=vhost-user-blk,id=v,node-name=disk,writable=on,addr.type=unix,addr.path=vhost",
      ],
    });
    {
      await using peer = await VhostPeer.attach(dir.file("vhost"));
      const write = noise(4096, 1);
      assert.equal((await peer.disk.call({ type: 1, sector: 0, write })).status, 0);
      assert.equal((await peer.disk.call({ type: 4 })).status, 0);
      await peer.disk.call({ type: 0, sector: 0, read: 512 });
    }
    await until(() => wanted.every((name) => namesIn(daemon.stderr).has(name)), "every event");
    assert.match(daemon.stderr, /:virtio_blk_handle_write offset 0 bytes 4096\n/);
    assert.match(daemon.stderr, /:qcow2_do_alloc_clusters_offset host_offset \d+ nb_clusters 1\n/);
    const { status, stderr } = await daemon.stop();
    assert.equal(status, 0);
    assert.deepEqual([...namesIn(stderr)].sort(), [...wanted].sort());
  },
});

function lacksUring(): boolean {
  const sys = new LinuxSys();
  const refused = probeUring(sys);
  sys.dispose();
  return refused !== undefined && skip(suite, refused.reason);
}

Deno.test({
  name: "the life of an io_uring and of its requests is seen",
  ignore: ON_ORIGINAL || lacksUring(),
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 1 << 20);
    const options = { node: ",aio=io_uring,cache.direct=on" };
    await using daemon = await Daemon.start({
      dir,
      args: ["--trace", "luring_*", ...serveArgs(options)],
    });
    using peer = await NbdPeer.attach(dir.file("nbd"), "disk");
    await peer.read(4096, 4096);
    await peer.disconnect();
    const { status, stderr } = await daemon.stop();
    assert.equal(status, 0);
    assert.match(stderr, /:luring_co_submit slot \d+ readv fd \d+ offset 4096 segments 1\n/);
    assert.deepEqual([...namesIn(stderr)].sort(), [
      "luring_cleanup_state",
      "luring_co_submit",
      "luring_do_submit_done",
      "luring_init_state",
      "luring_process_completion",
    ]);
  },
});
