/** The harness itself, on whichever daemon is under test. */
import assert from "node:assert/strict";
import { Daemon, runToEnd } from "./daemon.ts";
import { NbdPeer } from "./nbd.ts";
import { noisy } from "./images.ts";
import { QmpClient } from "./qmp.ts";
import { TestDir } from "./dir.ts";
import { run } from "./tools.ts";

Deno.test("a daemon starts, answers QMP and NBD, and stops with status 0", async () => {
  await using dir = TestDir.make();
  const bytes = noisy(dir.file("disk.raw"), 65536);
  await using daemon = await Daemon.start({
    dir,
    args: [
      "--blockdev",
      "driver=file,node-name=disk,filename=disk.raw",
      "--nbd-server",
      "addr.type=unix,addr.path=nbd",
      "--export",
      "type=nbd,id=e,node-name=disk",
    ],
  });
  assert.equal(Number(Deno.readTextFileSync(daemon.file("pid"))), daemon.pid);
  assert.ok((await daemon.qmp.execute("query-version")).qemu.major >= 7);
  using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
  assert.equal(peer.info.size, 65536);
  assert.deepEqual(await peer.read(4096, 512), bytes.slice(4096, 4608));
  await peer.disconnect();
  const { status, stderr, stdout } = await daemon.stop();
  assert.deepEqual({ status, stderr, stdout }, { status: 0, stderr: "", stdout: "" });
});

Deno.test("a daemon that fails to start is reported with its words", async () => {
  const { status, stderr } = await runToEnd({ args: ["--nonsense"] });
  assert.equal(status, 1);
  assert.match(stderr, /unrecognized option '--nonsense'/);
});

Deno.test("a test that fails, and whose cleanup fails as well, shows both errors and what caused them", async () => {
  await using dir = TestDir.make();
  const failing = `
    import "${new URL("suppressed.ts", import.meta.url)}";
    const failsAs = (what) => ({ [Symbol.asyncDispose]: () => Promise.reject(new Error(what)) });
    Deno.test("fails", async () => {
      await using _first = failsAs("of the first cleanup");
      await using _second = failsAs("of the second cleanup");
      throw new Error("of the test", { cause: new Error("of its cause") });
    });`;
  Deno.writeTextFileSync(dir.file("fails_test.ts"), failing);
  const args = ["test", "--no-check", "--no-config", "fails_test.ts"];
  const { status, stdout } = await run(Deno.execPath(), args, { cwd: dir.path });
  assert.equal(status, 1);
  for (const what of ["the test", "its cause", "the first cleanup", "the second cleanup"]) {
    assert.ok(stdout.includes(`Error: of ${what}\n`), `${what} in ${stdout}`);
  }
});

Deno.test("a greeting that the original sends twice is taken once", async () => {
  const greeting = '{"QMP": {"version": {}, "capabilities": []}}\n';
  const { readable, writable } = new TransformStream<Uint8Array>();
  const server = writable.getWriter();
  const answered = new TransformStream<Uint8Array>();
  const qmp = new QmpClient({ readable, writable: answered.writable }, true);
  const requests = answered.readable.getReader();
  const negotiated = qmp.negotiate();
  await server.write(new TextEncoder().encode(greeting + greeting));
  await requests.read();
  await server.write(new TextEncoder().encode('{"return": {}}\n'));
  assert.ok("QMP" in await negotiated);
  await server.close();
  await requests.cancel();
  await qmp.close();
});
