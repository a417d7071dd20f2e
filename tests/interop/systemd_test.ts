/** The service manager's side of a start: readiness, signs of life, sockets handed down by name. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { lacks, ok, PYTHON } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";

/** Binds the notification socket and prints each message as a line of JSON. */
const LISTEN = `
import json, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("[]", flush=True)
while True:
    print(json.dumps(s.recv(4096).decode().split("\\n")), flush=True)
`;

/** A fake service manager: what it was told, message by message. */
class Manager {
  readonly messages: string[][] = [];
  private readonly child: Deno.ChildProcess;
  private readonly pump: Promise<void>;
  private bound = false;

  constructor(private readonly path: string) {
    this.child = new Deno.Command(PYTHON, { args: ["-c", LISTEN, path], stdout: "piped" }).spawn();
    this.pump = this.receive();
  }

  private async receive(): Promise<void> {
    let text = "";
    const decoder = new TextDecoder();
    for await (const chunk of this.child.stdout) {
      text += decoder.decode(chunk, { stream: true });
      const lines = text.split("\n");
      text = lines.pop()!;
      for (const line of lines) {
        if (this.bound) this.messages.push(JSON.parse(line));
        this.bound = true;
      }
    }
  }

  async ready(): Promise<void> {
    await until(() => this.bound, "the notification socket");
  }

  /** Sends a message of the test's own. */
  async tell(line: string): Promise<void> {
    const script =
      "import socket, sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[2].encode(), sys.argv[1])";
    await ok(PYTHON, ["-c", script, this.path, line]);
  }

  async told(line: string): Promise<string[]> {
    return await until(() => this.messages.find((one) => one.includes(line)), line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill("SIGKILL");
    await this.child.status;
    await this.pump;
  }
}

const asService = ["sh", "-c", 'LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$@"', "sh"];

Deno.test({
  name: "the service manager is told of readiness, of life while the loop turns, and of the stop",
  ignore: ON_ORIGINAL || lacks("interop/systemd", "python3"),
  fn: async () => {
    await using dir = TestDir.make();
    await using manager = new Manager(dir.file("notify"));
    await manager.ready();
    await using daemon = await Daemon.start({
      dir,
      wrapper: asService,
      env: { NOTIFY_SOCKET: dir.file("notify"), WATCHDOG_USEC: "200000" },
    });
    const ready = await manager.told("READY=1");
    assert.ok(ready.includes(`MAINPID=${daemon.pid}`));
    assert.ok(ready.some((line) => line.startsWith("STATUS=")));
    assert.deepEqual(await manager.told("WATCHDOG=1"), ["WATCHDOG=1"]);
    const { status, stderr } = await daemon.stop();
    assert.deepEqual([status, stderr], [0, ""]);
    assert.ok((await manager.told("STOPPING=1")).includes("STATUS=Stopping: SIGTERM"));
    assert.ok(manager.messages[0]!.includes("READY=1"), "nothing before it is ready");
  },
});

Deno.test({
  name: "a stuck daemon gives no signs of life",
  ignore: ON_ORIGINAL || lacks("interop/systemd", "python3"),
  fn: async () => {
    await using dir = TestDir.make();
    await using manager = new Manager(dir.file("notify"));
    await manager.ready();
    await using daemon = await Daemon.start({
      dir,
      env: { NOTIFY_SOCKET: dir.file("notify"), WATCHDOG_USEC: "100000" },
    });
    await manager.told("WATCHDOG=1");
    daemon.kill("SIGSTOP");
    await until(
      () => /^State:\s+T/m.test(Deno.readTextFileSync(`/proc/${daemon.pid}/status`)),
      "the daemon to stand still",
    );
    // Messages keep their order: when ours is there, so is all that was sent before it.
    await manager.tell("standing still");
    await manager.told("standing still");
    const before = manager.messages.length;
    await new Promise((resolve) => setTimeout(resolve, 300)); // six times the interval: none comes
    assert.equal(manager.messages.length, before);
    daemon.kill("SIGCONT");
    await until(() => manager.messages.length > before, "signs of life");
  },
});

Deno.test({
  name: "sockets of the service manager are found by name and by number",
  ignore: ON_ORIGINAL || lacks("interop/systemd", "python3", "nbdinfo"),
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 1048576);
    await using daemon = await Daemon.start({
      dir,
      wrapper: asService,
      sockets: { 3: "data", 4: "control" },
      env: { LISTEN_FDS: "2", LISTEN_FDNAMES: "nbd:qmp" },
      args: [
        "--blockdev",
        "file,node-name=disk,filename=disk.raw",
        "--nbd-server",
        "addr.type=fd,addr.str=nbd",
        "--export",
        "nbd,id=e,node-name=disk,name=disk",
        "--chardev",
        "socket,id=c,fd=4,server=on,wait=off",
        "--monitor",
        "c",
      ],
    });
    assert.equal(await ok("nbdinfo", ["--size", daemon.uri("disk", "data")]), "1048576\n");
    assert.ok((await Deno.lstat(dir.file("control"))).isSocket);
  },
});
