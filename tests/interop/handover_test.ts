/** blockdev-set-active: an image goes from one process to another and back while clients stay connected. */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { lacks, ok, run } from "../harness/tools.ts";

const ignore = lacks("interop/handover", "qemu-img", "qemu-io");
const io = (daemon: Daemon, command: string) =>
  run("qemu-io", ["-f", "raw", "-c", command, daemon.uri("e")]);

Deno.test({
  name:
    "an inactive node's image is another's to change; once activated it is served as it is then",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const disk = dir.file("disk.raw");
    await ok("qemu-img", ["create", "-q", "-f", "raw", disk, "1M"]);
    const blockdev = "driver=raw,node-name=n,active=off,file.driver=file,file.filename=disk.raw";
    const args = ["--blockdev", blockdev, "--nbd-server", "addr.type=unix,addr.path=nbd"];
    await using daemon = await Daemon.start({ dir, args });
    const { qmp } = daemon;
    const states = async () => {
      const nodes = await qmp.execute("query-named-block-nodes");
      return nodes.map((node: { active: boolean }) => node.active);
    };
    const resize = (to: string) => run("qemu-img", ["resize", "-q", "-f", "raw", disk, to]);
    await qmp.execute("block-export-add", {
      type: "nbd",
      id: "e",
      name: "e",
      "node-name": "n",
      writable: true,
      "allow-inactive": true,
    });
    assert.deepEqual(await states(), [false, false]);
    assert.equal((await io(daemon, "read 0 4k")).status, 0, "it is read");
    assert.match((await io(daemon, "write -P 1 0 4k")).stdout, /Operation not permitted/);
    assert.equal((await resize("2M")).status, 0, "nothing is locked");

    await qmp.execute("blockdev-set-active", { "node-name": "n", active: true });
    assert.deepEqual(await states(), [true, true]);
    assert.match((await resize("3M")).stderr, /Failed to get "resize" lock/);
    assert.equal((await io(daemon, "write -P 1 1M 1M")).status, 0, "the new length is served");

    await qmp.execute("blockdev-set-active", { active: false });
    await ok("qemu-io", ["-f", "raw", "-c", "write -P 2 0 4k", disk]);
    await ok("qemu-img", ["resize", "-q", "-f", "raw", disk, "3M"]);
    await qmp.execute("blockdev-set-active", { active: true });
    assert.equal((await io(daemon, "read -P 2 0 4k")).status, 0);
    assert.equal((await io(daemon, "write -P 3 2M 1M")).status, 0);
    await qmp.execute("block-export-del", { id: "e" });
    await qmp.event("BLOCK_EXPORT_DELETED");

    // Without leave to be inactive an export activates its node, and keeps it so.
    await qmp.execute("blockdev-set-active", { active: false });
    await qmp.execute("block-export-add", { type: "nbd", id: "e", name: "e", "node-name": "n" });
    assert.deepEqual(await states(), [true, true]);
    assert.equal(
      await qmp.refused("blockdev-set-active", { "node-name": "n", active: false }),
      "Node 'n' is in use by an unnamed block device, which needs it active",
    );
  },
});
