/** `qsd check` beside `qemu-img check`: words, status, locks, and what is left of the image. */
import assert from "node:assert/strict";
import { ON_ORIGINAL, subject } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { skip } from "../harness/skips.ts";
import { holdImage, lacks, ok, run, which } from "../harness/tools.ts";
import { ImageBytes } from "./check_images.ts";

const suite = "qsd check";

/** A command line, on an image that `edit` has changed. */
interface Case {
  readonly name: string;
  readonly args: readonly string[];
  readonly edit?: (image: ImageBytes) => void;
  /** The image's bytes are compared, too. */
  readonly bytes?: boolean;
}

const IMAGE = "a.qcow2";
const block = (image: ImageBytes) => Number(image.word(image.refcountTable));
const l2 = (image: ImageBytes) => image.l2Tables()[0]!;
/** The count of cluster 3, the L1 table, is 5. */
const leak = (image: ImageBytes) => image.view.setUint16(block(image) + 6, 5);
/** The copied flag of the first cluster is missing. */
const flag = (image: ImageBytes) => image.put(l2(image), image.word(l2(image)) ^ 1n << 63n);
const reserved = (image: ImageBytes) => image.put(l2(image), image.word(l2(image)) | 1n << 60n);
const noCounts = (image: ImageBytes) => image.put(image.refcountTable, 0n);
const badBlock = (image: ImageBytes) =>
  image.put(image.refcountTable, image.word(image.refcountTable) | 512n);

const outputs = [[], ["--output=json"], ["-q"], ["-q", "--output=json"]] as const;
const faults: Readonly<Record<string, (image: ImageBytes) => void>> = {
  clean: () => {},
  leak,
  flag,
  reserved,
  "leak and reserved bits": (image) => {
    leak(image);
    reserved(image);
  },
  "no counts": noCounts,
  "dirty": (image) => image.put(72, 1n),
  "corrupt": (image) => image.put(72, 2n),
  "snapshot table too far": (image) => image.put(64, 1n << 40n),
  "snapshot table between clusters": (image) => image.put(64, 512n),
  "too many snapshots": (image) => image.put32(60, 65537),
  "too much extra data": (image) => image.put32(image.snapshots + 36, 1040),
  "incomplete snapshot": (image) => image.put32(image.snapshots + 36, 8),
};

/** What is mended by overwriting it, so that the images must be the same afterwards. */
const IN_PLACE = [
  "clean",
  "leak",
  "flag",
  "reserved",
  "leak and reserved bits",
  "dirty",
  "corrupt",
];

/** Repairs that are the same: elsewhere the original gives away what snapshots have, or fails to write a new table. */
const repairs = (name: string): string[] => {
  if (name === "snapshot table too far") return [];
  return name === "too many snapshots" ? ["leaks"] : ["leaks", "all"];
};

const cases: Case[] = [
  ...Object.entries(faults).flatMap(([name, edit]) => [
    ...outputs.slice(0, name === "leak" ? 4 : 2).map((output): Case => ({
      name: `${name} ${output.join(" ")}`,
      args: [...output, IMAGE],
      edit,
    })),
    ...repairs(name).map((fix): Case => ({
      name: `${name}, repair of ${fix}`,
      args: ["-r", fix, IMAGE],
      edit,
      bytes: IN_PLACE.includes(name),
    })),
  ]),
  { name: "repair as JSON", args: ["-rall", "--output=json", IMAGE], edit: leak },
  { name: "block between clusters", args: [IMAGE], edit: badBlock },
  { name: "block between clusters as JSON", args: ["--output", "json", IMAGE], edit: badBlock },
  { name: "block between clusters, repair of leaks", args: ["-r", "leaks", IMAGE], edit: badBlock },
  { name: "grouped letters", args: ["-qU", IMAGE], edit: leak },
  { name: "options after the image", args: [IMAGE, "-f", "qcow2", "-U"] },
  { name: "raw", args: ["-f", "raw", IMAGE] },
  { name: "probed raw", args: ["b.raw"] },
  { name: "probed raw as JSON", args: ["--output=json", "b.raw"] },
  { name: "not qcow2", args: ["-f", "qcow2", "b.raw"] },
  { name: "unknown format", args: ["-f", "nonsense", IMAGE] },
  { name: "missing file", args: ["nobody"] },
  { name: "folder", args: ["."] },
  { name: "no image", args: [] },
  { name: "two images", args: [IMAGE, IMAGE] },
  { name: "unknown option", args: ["--nonsense", IMAGE] },
  { name: "unknown letter", args: ["-x", IMAGE] },
  { name: "unknown output", args: ["--output=xml", IMAGE] },
  { name: "unknown repair", args: ["-r", "some", IMAGE] },
  { name: "repair without a value", args: [IMAGE, "-r"] },
  { name: "repair of an image that is not locked", args: ["-U", "-r", "all", IMAGE] },
  { name: "unknown feature", args: [IMAGE], edit: (image) => image.put(72, 1n << 40n) },
  {
    name: "marked as having a data file, repair of leaks",
    args: ["-r", "leaks", IMAGE],
    edit: (image) => image.put(72, 4n),
    bytes: true,
  },
  { name: "raw data, and no data file", args: [IMAGE], edit: (image) => image.put(88, 2n) },
  { name: "L1 table too small", args: [IMAGE], edit: (image) => image.put32(36, 0) },
  { name: "L1 table too large", args: [IMAGE], edit: (image) => image.put32(36, 0x400001) },
  { name: "file: before the name", args: [`file:${IMAGE}`] },
  ...[
    `driver=qcow2,file.filename=${IMAGE}`,
    `driver=qcow2,file.driver=file,file.filename=${IMAGE},l2-cache-size=65536`,
    `file.filename=${IMAGE}`,
    "file.filename=b.raw",
    `filename=${IMAGE}`,
    IMAGE,
    "",
    `driver=file,filename=${IMAGE}`,
    "driver=qcow2,file.filename=b.raw",
    `driver=nothing,file.filename=${IMAGE}`,
    `driver=qcow2,file.filename=${IMAGE},bogus=1`,
    `driver=qcow2,file.filename=${IMAGE},file.bogus=1`,
    "driver=qcow2",
    "driver=qcow2,file=abc",
    "driver=qcow2,file.filename=nofile",
    `driver=qcow2,file.driver=bogus,file.filename=${IMAGE}`,
    `driver=qcow2,file.filename=${IMAGE},file.filename=b`,
    `driver=qcow2,file.filename=${IMAGE},force-share=on`,
    `driver=qcow2,file.filename=${IMAGE},read-only=on`,
    `driver=qcow2,file.filename=${IMAGE},node-name=x,file.node-name=y`,
    "driver=raw,file.filename=b.raw",
    `driver=raw,offset=512,file.driver=qcow2,file.file.filename=${IMAGE}`,
    `driver=qcow2,file.driver=host_device,file.filename=${IMAGE}`,
  ].map((image): Case => ({ name: `options ${image}`, args: ["--image-opts", image], edit: leak })),
  {
    name: "repair of options",
    args: ["-rall", "--image-opts", `driver=qcow2,file.filename=${IMAGE}`],
    edit: leak,
    bytes: true,
  },
  {
    name: "repair of options that are read-only",
    args: ["-rall", "--image-opts", `driver=qcow2,file.filename=${IMAGE},read-only=on`],
    edit: leak,
    bytes: true,
  },
  {
    name: "options as JSON",
    args: ["--output=json", `driver=qcow2,file.filename=${IMAGE}`, "--image-opts"],
  },
  {
    name: "options and a format",
    args: ["-f", "qcow2", "--image-opts", `driver=qcow2,file.filename=${IMAGE}`],
  },
  ...[
    ["secret,id=s,data=abc"],
    ['{"qom-type":"secret","id":"x","data":"y"}'],
    ["secret,id=s,data=abc", "secret,id=s,data=abc"],
    ["secret,data=abc"],
    ["secret,id=1,data=abc"],
    ["secret,id=s"],
    ["secret,id=s,data=a,foo=1"],
    ["bogus,id=s"],
    ["iothread,id=a"],
    ["iothread"],
    ["iothread,id=a,foo=1"],
    ["secret,help"],
  ].map((objects): Case => ({
    name: `objects ${objects.join(" ")}`,
    args: [...objects.flatMap((one) => ["--object", one]), IMAGE],
  })),
];

/** Lines once each, in order: what many tables share is said once here, and for each of them there. */
function lines(text: string): string[] {
  const own = text.replace(/^(qemu-img|qsd)(?=: )/gm, "PROGRAM").replaceAll(
    /Try '\S+( check)? --help'/g,
    "Try 'PROGRAM --help'",
  );
  // What the original's cache says beside its check.
  const ours = own.split("\n").filter((line) => !line.startsWith("qcow2: "));
  return [...new Set(ours)];
}

async function prepare(dir: TestDir): Promise<Uint8Array> {
  const path = dir.file(IMAGE);
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "256k"]);
  await ok("qemu-io", ["-c", "write 0 20k", "-c", "write -z 64k 8k", path]);
  await ok("qemu-img", ["snapshot", "-c", "s1", path]);
  await ok("qemu-io", ["-c", "write 0 4k", path]);
  Deno.writeFileSync(dir.file("b.raw"), new Uint8Array(65536));
  return Deno.readFileSync(path);
}

async function observe(
  dir: TestDir,
  program: readonly string[],
  each: Case,
  bytes: Uint8Array,
): Promise<unknown> {
  const image = new ImageBytes(bytes.slice());
  each.edit?.(image);
  Deno.writeFileSync(dir.file(IMAGE), image.bytes);
  const [command, ...words] = program;
  const args = [...words, ...each.args];
  const { status, stdout, stderr } = await run(command!, args, { cwd: dir.path });
  const seen = { status, stdout: stdout.split("\n"), stderr: lines(stderr) };
  if (stdout.startsWith("{")) Object.assign(seen, { stdout: JSON.parse(stdout) });
  return each.bytes ? { ...seen, bytes: Deno.readFileSync(dir.file(IMAGE)) } : seen;
}

const programs = () => {
  const own = subject();
  return [["qemu-img", "check"], [own.includes("/") ? own : which(own)!, "check"]] as const;
};
const ignore = lacks(suite, "qemu-img", "qemu-io") ||
  (ON_ORIGINAL && skip(suite, "the original daemon checks no images"));

Deno.test({
  name: "qsd check says, does and returns what qemu-img check does",
  ignore,
  fn: async (test) => {
    await using dir = TestDir.make();
    const bytes = await prepare(dir);
    const [original, own] = programs();
    for (const each of cases) {
      await test.step(each.name, async () => {
        const expected = await observe(dir, original, each, bytes);
        const actual = await observe(dir, own, each, bytes);
        assert.deepEqual(actual, expected);
      });
    }
  },
});

Deno.test({
  name: "qsd check keeps off images that somebody writes to, as qemu-img does",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const bytes = await prepare(dir);
    await using _holder = await holdImage(dir.file(IMAGE));
    const [original, own] = programs();
    for (const args of [[IMAGE], ["-r", "all", IMAGE], ["-U", IMAGE]]) {
      const each: Case = { name: "locked", args };
      const expected = await observe(dir, original, each, bytes);
      assert.deepEqual(await observe(dir, own, each, bytes), expected);
    }
  },
});

Deno.test({
  name:
    "a repair that the limit on the size of files does not allow is an error, and nothing worse",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    await ok("qemu-img", ["create", "-q", "-f", "qcow2", dir.file(IMAGE), "1M"]);
    for (const program of programs()) {
      // Without refcounts all are made anew, behind what is there.
      const bytes = Deno.readFileSync(dir.file(IMAGE)).fill(0, 65536, 3 * 65536);
      Deno.writeFileSync(dir.file("broken"), bytes);
      const command = [...program, "-r", "all", "broken"].join(" ");
      const { status, stderr } = await run("sh", ["-c", `ulimit -f 8; ${command}`], {
        cwd: dir.path,
      });
      assert.equal(status, 1);
      assert.match(stderr, /Check failed: .*File too large/);
    }
  },
});
