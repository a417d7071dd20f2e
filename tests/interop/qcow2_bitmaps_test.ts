/** Persistent dirty bitmaps in qcow2 images: what one program stores the other finds, and neither believes a crash. */
import assert from "node:assert/strict";
import { Daemon, ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { lacks, ok, run, which } from "../harness/tools.ts";

const ignore = lacks("interop/qcow2-bitmaps", "qemu-img", "qemu-io", ORIGINAL);
const node = (more = "") =>
  `driver=qcow2,node-name=n,discard=unmap,file.driver=file,file.filename=d.qcow2${more}`;

type Info = { name: string; count: number; recording: boolean; inconsistent?: boolean };
type Program = "qsd" | "original";

async function start(dir: TestDir, program: Program, more = ""): Promise<Daemon> {
  const args = ["--blockdev", node(more), "--nbd-server", "addr.type=unix,addr.path=nbd"];
  const path = program === "original" ? { program: which(ORIGINAL)! } : {};
  return await Daemon.start({ dir, args, ...path });
}
const add = (daemon: Daemon, name: string, more: Record<string, unknown> = {}) =>
  daemon.qmp.execute("block-dirty-bitmap-add", { node: "n", name, persistent: true, ...more });
async function bitmaps(daemon: Daemon): Promise<Info[]> {
  const nodes = await daemon.qmp.execute("query-named-block-nodes");
  const [own] = nodes.filter((one: { "node-name": string }) => one["node-name"] === "n");
  const list = (own["dirty-bitmaps"] ?? []) as Info[];
  return [...list].sort((a, b) => a.name < b.name ? -1 : 1);
}
async function sums(daemon: Daemon): Promise<Record<string, string>> {
  const sums: Record<string, string> = {};
  for (const { name, inconsistent } of await bitmaps(daemon)) {
    if (inconsistent) continue;
    const args = { node: "n", name };
    const { sha256 } = await daemon.qmp.execute("x-debug-block-dirty-bitmap-sha256", args);
    sums[name] = sha256;
  }
  return sums;
}
async function write(daemon: Daemon, ...commands: string[]): Promise<void> {
  const share = { type: "nbd", id: "e", name: "e", "node-name": "n", writable: true };
  await daemon.qmp.execute("block-export-add", share);
  const list = commands.flatMap((command) => ["-c", command]);
  await ok("qemu-io", ["-f", "raw", ...list, daemon.uri("e")]);
  await daemon.qmp.execute("block-export-del", { id: "e" });
  await daemon.qmp.event("BLOCK_EXPORT_DELETED");
}
const check = (dir: TestDir) => ok("qemu-img", ["check", dir.file("d.qcow2")]);
async function stored(dir: TestDir): Promise<{ name: string; flags: string[] }[]> {
  const { stdout } = await run("qemu-img", ["info", "-U", "--output=json", dir.file("d.qcow2")]);
  return JSON.parse(stdout)["format-specific"].data.bitmaps ?? [];
}
const image = (dir: TestDir, size = "64M", ...options: string[]) =>
  ok("qemu-img", ["create", "-q", "-f", "qcow2", ...options, dir.file("d.qcow2"), size]);

for (const options of [[], ["-o", "cluster_size=512"], ["-o", "refcount_bits=1"]]) {
  for (const [first, second] of [["qsd", "original"], ["original", "qsd"]] as const) {
    Deno.test({
      name: `what ${first} stores ${second} finds, adds to and stores again (${options.join(" ")})`,
      ignore,
      fn: async () => {
        await using dir = TestDir.make();
        await image(dir, "64M", ...options);
        let last: Record<string, string>;
        {
          await using daemon = await start(dir, first);
          await add(daemon, "a", { granularity: 4096 });
          await add(daemon, "full", { granularity: 512 });
          await add(daemon, "off", { disabled: true });
          await daemon.qmp.execute("block-dirty-bitmap-add", { node: "n", name: "gone" });
          await write(daemon, "write 0 4k", "write 10M 100k", "write -z 60M 4M", "discard 30M 1M");
          await daemon.qmp.execute("block-dirty-bitmap-disable", { node: "n", name: "a" });
          await write(daemon, "write 0 64M");
          last = await sums(daemon);
          delete last["gone"];
          await daemon.stop();
        }
        await check(dir);
        assert.deepEqual((await stored(dir)).map(({ name }) => name).sort(), ["a", "full", "off"]);
        {
          await using daemon = await start(dir, second);
          assert.deepEqual(await sums(daemon), last);
          assert.deepEqual(
            (await bitmaps(daemon)).map(({ name, recording }) => [name, recording]),
            [["a", false], ["full", true], ["off", false]],
          );
          assert.ok((await stored(dir)).every(({ flags }) => flags.includes("in-use")));
          await daemon.qmp.execute("block-dirty-bitmap-clear", { node: "n", name: "full" });
          await daemon.qmp.execute("block-dirty-bitmap-remove", { node: "n", name: "off" });
          await write(daemon, "write 5M 1M");
          last = await sums(daemon);
          await daemon.stop();
        }
        await check(dir);
        await using daemon = await start(dir, first);
        assert.deepEqual(await sums(daemon), last);
      },
    });
  }
}

Deno.test({
  name:
    "after a crash bitmaps are inconsistent: they are listed, can only be removed, and stay so until then",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    await ok("qemu-img", ["bitmap", "--add", dir.file("d.qcow2"), "a"]);
    await ok("qemu-img", ["bitmap", "--add", dir.file("d.qcow2"), "b"]);
    {
      await using daemon = await start(dir, "qsd");
      await write(daemon, "write 0 1M", "flush");
      daemon.kill("SIGKILL");
      await daemon.end();
      for (const left of ["pid", "qmp", "nbd"]) Deno.removeSync(dir.file(left));
    }
    await check(dir);
    for (const program of ["original", "qsd"] as const) {
      await using daemon = await start(dir, program);
      assert.deepEqual(
        (await bitmaps(daemon)).map((
          { name, count, recording, inconsistent },
        ) => [name, count, recording, inconsistent]),
        [["a", 0, false, true], ["b", 0, false, true]],
      );
      const a = { node: "n", name: "a" };
      const unusable = "Bitmap 'a' is inconsistent and cannot be used";
      assert.equal(await daemon.qmp.refused("block-dirty-bitmap-clear", a), unusable);
      const resize = { "node-name": "n", size: 1 << 27 };
      assert.match(await daemon.qmp.refused("block_resize", resize), /inconsistent/);
      await daemon.stop();
    }
    {
      await using daemon = await start(dir, "qsd");
      await daemon.qmp.execute("block-dirty-bitmap-remove", { node: "n", name: "a" });
      await daemon.stop();
    }
    await check(dir);
    assert.deepEqual((await stored(dir)).map(({ name }) => name), ["b"]);
  },
});

Deno.test({
  name: "a read-only node shows its bitmaps and changes none; a reopen for writing takes them up",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    await ok("qemu-img", ["bitmap", "--add", dir.file("d.qcow2"), "a"]);
    await using daemon = await start(dir, "qsd", ",read-only=on");
    const a = { node: "n", name: "a" };
    const refused = "Bitmap 'a' is readonly and cannot be modified";
    assert.equal(await daemon.qmp.refused("block-dirty-bitmap-clear", a), refused);
    assert.equal(await daemon.qmp.refused("block-dirty-bitmap-remove", a), refused);
    assert.deepEqual((await stored(dir))[0]!.flags, ["auto"]);
    const reopen = (readOnly: boolean) =>
      daemon.qmp.execute("blockdev-reopen", {
        options: [{
          driver: "qcow2",
          "node-name": "n",
          "read-only": readOnly,
          file: { driver: "file", filename: "d.qcow2" },
        }],
      });
    await reopen(false);
    assert.deepEqual((await stored(dir))[0]!.flags.sort(), ["auto", "in-use"]);
    await write(daemon, "write 0 1M");
    await reopen(true);
    assert.deepEqual((await stored(dir))[0]!.flags, ["auto"]);
    assert.equal(await daemon.qmp.refused("block-dirty-bitmap-clear", a), refused);
    assert.equal((await bitmaps(daemon))[0]!.count, 1 << 20);
    await daemon.stop();
    await check(dir);
  },
});

Deno.test({
  name: "an image that is opened in vain keeps its bitmaps",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    await ok("qemu-img", ["bitmap", "--add", dir.file("d.qcow2"), "a"]);
    await using daemon = await Daemon.start({ dir });
    const file = { driver: "qcow2", file: { driver: "file", filename: "d.qcow2" } };
    const window = { driver: "raw", "node-name": "r", offset: 1 << 30, file };
    assert.match(await daemon.qmp.refused("blockdev-add", window), /^Offset .* cannot be greater/);
    assert.deepEqual((await stored(dir))[0]!.flags, ["auto"]);
    await check(dir);
  },
});

Deno.test({
  name: "bitmaps are handed over with their image, and follow its length",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    await using daemon = await start(dir, "qsd");
    await add(daemon, "a", { granularity: 512 });
    await write(daemon, "write 1M 1M");
    await daemon.qmp.execute("blockdev-set-active", { active: false });
    assert.deepEqual(await bitmaps(daemon), []);
    {
      await using other = await Daemon.start({
        dir,
        program: which(ORIGINAL)!,
        args: ["--blockdev", node(), "--nbd-server", "addr.type=unix,addr.path=nbd2"],
        qmp: false,
        pidfile: "other.pid",
      });
      await other.stop();
    }
    await daemon.qmp.execute("blockdev-set-active", { active: true });
    assert.equal((await bitmaps(daemon))[0]!.count, 1 << 20);
    await daemon.qmp.execute("block_resize", { "node-name": "n", size: 1 << 28 });
    await write(daemon, "write 200M 1M");
    await daemon.stop();
    await check(dir);
    await using original = await start(dir, "original");
    assert.equal((await bitmaps(original))[0]!.count, 2 << 20);
  },
});

/** The entries of an image's directory of bitmaps. */
const directory = (bytes: Uint8Array<ArrayBuffer>) => new Qcow2Bytes(bytes).bitmaps()!.entries;

Deno.test({
  name: "names of bitmaps that are not UTF-8 stay as they are in the image, and can be used",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    for (
      const name of [
        "d\\344ta",
        "\\357\\273\\277b",
        "plain",
        "\\377\\376\\375\\374\\373\\372\\371\\370",
      ]
    ) {
      await ok("sh", ["-c", `qemu-img bitmap --add ${dir.file("d.qcow2")} "$(printf '${name}')"`]);
    }
    const names = () => {
      const bytes = Deno.readFileSync(dir.file("d.qcow2"));
      return directory(bytes).map(({ at }) => {
        const length = new DataView(bytes.buffer).getUint16(at + 18);
        return bytes.slice(at + 24, at + 24 + length).toHex();
      }).sort();
    };
    const before = names();
    {
      await using daemon = await start(dir, "qsd");
      const shown = (await bitmaps(daemon)).map(({ name }) => name).sort();
      const escaped = "\\xff\\xfe\\xfd\\xfc\\xfb\\xfa\\xf9\\xf8";
      assert.deepEqual(shown, [escaped, "d\\xe4ta", "plain", "\ufeffb"]);
      assert.deepEqual(names(), before, "while it is open");
      await daemon.qmp.execute("block-dirty-bitmap-remove", { node: "n", name: escaped });
      await write(daemon, "write 1M 1M");
      await daemon.stop();
    }
    await check(dir);
    assert.deepEqual(names(), before.filter((name) => !name.startsWith("ff")));
    await using daemon = await start(dir, "original");
    assert.deepEqual((await bitmaps(daemon)).map(({ count }) => count), [
      1 << 20,
      1 << 20,
      1 << 20,
    ]);
  },
});

Deno.test({
  name: "an image whose bitmaps cannot be taken in is not changed",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    for (const name of ["a", "b", "c"]) {
      await ok("qemu-img", ["bitmap", "--add", dir.file("d.qcow2"), name]);
    }
    await using daemon = await Daemon.start({ dir });
    const options = {
      driver: "qcow2",
      "node-name": "n",
      file: { driver: "file", filename: "d.qcow2" },
    };
    const whole = Deno.readFileSync(dir.file("d.qcow2"));
    const twice = whole.slice();
    twice[directory(twice).find(({ name }) => name === "b")!.at + 24] = 0x61;
    Deno.writeFileSync(dir.file("d.qcow2"), twice);
    const exists = "Bitmap already exists: a";
    assert.equal(await daemon.qmp.refused("blockdev-add", options), exists);
    assert.deepEqual(Deno.readFileSync(dir.file("d.qcow2")), twice);
    // A node that is inactive has none of the image's, and may have got one of that name.
    Deno.writeFileSync(dir.file("d.qcow2"), whole);
    await daemon.qmp.execute("blockdev-add", { ...options, active: false });
    await daemon.qmp.execute("block-dirty-bitmap-add", { node: "n", name: "b" });
    const activate = { "node-name": "n", active: true };
    assert.match(await daemon.qmp.refused("blockdev-set-active", activate), /already exists: b/);
    assert.deepEqual(Deno.readFileSync(dir.file("d.qcow2")), whole);
    await daemon.qmp.execute("block-dirty-bitmap-remove", { node: "n", name: "b" });
    await daemon.qmp.execute("blockdev-set-active", activate);
    assert.equal((await bitmaps(daemon)).length, 3);
  },
});

Deno.test({
  name: "an inconsistent bitmap with a broken table can be removed, too; its clusters are leaked",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir);
    for (const name of ["a", "b"]) {
      await ok("qemu-img", ["bitmap", "--add", dir.file("d.qcow2"), name]);
    }
    {
      await using daemon = await start(dir, "qsd");
      daemon.kill("SIGKILL");
      await daemon.end();
      for (const left of ["pid", "qmp", "nbd"]) Deno.removeSync(dir.file(left));
    }
    const bytes = Deno.readFileSync(dir.file("d.qcow2"));
    const view = new DataView(bytes.buffer);
    const { at } = directory(bytes).find(({ name }) => name === "a")!;
    view.setBigUint64(Number(view.getBigUint64(at)), 0x1feen);
    Deno.writeFileSync(dir.file("d.qcow2"), bytes);
    await using daemon = await start(dir, "qsd");
    await daemon.qmp.execute("block-dirty-bitmap-remove", { node: "n", name: "a" });
    assert.deepEqual((await bitmaps(daemon)).map(({ name }) => name), ["b"]);
    assert.match((await daemon.stop()).stderr, /clusters of bitmap 'a' are lost/);
    assert.deepEqual((await stored(dir)).map(({ name }) => name), ["b"]);
    const { stdout } = await run("qemu-img", ["check", dir.file("d.qcow2")]);
    assert.match(stdout, /^1 leaked clusters were found/m);
  },
});

Deno.test({
  name: "an image does not grow beyond what its bitmaps can be stored for",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await image(dir, "2T");
    await using daemon = await start(dir, "qsd");
    await add(daemon, "fine", { granularity: 512 });
    await add(daemon, "coarse");
    const resize = { "node-name": "n", size: 2 ** 41 + 512 };
    const refused = "Bitmap 'fine' doesn't satisfy the constraints: " +
      "Too much space will be occupied by the bitmap. Use larger granularity";
    assert.equal(await daemon.qmp.refused("block_resize", resize), refused);
    await daemon.qmp.execute("block-dirty-bitmap-remove", { node: "n", name: "fine" });
    await daemon.qmp.execute("block_resize", resize);
    await daemon.stop();
    await check(dir);
    assert.deepEqual((await stored(dir)).map(({ name }) => name), ["coarse"]);
  },
});
