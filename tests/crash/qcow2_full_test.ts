/** A qcow2 image on a file system that is full: what was acknowledged can be made stable without more room. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, ERR } from "../harness/nbd_wire.ts";
import { serveArgs } from "../harness/serve.ts";
import { Daemon } from "../harness/daemon.ts";
import { skip } from "../harness/skips.ts";
import { lacks, ok, run } from "../harness/tools.ts";

const MIB = 1048576;
const canMount = Deno.uid() === 0 ||
  skip("crash/qcow2 full", "mounting a tmpfs needs root") !== true;

/** The image as a node of format qcow2, exported. */
function args(): string[] {
  const node = "driver=qcow2,node-name=disk,file.driver=file,file.filename=small/disk.qcow2";
  return serveArgs().map((word) => word.startsWith("driver=file") ? node : word);
}

/** Each with the guest's stride from one write to the next: a table each, or blocks of counts. */
const KINDS = [
  { options: "cluster_size=4k", stride: 2 * MIB, length: 4096 },
  { options: "cluster_size=512,refcount_bits=64", stride: 32768, length: 512 },
  { options: "cluster_size=64k,extended_l2=on", stride: 65536 * 4096, length: 4096 },
  { options: "cluster_size=512", stride: 512, length: 512 },
];

for (const { options, stride, length } of KINDS) {
  Deno.test({
    name: `writes to a full disk fail, those before them are there after a stop: ${options}`,
    ignore: !canMount || lacks("crash/qcow2 full", "mount", "umount", "qemu-img"),
    fn: async () => {
      await using dir = TestDir.make();
      const small = dir.file("small");
      Deno.mkdirSync(small);
      const mounted = await run("mount", ["-t", "tmpfs", "-o", "size=2M", "none", small]);
      if (mounted.status !== 0) {
        return void skip("crash/qcow2 full", `mount: ${mounted.stderr.trim()}`);
      }
      try {
        const size = 8192 * stride;
        const make = ["create", "-q", "-f", "qcow2", "-o", options, "disk.qcow2", `${size}`];
        await ok("qemu-img", make, { cwd: small });
        let written = 0;
        {
          await using daemon = await Daemon.start({ dir, args: args() });
          using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
          for (;;) {
            const payload = noise(length, written + 1);
            const { error } = await peer.call({
              type: CMD.WRITE,
              offset: written * stride,
              payload,
            });
            if (error !== 0) {
              assert.equal(error, ERR.ENOSPC);
              break;
            }
            written++;
          }
          await peer.flush();
          const { status, stderr } = await daemon.stop();
          assert.deepEqual([status, stderr], [0, ""]);
        }
        assert.ok(written > 4, `${written} writes`);
        const checked = await run("qemu-img", ["check", "disk.qcow2"], { cwd: small });
        assert.ok(checked.status === 0 || checked.status === 3, checked.stdout + checked.stderr);
        await using daemon = await Daemon.start({ dir, args: args() });
        using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
        for (let at = 0; at < written; at++) {
          const got = await peer.read(at * stride, length);
          assertSameBytes(got, noise(length, at + 1), `write ${at} of ${written}`);
        }
      } finally {
        await ok("umount", [small]);
      }
    },
  });
}
