/**
 * dist/qsd, whichever kind `deno task compile` can build here: from an empty cache, by several at once, and in
 * a root that holds nothing but the file and what it says it needs.
 */
import assert from "node:assert/strict";
import { Daemon, ROOT, runToEnd } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { skip } from "../harness/skips.ts";
import { lacks, run, which } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";
import { assertSameBytes } from "../harness/images.ts";

const suite = "interop/compiled";

/** Builds dist/qsd in `dir`; what the build said. */
async function build(target: string, env: Record<string, string> = {}) {
  return await run(Deno.execPath(), ["run", "-A", `${ROOT}/tools/compile.ts`, target], {
    cwd: ROOT,
    env,
    limit: 180_000,
  });
}

async function isScript(path: string): Promise<boolean> {
  using file = await Deno.open(path);
  const first = new Uint8Array(2);
  await file.read(first);
  return first[0] === 0x23 && first[1] === 0x21;
}

const exportOptions = [
  // A Worker with the program's own modules.
  "--object",
  "iothread,id=t0",
  "--blockdev",
  "driver=file,node-name=file0,filename=image",
  "--nbd-server",
  "addr.type=unix,addr.path=nbd",
  "--export",
  "type=nbd,id=export0,node-name=file0,name=disk,iothread=t0",
  // What is loaded when it is first needed, in the main thread and in a Worker.
  "--blockdev",
  "driver=file,node-name=file1,filename=image.qcow2",
  "--blockdev",
  "driver=qcow2,node-name=qcow2,file=file1",
  "--export",
  "type=nbd,id=export1,node-name=qcow2,name=qcow2,iothread=t0",
  "--blockdev",
  "driver=file,node-name=file2,filename=image",
  "--export",
  "type=vhost-user-blk,id=export2,node-name=file2,addr.type=unix,addr.path=vhost",
];

/** Makes the images that `exportOptions` name. */
async function makeImages(folder: string): Promise<void> {
  const raw = `${folder}/image`;
  await Deno.writeFile(raw, new Uint8Array(1 << 20).fill(0x71));
  const made = await run("qemu-img", ["convert", "-O", "qcow2", "-f", "raw", raw, `${raw}.qcow2`]);
  assert.equal(made.status, 0, made.stderr);
}

/** Reads the image in `folder` through every export there. */
async function readAll(folder: string): Promise<void> {
  const image = `${folder}/image`;
  for (const name of ["disk", "qcow2"]) {
    const uri = `nbd+unix:///${name}?socket=${folder}/nbd`;
    const compared = await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", uri, image]);
    assert.equal(compared.status, 0, `${name}: ${compared.stderr}${compared.stdout}`);
  }
  await using peer = await VhostPeer.attach(`${folder}/vhost`);
  const { data } = await peer.disk.call({ type: 0, sector: 8, read: 4096 });
  assertSameBytes(data, new Uint8Array(4096).fill(0x71), "a read over vhost-user");
}

/** Starts the program with an image, reads it back over NBD, asks QMP, stops it. */
async function serveOnce(program: string, env: Record<string, string>): Promise<void> {
  await using dir = TestDir.make();
  await makeImages(dir.path);
  await using daemon = await Daemon.start({ program, dir, args: exportOptions, env });
  const version = await daemon.qmp.execute("query-version") as { qemu: { major: number } };
  assert.equal(version.qemu.major, 7);
  await readAll(dir.path);
  const ended = await daemon.stop();
  assert.deepEqual([ended.status, ended.signal, ended.stderr], [0, null, ""]);
}

/** Copies files, with the shared libraries of those that have any, to the same paths under `root`. */
async function install(root: string, files: readonly string[]): Promise<void> {
  for (const file of files) {
    const { stdout } = await run("ldd", [file]);
    for (const path of [file, ...stdout.match(/\/[^\s)]+/g) ?? []]) {
      if (path.endsWith(":")) continue;
      await Deno.mkdir(`${root}${path.slice(0, path.lastIndexOf("/"))}`, { recursive: true });
      await Deno.copyFile(path, `${root}${path}`);
    }
  }
}

Deno.test({
  name: "the compiled daemon serves, from an empty cache and several at once",
  ignore: lacks(suite, "qemu-img"),
  async fn(t) {
    await using dir = TestDir.make();
    const program = dir.file("qsd");
    const built = await build(program);
    assert.equal(built.status, 0, built.stderr);
    const env = { XDG_CACHE_HOME: dir.file("cache") };

    await t.step("three first starts at once", async () => {
      await Promise.all([1, 2, 3].map(() => serveOnce(program, env)));
    });
    await t.step("again, from what the first start left", () => serveOnce(program, env));
    await t.step("where the home directory cannot be written", async () => {
      const closed = { XDG_CACHE_HOME: "/proc/nowhere", TMPDIR: dir.file("") };
      await serveOnce(program, closed);
    });
    await t.step("it calls itself as it was called", async () => {
      const name = dir.file("qemu-storage-daemon");
      await Deno.symlink(program, name);
      const ended = await runToEnd({ program: name, args: ["--blockdev", "x"], env });
      assert.equal(ended.status, 1);
      assert.match(ended.stderr, /^qemu-storage-daemon: --blockdev x: /);
    });
    await t.step({
      name: "in a root with nothing but the file and what it needs",
      ignore: lacksPrivateRoot(),
      fn: () => serveInRoot(program, dir),
    });
  },
});

/** Makes mounts of its own, puts /proc into the root "$1" and becomes the rest of the arguments there. */
const enter = 'mount -t proc proc "$1/proc" && exec chroot "$@"';

function lacksPrivateRoot(): boolean {
  if (Deno.uid() !== 0) return skip(suite, "chroot needs root");
  const tried = new Deno.Command("unshare", {
    args: ["--mount", "sh", "-c", "mount -t proc proc /proc"],
    stdout: "null",
    stderr: "null",
  });
  return !tried.outputSync().success && skip(suite, "mounting /proc into a chroot is not allowed");
}

/** As serveOnce, chrooted. The runtime needs /proc; beside it there is what is copied here. */
async function serveInRoot(program: string, dir: TestDir): Promise<void> {
  const root = dir.file("root");
  await Deno.mkdir(`${root}/tmp`, { recursive: true });
  await Deno.mkdir(`${root}/bin`, { recursive: true });
  await Deno.mkdir(`${root}/proc`);
  await Deno.copyFile(program, `${root}/bin/qsd`);
  if (await isScript(program)) {
    const tools = ["sh", "dd", "mkdir", "chmod", "mv", "rm"].map((name) =>
      Deno.realPathSync(which(name)!)
    );
    await install(root, [...tools, Deno.execPath()]);
    // The runtime is to come out of the file.
    await Deno.remove(`${root}${Deno.execPath()}`);
    const sh = Deno.realPathSync(which("sh")!);
    if (sh !== "/bin/sh") await Deno.symlink(sh, `${root}/bin/sh`).catch(() => {});
  } else {
    await install(root, [program]);
  }
  await makeImages(root);
  const args = [
    root,
    "/bin/qsd",
    ...exportOptions.map((one) =>
      one.replace("=image", "=/image")
        .replace(/path=(?=nbd|vhost)/, "path=/")
    ),
  ];
  const child = new Deno.Command("unshare", {
    args: ["--mount", "sh", "-c", enter, "enter", ...args, "--pidfile", "/pid"],
    clearEnv: true,
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" },
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  const errors = new Response(child.stderr).text();
  let over: Deno.CommandStatus | undefined;
  child.status.then((status) => over = status);
  while (over === undefined && !(await Deno.stat(`${root}/pid`).catch(() => undefined))?.size) {
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  if (over !== undefined) assert.fail(`it ended with ${over.code}: ${await errors}`);
  const read = await readAll(root).then(() => "read", (error) => error);
  child.kill("SIGTERM");
  const status = await child.status;
  assert.deepEqual([status.code, await errors], [0, ""]);
  assert.equal(read, "read");
}

Deno.test("a DENORT_BIN that is not there is refused by its name", async () => {
  await using dir = TestDir.make();
  const built = await build(dir.file("qsd"), { DENORT_BIN: "/nowhere/denort" });
  assert.equal(built.status, 1);
  assert.equal(built.stderr, "compile: DENORT_BIN is /nowhere/denort, which is no file\n");
});

Deno.test("a DENORT_BIN that is another program is refused, and nothing is left of the build", async () => {
  await using dir = TestDir.make();
  const target = dir.file("qsd");
  const built = await build(target, { DENORT_BIN: Deno.execPath() });
  assert.equal(built.status, 1);
  assert.match(
    built.stderr,
    /^compile: what was built with .* does not run as qsd; it must be denort/,
  );
  await assert.rejects(Deno.stat(target), Deno.errors.NotFound);
});
