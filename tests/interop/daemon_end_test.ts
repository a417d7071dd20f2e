/** Ends of a daemon that are not the usual one: what is said, the exit status, and that nothing is left behind. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, ROOT, runToEnd } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD } from "../harness/nbd_wire.ts";
import { serveArgs } from "../harness/serve.ts";
import { until } from "../harness/wait.ts";

const left = (dir: TestDir) => [...Deno.readDirSync(dir.path)].map(({ name }) => name).sort();

Deno.test("a start that fails removes the sockets that it had made", {
  ignore: ON_ORIGINAL,
}, async () => {
  await using dir = TestDir.make();
  noisy(dir.file("disk.raw"), 4096);
  const { status, stderr } = await runToEnd({
    dir,
    args: [
      "--chardev",
      "socket,id=q,path=qmp,server=on,wait=off",
      "--monitor",
      "q",
      ...serveArgs(),
      "--blockdev",
      "raw,node-name=r,file=none",
    ],
  });
  assert.equal(status, 1);
  assert.match(
    stderr,
    /: --blockdev raw,node-name=r,file=none: Cannot find device='none' nor node-name='none'\n$/,
  );
  assert.deepEqual(left(dir), ["disk.raw"]);
});

Deno.test("a signal while options are being applied stops gracefully and leaves nothing behind", {
  ignore: ON_ORIGINAL,
}, async () => {
  await using dir = TestDir.make();
  const many = Array.from({ length: 300 }, (_, i) => [
    "--blockdev",
    `null-co,node-name=n${i}`,
    "--export",
    `nbd,id=e${i},node-name=n${i}`,
  ]).flat();
  const server = ["--nbd-server", "addr.type=unix,addr.path=nbd"];
  const daemon = Daemon.spawn({ dir, args: [...server, ...many], qmp: false, pidfile: null });
  await until(() => Deno.stat(dir.file("nbd")).then(() => true, () => false), "the NBD socket");
  daemon.kill("SIGTERM");
  const { status, stderr } = await daemon.end();
  assert.deepEqual({ status, stderr }, { status: 0, stderr: "" });
  assert.deepEqual(left(dir), []);
});

/** The launcher has become deno, which is yet to start: "run" is its first argument. */
async function execed(daemon: Daemon): Promise<void> {
  const line = `/proc/${daemon.pid}/cmdline`;
  await until(async () => (await Deno.readTextFile(line)).split("\0")[1] === "run", "the exec");
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
  Deno.test(`${signal} as soon as the runtime starts is a stop like any other`, {
    ignore: ON_ORIGINAL,
  }, async () => {
    await using dir = TestDir.make();
    const server = ["--nbd-server", "addr.type=unix,addr.path=nbd"];
    const daemon = Daemon.spawn({ dir, args: server });
    await execed(daemon);
    daemon.kill(signal);
    assert.deepEqual(await daemon.end(), { status: 0, signal: null, stdout: "", stderr: "" });
    assert.deepEqual(left(dir), []);
  });
}

for (const signal of ["SIGUSR1", "SIGALRM", "SIGIO"] as const) {
  Deno.test(`${signal} does not end a daemon, neither while it starts nor later`, {
    ignore: ON_ORIGINAL,
  }, async () => {
    await using dir = TestDir.make();
    const daemon = Daemon.spawn({ dir, args: ["--nbd-server", "addr.type=unix,addr.path=nbd"] });
    await execed(daemon);
    daemon.kill(signal);
    await daemon.ready();
    daemon.kill(signal);
    using peer = await NbdPeer.connect(daemon.file("nbd"));
    await peer.hello();
    daemon.kill("SIGTERM");
    assert.deepEqual(await daemon.end(), { status: 0, signal: null, stdout: "", stderr: "" });
  });
}

/** A daemon whose requests take for ever, or as long as is given. */
async function stuck(latencyNs = 1e15): Promise<Daemon> {
  return await Daemon.start({
    args: [
      "--trace",
      "nbd_receive_request",
      "--blockdev",
      `null-co,node-name=slow,latency-ns=${latencyNs}`,
      "--nbd-server",
      "addr.type=unix,addr.path=nbd",
      "--export",
      "nbd,id=e,node-name=slow",
    ],
  });
}

async function client(daemon: Daemon): Promise<NbdPeer> {
  const peer = await NbdPeer.connect(daemon.file("nbd"));
  await peer.hello();
  await peer.go("slow");
  return peer;
}

/** A client whose read is under way in a stop that has begun: an idle client was dropped. */
async function stoppedInMidRead(daemon: Daemon): Promise<NbdPeer> {
  const peer = await client(daemon);
  using idle = await client(daemon);
  await peer.ask({ type: CMD.READ, offset: 4096, length: 512 });
  await until(() => daemon.stderr.includes("nbd_receive_request"), "the request to arrive");
  daemon.kill("SIGTERM");
  await idle.untilClosed();
  return peer;
}

Deno.test("a second signal ends a stop that hangs, and says what it waited for", {
  ignore: ON_ORIGINAL,
}, async () => {
  await using daemon = await stuck();
  using _peer = await stoppedInMidRead(daemon);
  const ended = daemon.end();
  let over = false;
  ended.finally(() => over = true);
  // Again and again: what comes soon after the first one is not heard.
  await until(() => over || (daemon.alive && void daemon.kill("SIGINT")), "the end");
  const { status, stderr } = await ended;
  assert.equal(status, 1);
  assert.match(
    stderr,
    /: SIGINT again while stopping: gave up waiting for clients of exports to finish their requests; requests that have not completed: 1 \(read of 512 bytes at 4096 on node 'slow' for \d+\.\d s\)\n$/,
  );
  assert.deepEqual(left(daemon.dir), []);
});

Deno.test("signals that come together, as `timeout` and terminals send them, are one: the stop is graceful", async () => {
  await using daemon = await stuck(5e8);
  using _peer = await stoppedInMidRead(daemon);
  daemon.kill("SIGTERM");
  daemon.kill("SIGHUP");
  const { status, stderr } = await daemon.end();
  assert.deepEqual([status, stderr.match(/again|gave up/)], [0, null]);
});

/** Runs the daemon with mistakes of ours that come with signals, or when a client does: nobody catches them. */
function mistaken(dir: TestDir): Promise<Daemon> {
  const program = dir.file("mistaken.ts");
  Deno.writeTextFileSync(
    program,
    `
import { runDaemon } from ${JSON.stringify(`file://${ROOT}/lib/daemon/mod.ts`)};
import { HeldSignals, LinuxSys } from ${JSON.stringify(`file://${ROOT}/lib/sys/mod.ts`)};
Deno.addSignalListener("SIGUSR1", () => {
  setTimeout(() => { throw new Error("thrown by mistake"); });
});
LinuxSys.prototype.accept = () => { throw new Error("found by mistake"); };
Deno.addSignalListener("SIGUSR2", () => void Promise.reject(new Error("rejected by mistake")));
await runDaemon(new HeldSignals([]));
`,
  );
  noisy(dir.file("disk.raw"), 4096);
  const wrapper = [Deno.execPath(), "run", "-A", "--no-check", "--no-config"];
  return Daemon.start({ dir, wrapper, program, args: serveArgs(), qmp: false });
}

const mistakes: Record<string, (daemon: Daemon) => void | Promise<unknown>> = {
  thrown: (daemon) => daemon.kill("SIGUSR1"),
  rejected: (daemon) => daemon.kill("SIGUSR2"),
  found: (daemon) => NbdPeer.connect(daemon.file("nbd")).then((peer) => peer.close()),
};

for (const [word, provoke] of Object.entries(mistakes)) {
  Deno.test(
    `a mistake of our own (${word}) ends the daemon with its stack, and leaves no files behind`,
    {
      ignore: ON_ORIGINAL,
    },
    async () => {
      await using dir = TestDir.make();
      await using daemon = await mistaken(dir);
      await provoke(daemon);
      const { status, stderr } = await daemon.end();
      assert.equal(status, 1);
      assert.match(stderr, /^qsd: internal error; please report it:\n/);
      assert.match(stderr, new RegExp(`Error: ${word} by mistake\\n +at .*mistaken\\.ts`));
      assert.deepEqual(left(dir), ["disk.raw", "mistaken.ts"]);
    },
  );
}
