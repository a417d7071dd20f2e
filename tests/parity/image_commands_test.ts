/** `qsd snapshot` and `qsd measure` beside qemu-img: words, status, and what is left of the image. */
import assert from "node:assert/strict";
import { ON_ORIGINAL, subject } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { skip } from "../harness/skips.ts";
import { holdImage, lacks, ok, run, which } from "../harness/tools.ts";

const suite = "qsd snapshot and qsd measure";
const ignore = lacks(suite, "qemu-img", "qemu-io") ||
  (ON_ORIGINAL && skip(suite, "the original daemon has no such commands"));

const own = () => {
  const name = subject();
  return name.includes("/") ? name : which(name)!;
};

/** Both programs' names are the same, and so are their hints; what the original says of probing is left out. */
function plain(text: string): string[] {
  return text.replace(/^(qemu-img|qsd)(?=: )/gm, "PROGRAM")
    .replaceAll(/Try '\S+( \w+)? --help'/g, "Try 'PROGRAM --help'")
    .split("\n")
    .filter((line) => !/^(WARNING: Image format was| {9})/.test(line));
}

/** Times of snapshots that were taken just now. */
const timeless = (text: string) => text.replaceAll(/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, "TIME");

async function observe(dir: string, command: string, args: readonly string[]): Promise<unknown> {
  const { status, stdout, stderr } = await run(command, args, { cwd: dir });
  const out = stdout.startsWith("{") ? JSON.parse(stdout) : timeless(stdout).split("\n");
  return { args, status, out, stderr: plain(stderr) };
}

async function prepare(dir: TestDir): Promise<void> {
  const file = (name: string) => dir.file(name);
  const io = (name: string, ...commands: string[]) =>
    ok("qemu-io", ["-f", "qcow2", ...commands.flatMap((one) => ["-c", one]), file(name)]);
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", file("base.qcow2"), "3M"]);
  await io("base.qcow2", "write -P 1 100k 900k");
  const over = ["-b", file("base.qcow2"), "-F", "qcow2", file("a.qcow2"), "5M"];
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", ...over]);
  await io("a.qcow2", "write -P 2 1500k 7k", "write -z 128k 64k");
  await ok("qemu-img", ["snapshot", "-c", "7", file("a.qcow2")]);
  await io("a.qcow2", "write -P 3 0 1M");
  await ok("qemu-img", ["snapshot", "-c", "1", file("a.qcow2")]);
  await ok("qemu-img", ["snapshot", "-c", "a very long name of a snapshot", file("a.qcow2")]);
  await ok("qemu-img", ["bitmap", "--add", file("a.qcow2"), "b0"]);
  await ok("qemu-img", ["bitmap", "--add", "-g", "512", file("a.qcow2"), "b1"]);
  const data = ["-o", `data_file=${file("d.raw")}`, file("data.qcow2"), "1M"];
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", ...data]);
  const old = ["-o", "compat=0.10", file("old.qcow2"), "1M"];
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", ...old]);
  Deno.writeFileSync(file("r.raw"), new Uint8Array(70000).fill(1));
}

/** One after the other on one image. */
const steps: readonly (readonly string[])[] = [
  ["-l", "a.qcow2"],
  ["a.qcow2"],
  ["-c", "new", "a.qcow2"],
  ["-c", "new", "a.qcow2"],
  ["-c", "", "a.qcow2"],
  ["-l", "a.qcow2"],
  ["-ql", "a.qcow2"],
  ["-U", "-l", "a.qcow2"],
  ["-d", "3", "a.qcow2"],
  ["-d", "new", "a.qcow2"],
  ["-a", "1", "a.qcow2"],
  ["bitmap", "--remove", "a.qcow2", "b0"],
  ["bitmap", "--remove", "a.qcow2", "b1"],
  ["-a", "1", "a.qcow2"],
  ["-a", "7", "a.qcow2"],
  ["-a", "nobody", "a.qcow2"],
  ["-d", "1", "a.qcow2"],
  ["-l", "a.qcow2"],
  ["-l", "-c", "x", "a.qcow2"],
  ["-c", "x", "-c", "y", "a.qcow2"],
  ["-U", "-c", "x", "a.qcow2"],
  [],
  ["-l"],
  ["-c"],
  ["-l", "a.qcow2", "b.qcow2"],
  ["-x", "a.qcow2"],
  ["-l", "nobody"],
  ["-l", "r.raw"],
  ["-c", "x", "r.raw"],
  ["-a", "x", "r.raw"],
  ["-d", "x", "r.raw"],
  ["-l", "data.qcow2"],
  ["-c", "x", "data.qcow2"],
  ["-c", "x", "old.qcow2"],
  ["-l", "old.qcow2"],
  ["--image-opts", "-l", "driver=qcow2,file.filename=a.qcow2"],
  ["--image-opts", "-c", "by options", "driver=qcow2,file.filename=a.qcow2,lazy-refcounts=on"],
  ["-l", "--image-opts", "file.filename=a.qcow2"],
  ["--image-opts", "-a", "7", "file.filename=a.qcow2"],
  ["--image-opts", "-d", "by options", "file.filename=a.qcow2"],
  ["--image-opts", "-c", "x", "file.filename=a.qcow2,read-only=on"],
  ["--image-opts", "-l", "a.qcow2"],
  ["--image-opts", "-l", "driver=raw,file.filename=r.raw"],
  ["--image-opts", "-l", "driver=file,filename=r.raw"],
  ["--image-opts", "-l", "driver=qcow2,file.filename=none"],
  ["--object", "secret,id=s,data=abc", "-l", "a.qcow2"],
  ["--object", "bogus,id=s", "-l", "a.qcow2"],
];

Deno.test({
  name: "qsd snapshot says and returns what qemu-img snapshot does, and leaves the same contents",
  ignore,
  fn: async () => {
    await using theirs = TestDir.make();
    await using ours = TestDir.make();
    await prepare(theirs);
    await prepare(ours);
    for (const step of steps) {
      if (step[0] === "bitmap") {
        for (const { path } of [theirs, ours]) await ok("qemu-img", step, { cwd: path });
        continue;
      }
      const expected = await observe(theirs.path, "qemu-img", ["snapshot", ...step]);
      assert.deepEqual(await observe(ours.path, own(), ["snapshot", ...step]), expected);
      const images = [theirs.file("a.qcow2"), ours.file("a.qcow2")];
      await ok("qemu-img", ["compare", "-q", ...images]);
    }
    for (const name of ["a.qcow2", "old.qcow2"]) {
      await ok("qemu-img", ["check", "-q", ours.file(name)]);
    }
  },
});

const o = (options: string) => ["-O", "qcow2", "-o", options, "--size", "1G"];
const measured: readonly (readonly string[])[] = [
  ["--size", "1G"],
  ["--size", "513"],
  ["--size", "0", "-O", "qcow2"],
  ["--size", "1P", "-O", "qcow2"],
  ["--size", "4P", "-O", "qcow2"],
  ["--size", "1x"],
  ["--size", "8E"],
  ["--size", "1.5M", "--output=json", "-O", "qcow2"],
  o("cluster_size=4k"),
  o("cluster_size=3k"),
  o("refcount_bits=1,extended_l2=on"),
  o("refcount_bits=3"),
  o("refcount_bits=8,compat=0.10"),
  o("compat=0.9"),
  o("extended_l2=on,cluster_size=4k"),
  o("preallocation=full"),
  o("backing_file=a,,b,preallocation=metadata"),
  ["-O", "qcow2", "-o", "cluster_size=64k", "-o", "cluster_size=4k", "--size", "1G"],
  ["-O", "nonsense", "--size", "1"],
  [],
  ["a.qcow2", "--size", "1"],
  ["a.qcow2", "base.qcow2"],
  ["nobody"],
  ["a.qcow2"],
  ["-O", "qcow2", "a.qcow2"],
  ["-O", "qcow2", "a.qcow2", "--output", "json"],
  ["-O", "qcow2", "-o", "cluster_size=512", "a.qcow2"],
  ["-O", "qcow2", "-o", "cluster_size=2M", "a.qcow2"],
  ["-O", "qcow2", "-o", "compat=0.10", "a.qcow2"],
  ["-O", "qcow2", "-o", "preallocation=falloc", "a.qcow2"],
  ["-O", "qcow2", "-U", "-f", "raw", "r.raw"],
  ["-O", "raw", "r.raw"],
  ["-O", "qcow2", "old.qcow2"],
  ["-O", "qcow2", "-l", "7", "a.qcow2"],
  ["-O", "qcow2", "-l", "snapshot.name=7", "a.qcow2"],
  ["-O", "qcow2", "-l", "nobody", "a.qcow2"],
  ["--output=xml", "--size", "1"],
  ["--image-opts", "driver=qcow2,file.filename=a.qcow2"],
  ["--image-opts", "driver=qcow2,file.filename=a.qcow2", "-O", "qcow2"],
  ["--image-opts", "file.filename=a.qcow2", "-O", "qcow2", "-l", "7"],
  ["--image-opts", "driver=file,filename=r.raw", "-O", "qcow2"],
  ["--image-opts", "driver=raw,size=512,file.filename=r.raw", "-O", "qcow2"],
  ["--image-opts", "r.raw"],
  ["-f", "raw", "--image-opts", "driver=raw,file.filename=r.raw"],
  ["--image-opts", "--size", "1M"],
  ["-f", "raw", "--size", "1M"],
  ["-f", "raw", "--size", "1x"],
  ["-l", "7", "--size", "8E"],
  ["-l", "", "--image-opts", "driver=file,filename=r.raw"],
  ["-l", "7", "-O", "qcow2", "-f", "raw", "r.raw"],
  ["-l", "7", "--size", "1M"],
  ["--object", "secret,id=s,data=abc", "r.raw"],
  ["--object", "iothread,id=s", "r.raw"],
];

Deno.test({
  name: "qsd measure says and returns what qemu-img measure does",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await prepare(dir);
    for (const args of measured) {
      const expected = await observe(dir.path, "qemu-img", ["measure", ...args]);
      assert.deepEqual(await observe(dir.path, own(), ["measure", ...args]), expected);
    }
  },
});

Deno.test({
  name: "qsd snapshot keeps off images that somebody writes to",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await prepare(dir);
    await using _holder = await holdImage(dir.file("a.qcow2"));
    for (const args of [["-l"], ["-c", "x"], ["-U", "-l"]]) {
      const all = ["snapshot", ...args, "a.qcow2"];
      const expected = await observe(dir.path, "qemu-img", all);
      assert.deepEqual(await observe(dir.path, own(), all), expected);
    }
  },
});
