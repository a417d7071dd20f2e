import assert from "node:assert/strict";
import { environment, HeldSignals, onSignals } from "./program.ts";

/** Runs a program that imports lib/sys as `sys`; gives its exit status and what it wrote to standard output. */
async function run(
  source: string,
  args: readonly string[],
  env: Record<string, string> = {},
): Promise<{ code: number; output: string }> {
  const path = await Deno.makeTempFile({ suffix: ".ts" });
  const sys = new URL("./mod.ts", import.meta.url).href;
  await Deno.writeTextFile(path, `import * as sys from ${JSON.stringify(sys)};\n${source}`);
  try {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", path, ...args],
      env,
    }).output();
    assert.equal(new TextDecoder().decode(stderr), "");
    return { code, output: new TextDecoder().decode(stdout) };
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("a program gets its arguments and environment, writes, and ends with its status", async () => {
  const source = `
    sys.writeStdout(JSON.stringify([sys.programArguments(), sys.environment("X")]));
    sys.exit(7);`;
  const { code, output } = await run(source, ["--a", "b c"], { X: "y" });
  assert.equal(output, '[["--a","b c"],"y"]');
  assert.equal(code, 7);
  assert.equal(environment("QSD_NO_SUCH_VARIABLE"), undefined);
});

Deno.test("respawn starts the same program in its own session, with a descriptor more", async () => {
  // The first process reads what the second writes; the second must be in another session.
  const source = `
    const machine = new sys.LinuxSys();
    const session = Deno.readTextFileSync("/proc/self/stat").split(" ")[5];
    const fd = sys.environment("READY");
    const memory = machine.allocate(4096);
    if (fd !== undefined) {
      const text = JSON.stringify([sys.programArguments(), sys.environment("X"), session]);
      memory.bytes.set(new TextEncoder().encode(text));
      machine.write(Number(fd), memory.address, text.length);
      sys.exit(0);
    }
    const [reading, writing] = machine.pipe2(sys.O.CLOEXEC);
    const pid = sys.respawn(machine, "READY", writing);
    machine.close(writing);
    const length = machine.read(reading, memory.address, 4096);
    const told = JSON.parse(new TextDecoder().decode(memory.bytes.slice(0, length)));
    sys.writeStdout(JSON.stringify([...told, String(pid), session]));
    sys.exit(0);`;
  const { output } = await run(source, ["one", ""], { X: "y=z" });
  const [args, x, session, pid, before] = JSON.parse(output);
  assert.deepEqual([args, x], [["one", ""], "y=z"]);
  assert.equal(session, pid);
  assert.notEqual(session, before);
});

Deno.test("signals reach their handler until it is closed", async () => {
  const { promise, resolve } = Promise.withResolvers<string>();
  const listening = onSignals(["SIGHUP"], resolve);
  const awake = setInterval(() => {}, 1000); // listeners alone do not keep the test's loop going
  Deno.kill(Deno.pid, "SIGHUP");
  assert.equal(await promise, "SIGHUP");
  clearInterval(awake);
  listening.close();
});

Deno.test("signals that come before their handler are told to it, and those after", async () => {
  const held = new HeldSignals(["SIGHUP", "SIGWINCH"]);
  const seen = onSignals(["SIGWINCH"], () => second.resolve());
  const second = Promise.withResolvers<void>();
  const awake = setInterval(() => {}, 1000);
  Deno.kill(Deno.pid, "SIGHUP");
  Deno.kill(Deno.pid, "SIGWINCH");
  await second.promise;
  const told: string[] = [];
  held.handle((signal) => told.push(signal));
  assert.deepEqual(told.sort(), ["SIGHUP", "SIGWINCH"]);
  const third = Promise.withResolvers<string>();
  held.handle(third.resolve);
  Deno.kill(Deno.pid, "SIGHUP");
  assert.equal(await third.promise, "SIGHUP");
  clearInterval(awake);
  seen.close();
  assert.deepEqual(held.close(), []);
});

Deno.test("a signal that whoever started the program had blocked has its effect once it is let in", async () => {
  // The first process starts itself with SIGTERM blocked and sends it; the second says when it has not ended by that.
  const source = `
    const machine = new sys.LinuxSys();
    const fd = sys.environment("READY");
    const memory = machine.allocate(1);
    if (fd !== undefined) {
      machine.kill(machine.pid, sys.SIG.TERM);
      machine.write(Number(fd), memory.address, 1);
      sys.letSignalsIn(machine, [sys.SIG.TERM]);
      machine.write(Number(fd), memory.address, 1);
      sys.exit(0);
    }
    const [reading, writing] = machine.pipe2(sys.O.CLOEXEC);
    sys.respawn(machine, "READY", writing, [sys.SIG.TERM]);
    machine.close(writing);
    let count = 0;
    while (machine.read(reading, memory.address, 1) === 1) count++;
    sys.writeStdout(String(count));
    sys.exit(0);`;
  assert.equal((await run(source, [])).output, "1");
});
