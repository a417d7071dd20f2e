/** --daemonize: what the caller sees, and what the daemon keeps of it. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, runToEnd, subject } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { QmpClient } from "../harness/qmp.ts";
import { serveArgs } from "../harness/serve.ts";
import { lacks, ok, which } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";

/** Whether the process runs (one that nobody has waited for does not). */
function runs(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${pid}/status`));
  } catch {
    return false;
  }
}

/** The id of a process's session. */
function session(pid: number): string | undefined {
  const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3];
}

/** What is left in the folder: of the original, its sockets (since it has changed to another folder). */
function left(dir: TestDir): string[] {
  return [...Deno.readDirSync(dir.path)].filter(({ isFile }) => isFile || !ON_ORIGINAL).map((
    { name },
  ) => name);
}

/** A daemon in the background, by its pid file. */
class Background implements AsyncDisposable {
  readonly pid: number;
  constructor(dir: TestDir) {
    this.pid = Number(Deno.readTextFileSync(dir.file("pid")));
    assert.ok(this.pid > 0);
  }

  async stop(): Promise<void> {
    if (runs(this.pid)) Deno.kill(this.pid, "SIGTERM");
    await until(() => !runs(this.pid), `process ${this.pid} to end`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

const monitor = ["--chardev", "socket,id=q,path=qmp,server=on,wait=off", "--monitor", "q"];

Deno.test("the caller ends with 0 once the daemon is ready, in a session of its own", async () => {
  await using dir = TestDir.make();
  // The daemon lets go of the standard descriptors: otherwise runToEnd would read on.
  const { status, stdout, stderr } = await runToEnd({ dir, args: ["--daemonize", ...monitor] });
  await using daemon = new Background(dir);
  assert.deepEqual([status, stdout, stderr], [0, "", ""]);
  assert.equal(Deno.readLinkSync(`/proc/${daemon.pid}/cwd`), "/");
  assert.notEqual(session(daemon.pid), session(Deno.pid));
  for (const fd of [0, 1, 2]) {
    assert.equal(Deno.readLinkSync(`/proc/${daemon.pid}/fd/${fd}`), "/dev/null", `fd ${fd}`);
  }
  const umask = /^Umask:\s+(\d+)$/m.exec(Deno.readTextFileSync(`/proc/${daemon.pid}/status`));
  assert.equal(umask?.[1], "0027");
  {
    await using qmp = await QmpClient.open(dir.file("qmp"));
    assert.deepEqual(await qmp.execute("query-block-exports"), []);
  }
  await daemon.stop();
  assert.deepEqual(left(dir), [], "the pid file and the socket are gone");
});

Deno.test("a start that fails in the background is the caller's failure, in its words", async () => {
  await using dir = TestDir.make();
  const { status, stderr } = await runToEnd({
    dir,
    args: ["--daemonize", ...monitor, "--blockdev", "file,node-name=f,filename=none"],
  });
  assert.equal(status, 1);
  assert.match(
    stderr,
    /^\S+: --blockdev file,node-name=f,filename=none: Could not open 'none': No such file or directory\n$/,
  );
  assert.deepEqual(left(dir), []);
});

Deno.test("there is no standard input for a daemon in the background", async () => {
  const { status, stderr } = await runToEnd({
    args: ["--daemonize", "--chardev", "stdio,id=s", "--monitor", "s"],
  });
  assert.equal(status, 1);
  assert.match(stderr, /: --chardev stdio,id=s: cannot use stdio with -daemonize\n$/);
});

Deno.test("a second daemon with the same pid file is refused, and the first is not disturbed", async () => {
  await using first = await Daemon.start();
  const before = Deno.readTextFileSync(first.file("pid"));
  const { status, stderr } = await runToEnd({ dir: first.dir, args: ["--daemonize"] });
  assert.equal(status, 1);
  assert.match(stderr, /cannot create PID file: /);
  assert.equal(Deno.readTextFileSync(first.file("pid")), before);
  assert.deepEqual(await first.qmp.execute("query-block-exports"), []);
});

Deno.test("a socket that the caller listens on is served from the background", {
  ignore: lacks("interop/daemon_daemonize", "python3", "qemu-img"),
}, async () => {
  await using dir = TestDir.make();
  noisy(dir.file("disk.raw"), 65536);
  const args = [
    "--daemonize",
    "--blockdev",
    "file,node-name=disk,filename=disk.raw",
    "--nbd-server",
    "addr.type=fd,addr.str=5",
    "--export",
    "nbd,id=e,node-name=disk",
  ];
  const { status, stderr } = await runToEnd({ dir, sockets: { 5: "handed" }, args });
  assert.equal(status, 0, stderr);
  await using _daemon = new Background(dir);
  const uri = `nbd+unix:///disk?socket=${dir.file("handed")}`;
  await ok("qemu-img", ["compare", "-f", "raw", dir.file("disk.raw"), uri]);
});

Deno.test("called through a link from another folder it starts the same way", async () => {
  await using dir = TestDir.make();
  noisy(dir.file("disk.raw"), 4096);
  Deno.mkdirSync(dir.file("bin"));
  const program = subject().includes("/") ? subject() : which(subject())!;
  Deno.symlinkSync(program, dir.file("bin/other-name"));
  const args = ["--daemonize", ...serveArgs()];
  const { status, stderr } = await runToEnd({ dir, program: "./bin/other-name", args });
  assert.equal(status, 0, stderr);
  await using daemon = new Background(dir);
  assert.ok(Deno.lstatSync(dir.file("nbd")).isSocket);
  await daemon.stop();
  const again = ["--daemonize", "--blockdev", "nonsense"];
  const failed = await runToEnd({ dir, program: "./bin/other-name", args: again });
  assert.match(failed.stderr, /^other-name: --blockdev nonsense: /);
});

/** Starts a daemon that waits for a client before it is ready; gives the caller, and the daemon's pid at once. */
async function waiting(dir: TestDir): Promise<[Daemon, number]> {
  const args = ["--daemonize", "--chardev", "socket,id=c,server=on,wait=on,path=client"];
  const caller = Daemon.spawn({ dir, args, qmp: false, pidfile: null });
  const children = `/proc/${caller.pid}/task/${caller.pid}/children`;
  let pid = 0;
  // The launcher has children of its own, in the caller's session.
  await until(() => {
    pid = Number(Deno.readTextFileSync(children).split(" ")[0]);
    return pid > 0 && runs(pid) && session(pid) === String(pid);
  }, "the daemon");
  return [caller, pid];
}

Deno.test("a daemon that is asked to stop as soon as it runs does, and the caller ends with 1", {
  ignore: ON_ORIGINAL,
}, async () => {
  await using dir = TestDir.make();
  const [caller, pid] = await waiting(dir);
  Deno.kill(pid, "SIGTERM");
  assert.equal((await caller.end()).status, 1);
  assert.ok(!runs(pid));
  assert.deepEqual(left(dir), []);
});

Deno.test("a signal ends the caller while it waits, and not the daemon", {
  ignore: ON_ORIGINAL,
}, async () => {
  await using dir = TestDir.make();
  const [caller, pid] = await waiting(dir);
  caller.kill("SIGTERM");
  await until(() => !runs(caller.pid), "the caller to end");
  assert.ok(runs(pid));
  Deno.kill(pid, "SIGTERM");
  assert.equal((await caller.end()).signal, "SIGTERM");
  await until(() => !runs(pid), "the daemon to end");
  assert.deepEqual(left(dir), []);
});
