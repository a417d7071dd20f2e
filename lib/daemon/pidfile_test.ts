import assert from "node:assert/strict";
import { CommandError } from "../base/mod.ts";
import { LinuxSys } from "../sys/mod.ts";
import { createPidFile } from "./pidfile.ts";

async function inFolder(test: (sys: LinuxSys, path: string) => Promise<void>): Promise<void> {
  const dir = await Deno.makeTempDir();
  const sys = new LinuxSys();
  try {
    await test(sys, `${dir}/pid`);
  } finally {
    sys.dispose();
    await Deno.remove(dir, { recursive: true });
  }
}

/** Whether another process could lock the file. */
async function lockable(path: string): Promise<boolean> {
  const code = `import fcntl, sys
with open(sys.argv[1], "r+") as file:
    try: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: sys.exit(1)`;
  const { success } = await new Deno.Command("python3", { args: ["-c", code, path] }).output();
  return success;
}

Deno.test("the pid file holds the pid, is private and locked, and is gone afterwards", () =>
  inFolder(async (sys, path) => {
    const file = createPidFile(sys, path);
    // First the lock: a process that reads and closes its own file loses it.
    assert.equal(await lockable(path), false);
    assert.equal(await Deno.readTextFile(path), `${Deno.pid}\n`);
    assert.equal((await Deno.stat(path)).mode! & 0o777, 0o600);
    file.remove();
    await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
  }));

Deno.test("a file that was left behind is taken over, longer contents and all", () =>
  inFolder(async (sys, path) => {
    await Deno.writeTextFile(path, "123456789012345\n");
    createPidFile(sys, path).remove();
    await Deno.writeTextFile(path, "123456789012345\n");
    const file = createPidFile(sys, path);
    assert.equal(await Deno.readTextFile(path), `${Deno.pid}\n`);
    file.remove();
  }));

Deno.test("it is removed though the daemon went to another directory", () =>
  inFolder(async (sys, path) => {
    const before = Deno.cwd();
    Deno.chdir(path.slice(0, path.lastIndexOf("/")));
    const file = createPidFile(sys, "pid");
    Deno.chdir(before);
    file.remove();
    await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
  }));

Deno.test("a path that cannot be made is refused in QEMU's words", () =>
  inFolder((sys, path) => {
    assert.throws(
      () => createPidFile(sys, `${path}/x/y`),
      new CommandError(
        `cannot create PID file: Could not create '${path}/x/y': No such file or directory`,
      ),
    );
    return Promise.resolve();
  }));

Deno.test("one that another process holds is refused, and keeps its contents", () =>
  inFolder(async (sys, path) => {
    const code = `import fcntl, sys
file = open(sys.argv[1], "w"); file.write("1\\n"); file.flush()
fcntl.lockf(file, fcntl.LOCK_EX); print("held", flush=True); sys.stdin.read()`;
    const holder = new Deno.Command("python3", {
      args: ["-c", code, path],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const reader = holder.stdout.getReader();
    await reader.read();
    assert.throws(
      () => createPidFile(sys, path),
      new CommandError(
        "cannot create PID file: Cannot lock pid file: Resource temporarily unavailable",
      ),
    );
    assert.equal(await Deno.readTextFile(path), "1\n");
    await reader.cancel();
    await holder.stdin.close();
    await holder.status;
  }));
