/** What qcow2's options and marks do to an image, as qemu-img sees it: snapshots to read, repair, loops, discard. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes } from "../harness/images.ts";
import { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { skip } from "../harness/skips.ts";
import { lacks, ok, run } from "../harness/tools.ts";

const suite = "interop/qcow2-options";
const ignore = lacks(suite, "qemu-img", "qemu-io", ORIGINAL) ||
  (ON_ORIGINAL && skip(suite, "options of our own"));

type Options = Readonly<Record<string, unknown>>;
const IMAGE = "a.qcow2";
const image = (more: Options = {}) => ({
  driver: "qcow2",
  "node-name": "n",
  file: { driver: "file", filename: IMAGE, discard: "unmap" },
  ...more,
});
const start = (dir: TestDir) =>
  Daemon.start({ dir, args: ["--nbd-server", "addr.type=unix,addr.path=nbd"] });
const add = (daemon: Daemon, options: Options) => daemon.qmp.execute("blockdev-add", options);

/** qemu-io's commands on a node over NBD. */
async function io(daemon: Daemon, node: string, ...commands: string[]): Promise<void> {
  const share = { type: "nbd", id: "e", name: "e", "node-name": node, writable: true };
  await daemon.qmp.execute("block-export-add", share);
  const list = commands.flatMap((command) => ["-c", command]);
  await ok("qemu-io", ["-f", "raw", ...list, daemon.uri("e")]);
  await daemon.qmp.execute("block-export-del", { id: "e" });
  await daemon.qmp.event("BLOCK_EXPORT_DELETED");
}
const offline = (dir: TestDir, ...commands: string[]) =>
  ok("qemu-io", ["-f", "qcow2", ...commands.flatMap((one) => ["-c", one]), dir.file(IMAGE)]);
const create = (dir: TestDir, ...options: string[]) =>
  ok("qemu-img", ["create", "-q", "-f", "qcow2", ...options, dir.file(IMAGE), "4M"]);
const isDirty = (dir: TestDir) => new Qcow2Bytes(Deno.readFileSync(dir.file(IMAGE))).dirty;
const check = (dir: TestDir) => ok("qemu-img", ["check", "-q", dir.file(IMAGE)]);

Deno.test({
  name: "a snapshot is read as qemu-img converts it, while the disk is written to",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await create(dir);
    await offline(dir, "write -P 1 0 1M", "write -z 2M 1M");
    await ok("qemu-img", ["snapshot", "-c", "s1", dir.file(IMAGE)]);
    await offline(dir, "write -P 2 512k 3M");
    const convert = ["convert", "-l", "s1", "-O", "raw", dir.file(IMAGE), dir.file("s1.raw")];
    await ok("qemu-img", convert);
    await using daemon = await start(dir);
    await add(daemon, image());
    const file = { driver: "file", filename: IMAGE };
    const view = { "read-only": true, "force-share": true, file, "x-qsd-snapshot": "s1" };
    await add(daemon, image({ ...view, "node-name": "s" }));
    await io(daemon, "n", "write -P 3 0 4M", "discard 0 1M", "flush");
    const args = { type: "nbd", id: "s", name: "s", "node-name": "s" };
    await daemon.qmp.execute("block-export-add", args);
    await ok("qemu-img", [
      "compare",
      "-f",
      "raw",
      "-F",
      "raw",
      daemon.uri("s"),
      dir.file("s1.raw"),
    ]);
    const refuse = (more: Options, message: RegExp) =>
      assert.rejects(add(daemon, image({ ...view, "node-name": "x", ...more })), message);
    await refuse({ "x-qsd-snapshot": "nobody" }, /Failed to load snapshot: Can't find snapshot/);
    await ok("qemu-img", ["create", "-q", "-f", "qcow2", dir.file("other"), "1M"]);
    const other = { driver: "file", filename: "other" };
    await refuse(
      { "read-only": false, "force-share": false, file: other },
      /'x-qsd-snapshot' can only be used with read-only images/,
    );
    await daemon.stop();
    await check(dir);
  },
});

/** An image whose counts were not written any more, as the daemon leaves it when it is killed. */
async function killed(target: TestDir): Promise<void> {
  // Sockets of the killed one stay behind.
  await using dir = TestDir.make();
  await create(dir, "-o", "lazy_refcounts=on");
  const daemon = await start(dir);
  try {
    await add(daemon, image());
    const share = { type: "nbd", id: "e", name: "e", "node-name": "n", writable: true };
    await daemon.qmp.execute("block-export-add", share);
    const commands = ["-c", "write -P 5 0 1M", "-c", "flush"];
    await ok("qemu-io", ["-f", "raw", ...commands, daemon.uri("e")]);
  } finally {
    daemon.kill("SIGKILL");
    await daemon.end();
  }
  Deno.copyFileSync(dir.file(IMAGE), target.file(IMAGE));
  assert.ok(isDirty(dir), "the mark of an image in use");
}

const ways: Readonly<Record<string, (daemon: Daemon, dir: TestDir) => Promise<void>>> = {
  "on opening": async (daemon) => void await add(daemon, image()),
  "on reopening": async (daemon, dir) => {
    await add(daemon, image({ "read-only": true }));
    assert.ok(isDirty(dir), "an image that is only read is left alone");
    await daemon.qmp.execute("blockdev-reopen", { options: [image()] });
  },
  "on activation": async (daemon, dir) => {
    await add(daemon, image({ active: false }));
    assert.ok(isDirty(dir), "an inactive image is left alone");
    await daemon.qmp.execute("blockdev-set-active", { active: true });
  },
};
for (const [when, open] of Object.entries(ways)) {
  Deno.test({
    name: `an image that was in use when its user was killed is repaired ${when}`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      await killed(dir);
      await using daemon = await start(dir);
      await open(daemon, dir);
      assert.ok(!isDirty(dir), "repaired before the first write");
      await io(daemon, "n", "read -P 5 0 1M", "write -P 6 1M 1M");
      await daemon.stop();
      await check(dir);
      await offline(dir, "read -P 5 0 1M", "read -P 6 1M 1M");
    },
  });
}

Deno.test({
  name: "an image is not opened as its own backing file, by whatever name",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await create(dir);
    Deno.symlinkSync(IMAGE, dir.file("soft"));
    Deno.linkSync(dir.file(IMAGE), dir.file("hard"));
    for (const name of [IMAGE, "soft", "hard", `./${IMAGE}`]) {
      await ok("qemu-img", ["rebase", "-u", "-b", name, "-F", "qcow2", dir.file(IMAGE)]);
      await using daemon = await start(dir);
      await assert.rejects(add(daemon, image({ "read-only": true })), name);
      await daemon.stop();
    }
  },
});

/** Bytes of the file that the file system has room for. */
async function allocated(dir: TestDir): Promise<number> {
  return ((await Deno.stat(dir.file(IMAGE))).blocks ?? 0) * 512;
}
/** Where nothing is allocated in the image file: what was given back from its middle. */
async function holes(dir: TestDir): Promise<number> {
  const map = JSON.parse(
    await ok("qemu-img", ["map", "--output=json", "-f", "raw", dir.file(IMAGE)]),
  ) as { length: number; data: boolean }[];
  return map.reduce((sum, one) => sum + (one.data ? 0 : one.length), 0);
}
/** Bytes of guest data that have a place, as qemu-img sees it. */
async function placed(dir: TestDir): Promise<number> {
  const { stdout } = await run("qemu-img", ["map", "--output=json", dir.file(IMAGE)]);
  const map = JSON.parse(stdout) as { length: number; offset?: number }[];
  return map.reduce((sum, one) => sum + (one.offset === undefined ? 0 : one.length), 0);
}

const MiB = 2 ** 20;
const discards: readonly [Options, freed: boolean, unmapped: boolean][] = [
  [{ discard: "unmap" }, true, true],
  [{ discard: "unmap", "pass-discard-request": false }, false, true],
  [{ discard: "ignore" }, false, false],
  [{ discard: "unmap", "discard-no-unref": true }, true, false],
  [{ discard: "unmap", "discard-no-unref": true, "pass-discard-request": false }, false, false],
];
for (const [options, freed, unmapped] of discards) {
  Deno.test({
    name: `a discard with ${JSON.stringify(options)} gives ${freed ? "room" : "nothing"} back`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      await create(dir);
      await offline(dir, "write -P 1 0 4M");
      const before = await allocated(dir);
      await using daemon = await start(dir);
      await add(daemon, image(options));
      await io(daemon, "n", "discard 0 3M", "flush");
      await daemon.stop();
      const gone = before - await allocated(dir);
      assert.equal(gone >= 2.5 * MiB, freed, `${gone} bytes`);
      assert.equal(await placed(dir), unmapped ? MiB : 4 * MiB);
      await check(dir);
    },
  });
}

/** What reads as zeroes, and from how deep, as qemu-img sees it. */
async function zeroes(dir: TestDir): Promise<unknown> {
  const { stdout } = await run("qemu-img", ["map", "--output=json", dir.file(IMAGE)]);
  const map = JSON.parse(stdout) as {
    start: number;
    length: number;
    depth: number;
    zero: boolean;
  }[];
  return map.map(({ start, length, depth, zero }) => ({ start, length, depth, zero }));
}
const overlays: readonly string[] = [
  "cluster_size=64k",
  "cluster_size=512",
  "cluster_size=64k,extended_l2=on",
  "cluster_size=16k,extended_l2=on",
  "cluster_size=64k,compat=0.10",
];
for (const options of overlays) {
  Deno.test({
    name: `over a backing file a discard hides the same as the original's does: ${options}`,
    ignore,
    fn: async () => {
      const results: unknown[] = [];
      for (const ours of [true, false]) {
        await using dir = TestDir.make();
        // The backing file is shorter than the disk.
        await ok("qemu-img", ["create", "-q", "-f", "raw", dir.file("base"), "3M"]);
        await ok("qemu-io", ["-f", "raw", "-c", "write -P 3 0 3M", dir.file("base")]);
        await create(dir, "-o", options, "-b", dir.file("base"), "-F", "raw");
        // Clusters of every kind, each with nothing of its own next to it.
        await offline(
          dir,
          "write -P 1 128k 64k",
          "write -P 1 258k 2k",
          "write -z 386k 2k",
          "write -z -u 512k 64k",
          "write -c -P 1 640k 64k",
        );
        // Whole clusters; parts, which stay; where there is no table yet; behind the backing file's end.
        const commands = [
          "discard 0 768k",
          "discard 1025k 14k",
          "discard 2M 1M",
          "discard 3M 512k",
        ];
        if (ours) {
          await using daemon = await start(dir);
          await add(daemon, image({ discard: "unmap" }));
          await io(daemon, "n", ...commands);
          await daemon.stop();
        } else {
          const list = commands.flatMap((command) => ["-c", command]);
          await ok("qemu-io", ["-f", "qcow2", "-d", "unmap", ...list, dir.file(IMAGE)]);
        }
        await check(dir);
        await ok("qemu-img", ["convert", "-O", "raw", dir.file(IMAGE), dir.file("raw")]);
        // A digest: megabytes that differ take minutes to be told apart.
        const bytes = await crypto.subtle.digest("SHA-256", Deno.readFileSync(dir.file("raw")));
        results.push([await zeroes(dir), new Uint8Array(bytes)]);
      }
      assert.deepEqual(results[0], results[1]);
    },
  });
}

for (const options of overlays) {
  for (const hidden of [false, true]) {
    // Version 2 has no zero flags: without a backing file the original frees what is zeroed.
    if (hidden && options.includes("compat=0.10")) continue;
    Deno.test({
      name: `zeroes stay zeroes when the backing file ${
        hidden ? "is there again" : "becomes longer"
      }: ${options}`,
      ignore,
      fn: async () => {
        const results: Uint8Array[] = [];
        for (const ours of [true, false]) {
          await using dir = TestDir.make();
          const base = dir.file("base");
          // It ends in the middle of a cluster, and of a subcluster.
          await ok("qemu-img", ["create", "-q", "-f", "raw", base, "1050112"]);
          await create(dir, "-o", options, "-b", base, "-F", "raw");
          await offline(
            dir,
            "write -P 1 1500k 64k",
            "write -P 1 1666k 2k",
            "write -c -P 1 1792k 64k",
          );
          // Behind its end, and across; with and without a table, of whole clusters and of parts.
          const commands = [
            "write -z 1020k 20k",
            "write -z 1089k 3k",
            "write -z 1200k 100k",
            "write -z -u 1312k 64k",
            "write -z 1510k 4k",
            "write -z 1660k 70k",
            "write -z 3000k 5k",
            "write -z 3300k 200k",
            "write -P 0 3700k 1k",
          ];
          const { below, file } = {
            below: { driver: "raw", file: { driver: "file", filename: base } },
            file: { driver: "file", filename: IMAGE },
          };
          const backing = hidden ? null : below;
          if (ours) {
            await using daemon = await start(dir);
            await add(daemon, image({ backing, file }));
            await io(daemon, "n", ...commands);
            await daemon.stop();
          } else {
            const node = { ...image({ backing }), file: { ...file, filename: dir.file(IMAGE) } };
            const list = commands.flatMap((command) => ["-c", command]);
            const json = JSON.stringify({ ...node, "node-name": undefined });
            await ok("qemu-io", [...list, `json:${json}`]);
          }
          await check(dir);
          await ok("qemu-io", ["-f", "raw", "-c", "truncate 4M", "-c", "write -P 3 0 4M", base]);
          await ok("qemu-img", ["convert", "-O", "raw", dir.file(IMAGE), dir.file("raw")]);
          results.push(Deno.readFileSync(dir.file("raw")));
        }
        assertSameBytes(results[0]!, results[1]!, "after the backing file changed");
        assert.ok(results[0]!.includes(0) && results[0]!.includes(3));
      },
    });
  }
}

for (const more of ["", ",extended_l2=on"]) {
  Deno.test({
    name: `what is discarded or unmapped in a data file has no place there any more${more}`,
    ignore,
    fn: async () => {
      const results: unknown[] = [];
      for (const ours of [true, false]) {
        await using dir = TestDir.make();
        const data = dir.file("data");
        await create(dir, "-o", `cluster_size=64k,data_file=${data}${more}`);
        await offline(dir, "write -P 1 0 1M");
        const commands = ["discard 64k 128k", "write -z -u 256k 128k", "write -z 512k 64k"];
        if (ours) {
          await using daemon = await start(dir);
          const file = { driver: "file", filename: "data", discard: "unmap" };
          await add(daemon, image({ discard: "unmap", "data-file": file }));
          await io(daemon, "n", ...commands);
          await daemon.stop();
        } else {
          const list = commands.flatMap((command) => ["-c", command]);
          await ok("qemu-io", ["-f", "qcow2", "-d", "unmap", ...list, dir.file(IMAGE)]);
        }
        await check(dir);
        const { stdout } = await run("qemu-img", ["map", "--output=json", dir.file(IMAGE)]);
        results.push([JSON.parse(stdout), Deno.statSync(data).blocks]);
      }
      assert.deepEqual(results[0], results[1]);
    },
  });
}

for (const pass of [true, false]) {
  Deno.test({
    name: `clusters that other ones take the place of give ${
      pass ? "room" : "nothing"
    } back: pass-discard-other=${pass}`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      await create(dir);
      const raw = new Uint8Array(4 * MiB);
      crypto.getRandomValues(raw.subarray(0, 65536));
      for (let at = 65536; at < raw.length; at += 65536) raw.copyWithin(at, 0, 65536);
      Deno.writeFileSync(dir.file("r.raw"), raw);
      const convert = ["convert", "-c", "-O", "qcow2", dir.file("r.raw"), dir.file(IMAGE)];
      await ok("qemu-img", convert);
      await ok("qemu-img", ["snapshot", "-c", "s", dir.file(IMAGE)]);
      await offline(dir, "write -P 2 0 4M");
      const before = await holes(dir);
      await using daemon = await start(dir);
      const options = { "pass-discard-other": pass, "pass-discard-snapshot": false };
      await add(daemon, image(options));
      const which = { device: "n", name: "s" };
      await daemon.qmp.execute("blockdev-snapshot-delete-internal-sync", which);
      // The old tables go back by this option, the snapshot's clusters by the other. The new table leaves most of its
      // cluster out.
      await daemon.stop();
      const gone = await holes(dir) - before;
      assert.equal(gone >= 65536, pass, `${gone} bytes`);
      assert.ok(gone < MiB, `${gone} bytes`);
      await check(dir);
    },
  });
}

Deno.test({
  name:
    "with subclusters a discard that keeps clusters leaves them their place and their neighbours",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await create(dir, "-o", "extended_l2=on");
    await offline(dir, "write -P 1 0 4M");
    const before = await allocated(dir);
    await using daemon = await start(dir);
    await add(daemon, image({ discard: "unmap", "discard-no-unref": true }));
    await io(
      daemon,
      "n",
      "discard 0 2M",
      "write -z -u 2097152 2k",
      "write -P 3 70k 1k",
      "read -P 0 0 70k",
      "read -P 3 70k 1k",
      "read -P 0 71k 1977k",
      "read -P 0 2M 2k",
      "read -P 1 2050k 1M",
      "flush",
    );
    await daemon.stop();
    const gone = before - await allocated(dir);
    assert.ok(gone >= 1.5 * MiB, `${gone} bytes`);
    await check(dir);
    const bytes = new Qcow2Bytes(Deno.readFileSync(dir.file(IMAGE)));
    assert.deepEqual(bytes.check(), { errors: [], leaks: 0 });
    await offline(dir, "read -P 0 0 70k", "read -P 3 70k 1k", "read -P 1 3M 1M");
    // Every cluster has the place that it had: nothing was allocated.
    const { stdout } = await run("qemu-img", ["check", "--output=json", dir.file(IMAGE)]);
    assert.equal(JSON.parse(stdout)["allocated-clusters"], 64);
  },
});

for (const pass of [true, false]) {
  Deno.test({
    name: `a deleted snapshot gives ${
      pass ? "room" : "nothing"
    } back: pass-discard-snapshot=${pass}`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      await create(dir);
      await offline(dir, "write -P 1 0 3M");
      await ok("qemu-img", ["snapshot", "-c", "s1", dir.file(IMAGE)]);
      await offline(dir, "write -P 2 0 3M");
      const before = await allocated(dir);
      await using daemon = await start(dir);
      await add(daemon, image({ "pass-discard-snapshot": pass }));
      const which = { device: "n", name: "s1" };
      await daemon.qmp.execute("blockdev-snapshot-delete-internal-sync", which);
      await daemon.stop();
      const gone = before - await allocated(dir);
      assert.equal(gone >= 2.5 * MiB, pass, `${gone} bytes`);
      await check(dir);
    },
  });
}
