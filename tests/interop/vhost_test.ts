/** vhost-user-blk exports of a whole daemon: inherited sockets, idleness, resizes, what lives on when they end. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { lacks } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";

const ignore = ON_ORIGINAL || lacks("interop/vhost", "python3");
const [IN, OUT] = [0, 1];
const asService = ["sh", "-c", 'LISTEN_PID=$$ exec "$@"', "sh"];

/** Reads and writes through the export on `socket`, and looks at the file. */
async function serves(dir: TestDir, socket: string, model: Uint8Array): Promise<void> {
  await using peer = await VhostPeer.attach(dir.file(socket));
  const { data } = await peer.disk.call({ type: IN, sector: 8, read: 8192 });
  assertSameBytes(data, model.subarray(4096, 4096 + 8192), "a read");
  const write = noise(4096, model[0]! + 1);
  assert.equal((await peer.disk.call({ type: OUT, sector: 64, write })).status, 0);
  model.set(write, 64 * 512);
  assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the image");
}

const fdExport = (id: string, str: string, more = "") =>
  `vhost-user-blk,id=${id},node-name=n,writable=on,addr.type=fd,addr.str=${str}${more}`;

Deno.test({
  name: "an export listens on a socket that it inherited, in the main context and in an IOThread",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 1 << 20, 5);
    await using daemon = await Daemon.start({
      dir,
      sockets: { 5: "here", 6: "there" },
      args: [
        ...["--object", "iothread,id=t", "--blockdev", "file,node-name=n,filename=disk.raw"],
        ...["--export", fdExport("e", "5"), "--export", fdExport("f", "6", ",iothread=t")],
      ],
    });
    for (const socket of ["here", "there", "here"]) await serves(dir, socket, model);
    // Added by a monitor too, where the original has no way to take them.
    await daemon.qmp.execute("block-export-del", { id: "e" });
    await daemon.qmp.event("BLOCK_EXPORT_DELETED");
    assert.ok(Deno.lstatSync(dir.file("here")).isSocket, "its file is not ours to remove");
    await assert.rejects(VhostPeer.attach(dir.file("here")), "nobody listens any more");
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "sockets of the service manager serve exports, by name and by number, by option and by QMP",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 1 << 20, 6);
    await using daemon = await Daemon.start({
      dir,
      wrapper: asService,
      sockets: { 3: "first", 4: "second", 5: "third" },
      env: { LISTEN_FDS: "3", LISTEN_FDNAMES: "vm-a:vm-b:vm-c" },
      args: [
        ...["--blockdev", "file,node-name=n,filename=disk.raw"],
        ...["--export", fdExport("a", "vm-a"), "--export", fdExport("b", "4")],
      ],
    });
    await daemon.qmp.execute("block-export-add", {
      type: "vhost-user-blk",
      id: "c",
      "node-name": "n",
      writable: true,
      addr: { type: "fd", str: "vm-c" },
    });
    for (const socket of ["first", "second", "third"]) await serves(dir, socket, model);
    const { stderr, status } = await daemon.stop();
    assert.deepEqual([status, stderr], [0, ""]);
  },
});
