/**
 * A real Linux guest on vhost-user-blk exports: the driver, the ring and the front-end are other people's. qsd and
 * QEMU are started by the very commands of docs/vhost-user.md, with more disks. One boot, since it takes most of the
 * time.
 */
import assert from "node:assert/strict";
import { Daemon, ROOT } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { QmpClient } from "../harness/qmp.ts";
import { skip } from "../harness/skips.ts";
import { run } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";
import { guestSystem } from "./kernel.ts";
import { Machine } from "./machine.ts";

const MIB = 1048576;
const system = await guestSystem();
const ignore = typeof system === "string" && skip("a Linux guest", system);

/**
 * Beside the disk of the page, which is vda with two queues: options of the export and of QEMU's device. vdb is
 * read-only, vdc has 4096-byte blocks and a packed ring.
 */
const disks = {
  b: ["num-queues=1", "num-queues=1"],
  c: ["writable=on,logical-block-size=4096", "num-queues=1,packed=on"],
} as const;
/** VIRTIO_F_RING_PACKED. */
const RING_PACKED = 34;

/** The words of the page's command that begins with `program`, for files in `dir` and a machine without KVM. */
function pasted(program: string, dir: TestDir): string[] {
  const page = Deno.readTextFileSync(`${ROOT}/docs/vhost-user.md`);
  const block = new RegExp("^```sh\\n" + program + "\\s(.*?)^```", "ms").exec(page)?.[1];
  assert.ok(block !== undefined, `the page has a command ${program}`);
  const replaced = block.replaceAll("\\\n", " ").replaceAll("/run/", `${dir.path}/`);
  return replaced.replace("-accel kvm", "-accel tcg").trim().split(/\s+/);
}

function daemonArguments(dir: TestDir): string[] {
  return Object.entries(disks).flatMap(([name, [options]]) => [
    "--blockdev",
    `driver=file,node-name=${name},filename=${name}.raw,discard=unmap`,
    "--export",
    `type=vhost-user-blk,id=${name},node-name=${name},addr.type=unix,addr.path=${name}.sock,${options}`,
  ]).concat(pasted("qsd", dir));
}

function machineArguments(dir: TestDir): string[] {
  const more = Object.entries(disks).flatMap(([name, [, options]]) => [
    "-chardev",
    `socket,id=${name},path=${dir.file(`${name}.sock`)},reconnect=1`,
    "-device",
    `vhost-user-blk-pci,chardev=${name},${options}`,
  ]);
  const monitor = ["-qmp", `unix:${dir.file("machine")},server=on,wait=off`];
  return [...pasted("qemu-system-x86_64", dir), ...monitor, ...more];
}

/** Those of the machine that takes over: the same devices, on sockets of their own. */
function arrivalArguments(dir: TestDir): string[] {
  const moved = (text: string) =>
    text.replace(".sock", "-2.sock").replace(dir.file("machine"), dir.file("machine-2"));
  return [...machineArguments(dir).map(moved), "-incoming", `unix:${dir.file("migration")}`];
}

/** Offers the disks a second time, for the machine that takes over. */
async function exportAgain(daemon: Daemon): Promise<void> {
  const add = (id: string, node: string, more: Record<string, unknown>) =>
    daemon.qmp.execute("block-export-add", {
      type: "vhost-user-blk",
      id: `${id}-2`,
      "node-name": node,
      addr: { type: "unix", path: `${id}-2.sock` },
      ...more,
    });
  await add("vm0", "disk0", { writable: true, "num-queues": 2 });
  await add("b", "b", {});
  await add("c", "c", { writable: true, "logical-block-size": 4096 });
}

/** Moves the machine, and waits until it runs over there. */
async function migrate(dir: TestDir): Promise<void> {
  const here = await QmpClient.open(dir.file("machine"));
  // The guest writes without a pause: it would not be followed within the default 128 MiB/s and 0.3 s.
  await here.execute("migrate-set-parameters", {
    "max-bandwidth": 10 * 1024 * MIB,
    "downtime-limit": 10_000,
  });
  await here.execute("migrate", { uri: `unix:${dir.file("migration")}` });
  let state: { status?: string; "error-desc"?: string } = {};
  await until(
    async () => {
      state = await here.execute("query-migrate") as typeof state;
      return ["completed", "failed"].includes(state.status ?? "");
    },
    "the migration to end",
    60_000,
  );
  await here.close();
  assert.equal(state.status, "completed", state["error-desc"]);
}

async function md5(path: string): Promise<string> {
  return (await run("md5sum", [path])).stdout.slice(0, 32);
}

Deno.test({
  name: "a Linux guest uses its disks, sees a resize, and outlives a killed qsd",
  ignore,
}, async (t) => {
  await using dir = TestDir.make();
  for (const name of ["disk", "b", "c"]) {
    using file = Deno.openSync(dir.file(`${name}.raw`), { write: true, create: true });
    file.truncateSync(64 * MIB);
    if (name !== "b") continue;
    for (let i = 0; i < 64; i++) file.writeSync(crypto.getRandomValues(new Uint8Array(65536)));
  }
  let daemon = await Daemon.start({ args: daemonArguments(dir), dir });
  try {
    if (typeof system === "string") return;
    await using guest = await Machine.boot(system, machineArguments(dir));

    await t.step("the disks are as configured", async () => {
      const show = "cat /sys/block/vd[abc]/size /sys/block/vd[abc]/ro " +
        "/sys/block/vd[abc]/queue/logical_block_size; ls /sys/block/vda/mq | wc -l";
      const sectors = `${64 * MIB / 512}`;
      assert.deepEqual((await guest.sh(show)).split("\n"), [
        ...[sectors, sectors, sectors],
        ...["0", "1", "0"],
        ...["512", "512", "4096"],
        "2",
      ]);
      const features = (await guest.sh("cat /sys/block/vd[abc]/device/features")).split("\n");
      assert.deepEqual(features.map((bits) => bits[RING_PACKED]), ["0", "0", "1"]);
    });

    await t.step("mkfs, files, fsck on both block sizes", async () => {
      for (const disk of ["vda", "vdc"]) {
        await guest.sh(`mkfs.ext4 -q /dev/${disk}`);
        await guest.sh(`mount -t ext4 /dev/${disk} /mnt`);
        await guest.sh(
          "for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/urandom > /mnt/f$i; done",
        );
        const before = await guest.sh("md5sum /mnt/f*");
        await guest.sh("umount /mnt && echo 3 > /proc/sys/vm/drop_caches");
        await guest.sh(`e2fsck -fn /dev/${disk}`);
        await guest.sh(`mount -t ext4 /dev/${disk} /mnt`);
        assert.equal(await guest.sh("md5sum /mnt/f*"), before);
        await guest.sh("umount /mnt");
      }
    });

    await t.step("a read-only disk is read, not written", async () => {
      const sum = await guest.sh("md5sum < /dev/vdb");
      assert.equal(sum.slice(0, 32), await md5(dir.file("b.raw")));
      await guest.sh("dd if=/dev/zero of=/dev/vdb bs=4096 count=1 2>/dev/null", 1);
    });

    await t.step("discarded space is given back", async () => {
      const before = Deno.statSync(dir.file("c.raw")).blocks!;
      await guest.sh("blkdiscard /dev/vdc");
      assert.ok(Deno.statSync(dir.file("c.raw")).blocks! < before / 4);
      assert.match(
        await guest.sh("head -c 1048576 /dev/vdc | md5sum"),
        /^b6d81b360a5672d80c27430f39153e2c/,
      );
    });

    await t.step("a resize shows in the running guest", async () => {
      await daemon.qmp.execute("block_resize", { "node-name": "disk0", size: 96 * MIB });
      const want = 96 * MIB / 512;
      await guest.sh(`until [ $(cat /sys/block/vda/size) = ${want} ]; do sleep 0.1; done`);
      await guest.sh("mount -t ext4 /dev/vda /mnt && resize2fs /dev/vda && umount /mnt");
    });

    await t.step("the machine is stopped and goes on in mid-read", async () => {
      const reads = "for i in 1 2 3 4; do " +
        "for d in vda vdb vdc; do dd if=/dev/$d of=/dev/null bs=64k iflag=direct 2>/dev/null & " +
        "done; wait; done; echo read";
      guest.begin(reads);
      const machine = await QmpClient.open(dir.file("machine"));
      for (let i = 0; i < 5; i++) {
        await machine.execute("stop");
        await machine.execute("cont");
      }
      await machine.close();
      assert.equal(await guest.finish(reads), "read");
    });

    await t.step("qsd is killed and started again in mid-write: nothing is lost", async () => {
      await guest.sh("mkfs.ext4 -q /dev/vdc && mkdir /mnt/a /mnt/c");
      await guest.sh("mount -t ext4 /dev/vda /mnt/a && mount -t ext4 /dev/vdc /mnt/c");
      // Each pass writes, reads back past the cache, and compares.
      await guest.sh("head -c 8192000 /dev/urandom > /tmp/want");
      const files = "/mnt/a/1 /mnt/a/2 /mnt/a/3 /mnt/a/4 /mnt/c/1 /mnt/c/2 /mnt/c/3";
      const work = `for f in ${files}; do dd if=/tmp/want of=$f bs=64k oflag=direct ` +
        "conv=notrunc 2>/dev/null & done; wait; sync; echo 3 > /proc/sys/vm/drop_caches; " +
        `for f in ${files}; do cmp /tmp/want $f || exit 1; done`;
      guest.begin(`( ${work} )`);
      const written = (name: string) => Deno.statSync(dir.file(`${name}.raw`)).blocks!;
      for (let round = 0; round < 3; round++) {
        const [a, c] = [written("disk"), written("c")];
        for (let i = 0; i < 200 && (written("disk") < a + 1024 || written("c") < c + 512); i++) {
          await new Promise((resolve) => setTimeout(resolve, 5));
        }
        daemon.kill("SIGKILL");
        await daemon.end();
        Deno.removeSync(dir.file("pid")); // so that the next one's is waited for
        daemon = await Daemon.start({ args: daemonArguments(dir), dir });
      }
      await guest.finish(work, 0, 240_000);
      await guest.sh("umount /mnt/a /mnt/c && e2fsck -fn /dev/vda && e2fsck -fn /dev/vdc");
      assert.equal(await guest.sh("dmesg | grep -ci 'i/o error' || true"), "0");
    });

    await t.step("the machine moves to another QEMU in mid-write: nothing is lost", async () => {
      await exportAgain(daemon);
      await using there = Machine.expect(system, arrivalArguments(dir));
      const listens = () => Deno.stat(dir.file("migration")).then(() => true, () => false);
      await until(listens, "the other QEMU to listen", 60_000);
      await guest.sh("mount -t ext4 /dev/vda /mnt/a && mount -t ext4 /dev/vdc /mnt/c");
      const files = "/mnt/a/m1 /mnt/a/m2 /mnt/c/m1 /mnt/c/m2";
      const pass = `for f in ${files}; do dd if=/tmp/want of=$f bs=64k oflag=direct conv=notrunc ` +
        "2>/dev/null & done; wait; sync; echo 3 > /proc/sys/vm/drop_caches; " +
        `for f in ${files}; do cmp /tmp/want $f || exit 1; done`;
      const passes = `until [ -e /tmp/there ]; do ${pass}; done`;
      await guest.sh(`( ( ${passes} ) > /tmp/said 2>&1; echo $? > /tmp/status ) & true`);
      await migrate(dir);
      const finish = "touch /tmp/there; until [ -s /tmp/status ]; do sleep 0.1; done";
      assert.equal(await there.sh(`${finish}; cat /tmp/said /tmp/status`), "0");
      assert.equal(
        (await there.sh("md5sum < /dev/vdb")).slice(0, 32),
        await md5(dir.file("b.raw")),
      );
      await there.sh("umount /mnt/a /mnt/c && e2fsck -fn /dev/vda && e2fsck -fn /dev/vdc");
      assert.equal(await there.sh("dmesg | grep -ci 'i/o error' || true"), "0");
    });
  } finally {
    await daemon[Symbol.asyncDispose]();
  }
});
