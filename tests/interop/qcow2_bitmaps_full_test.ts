/** Persistent dirty bitmaps that cannot be stored, since the disk is full: nothing is lost silently. */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { skip } from "../harness/skips.ts";
import { lacks, ok, run } from "../harness/tools.ts";

const SUITE = "interop/qcow2-bitmaps-full";
const ignore = (Deno.uid() !== 0 && skip(SUITE, "mounting a tmpfs needs root")) ||
  lacks(SUITE, "mount", "umount", "qemu-img");
const MIB = 1 << 20;
const STEP = 4096;

Deno.test({
  name: "bitmaps that find no room on the disk stay, or are inconsistent and said to be lost",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const small = dir.file("small");
    Deno.mkdirSync(small);
    const mounted = await run("mount", ["-t", "tmpfs", "-o", "size=2M", "none", small]);
    if (mounted.status !== 0) return void skip(SUITE, `mount: ${mounted.stderr.trim()}`);
    const path = `${small}/d.qcow2`;
    const filler = `${small}/filler`;
    const flags = async () => {
      const info = await ok("qemu-img", ["info", "-U", "--output=json", path]);
      const list = JSON.parse(info)["format-specific"].data.bitmaps as { flags: string[] }[];
      return list.map(({ flags }) => flags.toSorted().join());
    };
    try {
      const create = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "1M"];
      await ok("qemu-img", create);
      for (const name of ["a", "b"]) {
        await ok("qemu-img", ["bitmap", "--add", "-g", "512", path, name]);
      }
      await using daemon = await Daemon.start({
        dir,
        args: ["--nbd-server", "addr.type=unix,addr.path=nbd"],
      });
      const { qmp } = daemon;
      const node = (readOnly: boolean) => ({
        driver: "qcow2",
        "node-name": "n",
        "read-only": readOnly,
        file: { driver: "file", filename: path },
      });
      /** Every eighth granule becomes dirty, so that the bits need a cluster. */
      const write = async () => {
        const share = { type: "nbd", id: "e", name: "e", "node-name": "n", writable: true };
        await qmp.execute("block-export-add", share);
        const peer = await NbdPeer.attach(daemon.file("nbd"), "e");
        for (let at = 0; at < MIB; at += STEP) await peer.write(at, new Uint8Array(512).fill(1));
        await peer.disconnect();
        await qmp.execute("block-export-del", { id: "e", mode: "hard" });
        await qmp.event("BLOCK_EXPORT_DELETED");
      };
      /** Takes all of the room that is left. */
      const fill = async () => void await run("sh", ["-c", `cat /dev/zero > ${filler}`]);
      const count = async () => {
        const nodes = await qmp.execute("query-named-block-nodes") as Record<string, unknown>[];
        const list = nodes.find((one) => one["node-name"] === "n")!["dirty-bitmaps"];
        return (list as { count: number }[]).map(({ count }) => count);
      };
      await qmp.execute("blockdev-add", node(false));
      await write();
      await fill();
      const why = "Failed to write bitmap 'a' to file: No space left on device";
      const reopen = { options: [node(true)] };
      assert.equal(await qmp.refused("blockdev-reopen", reopen), why);
      const inactive = { "node-name": "n", active: false };
      assert.equal(await qmp.refused("blockdev-set-active", inactive), why);
      assert.deepEqual(await count(), [MIB / 8, MIB / 8], "they are still there");
      assert.deepEqual(await flags(), ["auto,in-use", "auto,in-use"]);
      await write();
      Deno.removeSync(filler);
      await qmp.execute("blockdev-reopen", reopen);
      assert.deepEqual(await flags(), ["auto", "auto"]);
      await qmp.execute("blockdev-reopen", { options: [node(false)] });
      await fill();
      await qmp.execute("blockdev-del", { "node-name": "n" });
      assert.deepEqual(await flags(), ["auto,in-use", "auto,in-use"]);
      const { stderr } = await daemon.stop();
      assert.match(
        stderr,
        /lost persistent bitmaps of node 'n': .*Failed to write bitmap '[ab]' to /,
      );
      assert.match(await ok("qemu-img", ["check", path]), /^No errors were found/);
    } finally {
      await ok("umount", [small]);
    }
  },
});
