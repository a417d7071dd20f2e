/** Image locks, both ways: qsd keeps others out, others keep qsd out, and sharing works. */
import assert from "node:assert/strict";
import { Daemon, runToEnd } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { lacks, ok, PYTHON, run } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";

const ignore = lacks("interop/locking", "qemu-img", "qemu-io", "python3");
const server = ["--nbd-server", "addr.type=unix,addr.path=nbd"];
const file = (more = "") => ["--blockdev", `file,node-name=f,filename=disk.qcow2${more}`];
const exported = (writable: boolean) => [
  ...server,
  "--export",
  `nbd,id=e,node-name=f,writable=${writable ? "on" : "off"}`,
];

/**
 * qsd serves the bytes of the file, whatever they mean. Only a format's user keeps others from writing,
 * so the peers open the file as qcow2.
 */
async function image(): Promise<TestDir> {
  const dir = TestDir.make();
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", dir.file("disk.qcow2"), "1M"]);
  return dir;
}

Deno.test({
  name: "qemu-img and qemu-io refuse an image that qsd writes, unless forced to share",
  ignore,
  fn: async () => {
    await using dir = await image();
    await using _daemon = await Daemon.start({ dir, args: [...file(), ...exported(true)] });
    const disk = dir.file("disk.qcow2");
    for (
      const command of [
        ["qemu-img", "info", disk],
        ["qemu-img", "check", disk],
        ["qemu-img", "resize", disk, "2M"],
        ["qemu-img", "convert", "-O", "raw", disk, dir.file("copy.raw")],
        ["qemu-io", "-c", "write 0 512", disk],
        ["qemu-io", "-r", "-c", "read 0 512", disk],
      ]
    ) {
      const { status, stderr } = await run(command[0]!, command.slice(1));
      assert.notEqual(status, 0, command.join(" "));
      assert.match(stderr, /Failed to get (shared )?"(write|resize)" lock/, command.join(" "));
    }
    await ok("qemu-img", ["info", "-U", disk]);
    await ok("qemu-io", ["-U", "-r", "-c", "read 0 512", disk]);
    await ok("qemu-img", ["compare", "-U", disk, disk]);
  },
});

Deno.test({
  name: "an exported image cannot be resized by others, even when it is read only",
  ignore,
  fn: async () => {
    await using dir = await image();
    await using _daemon = await Daemon.start({ dir, args: [...file(), ...exported(false)] });
    const args = ["resize", "-f", "raw", dir.file("disk.qcow2"), "2M"];
    assert.match((await run("qemu-img", args)).stderr, /Failed to get "resize" lock/);
  },
});

Deno.test({
  name: "the locks are gone once the export is gone, and once the daemon has stopped",
  ignore,
  fn: async () => {
    await using dir = await image();
    const disk = dir.file("disk.qcow2");
    await using daemon = await Daemon.start({ dir, args: [...file(), ...exported(true)] });
    assert.notEqual((await run("qemu-img", ["check", disk])).status, 0);
    await daemon.qmp.execute("block-export-del", { id: "e" });
    await daemon.qmp.event("BLOCK_EXPORT_DELETED");
    await ok("qemu-img", ["check", disk]);
    await daemon.qmp.execute("block-export-add", {
      type: "nbd",
      id: "e",
      "node-name": "f",
      writable: true,
    });
    assert.notEqual((await run("qemu-img", ["check", disk])).status, 0);
    assert.equal((await daemon.stop()).status, 0);
    await ok("qemu-img", ["resize", disk, "2M"]);
    await ok("qemu-img", ["check", disk]);
  },
});

Deno.test({
  name: "readers share a read-only image with qsd, writers are refused the resize",
  ignore,
  fn: async () => {
    await using dir = await image();
    const args = [...file(",read-only=on"), ...exported(false)];
    await using _daemon = await Daemon.start({ dir, args });
    await ok("qemu-img", ["info", dir.file("disk.qcow2")]);
    await ok("qemu-img", ["check", dir.file("disk.qcow2")]);
    const write = ["-c", "write 0 512", dir.file("disk.qcow2")];
    assert.match((await run("qemu-io", write)).stderr, /Failed to get "resize" lock/);
  },
});

Deno.test({
  name: "qsd refuses an image whose write permission another program keeps to itself",
  ignore,
  fn: async () => {
    await using dir = await image();
    await using lock = await holdByte(dir, 201);
    const args = [...file(), ...exported(true)];
    const { status, stderr } = await runToEnd({ dir, args });
    assert.equal(status, 1);
    assert.match(stderr, /--export .*: Failed to get "write" lock\n/);
    await lock.release();
    await using daemon = await Daemon.start({ dir, args });
    assert.equal((await daemon.qmp.execute("query-block-exports")).length, 1);
  },
});

/** Another program with a shared OFD lock on one byte of the image. */
async function holdByte(
  dir: TestDir,
  byte: number,
): Promise<AsyncDisposable & { release(): Promise<void> }> {
  const program = `
import fcntl, os, struct, sys
fd = os.open("disk.qcow2", os.O_RDWR)
fcntl.fcntl(fd, 37, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, ${byte}, 1, 0))
open("held", "w").close()
sys.stdin.read()
`;
  const child = new Deno.Command(PYTHON, {
    args: ["-c", program],
    cwd: dir.path,
    stdin: "piped",
  }).spawn();
  let released = false;
  const release = async () => {
    if (released) return;
    released = true;
    await child.stdin.close();
    await child.status;
  };
  await until(() => Deno.stat(dir.file("held")).then(() => true, () => false), "the lock");
  return { release, [Symbol.asyncDispose]: release };
}
