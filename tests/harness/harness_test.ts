/** The harness itself, on whichever daemon is under test. */
import assert from "node:assert/strict";
import { Daemon, runToEnd } from "./daemon.ts";
import { NbdPeer } from "./nbd.ts";
import { noisy } from "./images.ts";
import { QmpClient } from "./qmp.ts";
import { TestDir } from "./dir.ts";

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
