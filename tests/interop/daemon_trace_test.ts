/** --trace: which events, and where their lines go. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, runToEnd } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { serveArgs } from "../harness/serve.ts";
import { until } from "../harness/wait.ts";

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
