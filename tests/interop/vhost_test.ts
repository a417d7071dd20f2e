/** vhost-user-blk exports of a whole daemon: inherited sockets, idleness, resizes, what lives on when they end. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { lacks, ok } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";

const ignore = ON_ORIGINAL || lacks("interop/vhost", "python3", "qemu-img");
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

Deno.test({
  name: "a front-end that takes its memory away in the middle of requests harms nobody else",
  ignore,
  fn: async () => {
    for (const format of ["raw", "qcow2"]) {
      for (const thread of ["", ",iothread=t", ",num-queues=2,iothread.0=t,iothread.1=u"]) {
        await using dir = TestDir.make();
        await ok("qemu-img", ["create", "-q", "-f", format, dir.file("disk"), "16M"]);
        await using daemon = await Daemon.start({
          dir,
          args: [
            ...["--object", "iothread,id=t", "--object", "iothread,id=u"],
            ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
            ...["--blockdev", `${format},node-name=n,file.driver=file,file.filename=disk`],
            ...["--export", VhostPeer.exported("bad", "n", "bad", thread)],
            ...["--export", VhostPeer.exported("good", "n", "good", thread)],
            ...["--export", `nbd,id=e,node-name=n,name=e`],
          ],
        });
        await using good = await VhostPeer.attach(dir.file("good"));
        using nbd = await NbdPeer.attach(dir.file("nbd"), "e");
        const write = noise(65536, 9);
        assert.equal((await good.disk.call({ type: OUT, sector: 0, write })).status, 0);
        {
          // A ring of nothing but zeroes is an empty one: it is told all the same.
          await using idle = await VhostPeer.attach(dir.file("bad"));
          assert.equal(idle.context.sys.ftruncate(idle.frontend.memoryFd, 0), 0);
          idle.frontend.kick(0, true);
          assert.equal(await idle.frontend.reply(), "end");
        }
        for (let round = 0; round < 2; round++) {
          await using bad = await VhostPeer.attach(dir.file("bad"));
          const { frontend, disk, context } = bad;
          for (let i = 0; i < 20; i++) {
            const more = i % 2 === 0 ? { write: noise(256 << 10, i) } : { read: 256 << 10 };
            disk.submit({
              type: i % 2 === 0 ? OUT : IN,
              sector: 2048 + 512 * i,
              piece: 4096,
              ...more,
            })
              .catch(() => {});
          }
          frontend.kick(0, true);
          // All of it, or all but the rings, whose requests then fail.
          const left = round % 2 === 0 ? 0 : 65536;
          assert.equal(context.sys.ftruncate(frontend.memoryFd, left), 0);
          if (left === 0) {
            frontend.kick(0, true);
            assert.equal(await frontend.reply(), "end");
          }
          for (let i = 0; i < 5; i++) {
            const { status, data } = await good.disk.call({ type: IN, sector: 0, read: 65536 });
            assert.equal(status, 0);
            assertSameBytes(data, write, "the other front-end");
            assertSameBytes(await nbd.read(0, 65536), write, "an NBD client");
          }
        }
        const { status, stderr } = await daemon.stop();
        assert.equal(status, 0);
        assert.match(stderr, /'bad': the connection is closed: .* took away memory/);
      }
    }
  },
});
