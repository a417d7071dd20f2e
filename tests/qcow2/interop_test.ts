/** The same images under qsd, over NBD, and under the original's tools, in turn. */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise } from "../harness/images.ts";
import { lacks, ok, qemuIo } from "../harness/tools.ts";
import { cases, chains, converted, createImage, type ImageCase, texture } from "./cases.ts";

const ignore = lacks("qcow2/interop", "qemu-img", "qemu-io");

/** An image of the matrix, its model, and its files in the folder. */
class Subject {
  readonly model: Uint8Array;
  /** Its backing image. */
  readonly below: Subject | undefined;
  /** The bytes of the file once it is the backing image of another. */
  #kept: Uint8Array | undefined;

  constructor(readonly image: ImageCase, readonly name: string, readonly dir: TestDir) {
    this.model = image.converted ? texture(image.size) : new Uint8Array(image.size);
    if (image.over !== undefined) this.below = new Subject(image.over, `${name}b`, dir);
    if (image.backing !== undefined) {
      const backing = noise(image.backing, 5);
      Deno.writeFileSync(dir.file(`${name}.base`), backing);
      this.model.set(backing.subarray(0, image.size));
    }
  }

  get path(): string {
    return this.dir.file(`${this.name}.qcow2`);
  }

  /** The original makes the image, and before that what is below, with something in each of them. */
  async create(dice: Dice): Promise<void> {
    const { below, model } = this;
    if (below !== undefined) {
      await below.create(dice);
      await below.write(dice);
      below.#kept = Deno.readFileSync(below.path);
      model.set(below.model.subarray(0, model.length));
    }
    const name = below && `${below.name}.qcow2`;
    await createImage(this.image, this.path, this.dir.file(`${this.name}.data`), name);
  }

  /** The original writes into the closed image. */
  async write(dice: Dice): Promise<void> {
    const words = this.commands(dice, 20).flatMap((command) => ["-c", command]);
    await ok("qemu-io", [...words, `json:${JSON.stringify(this.options())}`]);
  }

  /** What the options tell of the backing file. */
  #backing(): Record<string, unknown> {
    const { image, below, name, dir } = this;
    if (below !== undefined) return image.inline ? { backing: below.options() } : {};
    if (image.backing === undefined) return { backing: null };
    const file = { driver: "file", filename: dir.file(`${name}.base`) };
    return { backing: { driver: "raw", file } };
  }

  /** The image's node, without a name. */
  options(): Record<string, unknown> {
    const file = (name: string) => ({ driver: "file", filename: this.dir.file(name) });
    return {
      driver: "qcow2",
      discard: "unmap",
      file: { ...file(`${this.name}.qcow2`), discard: "unmap" },
      ...(this.image.dataFile ? { "data-file": file(`${this.name}.data`) } : {}),
      ...this.#backing(),
      ...this.image.options,
    };
  }

  /** Random writes and zeroes in qemu-io's words; the model has them, too. */
  commands(dice: Dice, count: number): string[] {
    const { model } = this;
    return Array.from({ length: count }, () => {
      const unit = dice.pick([1, 512, 4096]);
      const start = dice.below(Math.floor(model.length / unit)) * unit;
      const most = Math.min(150_000, model.length - start);
      const length = Math.min(most, (1 + dice.below(Math.ceil(most / unit))) * unit);
      if (dice.below(5) === 0) {
        model.fill(0, start, start + length);
        return `write -q -z ${dice.below(2) === 0 ? "-u " : ""}${start} ${length}`;
      }
      const pattern = 1 + dice.below(255);
      model.fill(pattern, start, start + length);
      return `write -q -P ${pattern} ${dice.below(8) === 0 ? "-f " : ""}${start} ${length}`;
    });
  }

  /** The original's verdict on the closed image. */
  async judge(): Promise<void> {
    await ok("qemu-img", ["check", "-f", "qcow2", this.path]);
    await this.compare(`json:${JSON.stringify(this.options())}`, []);
    for (let lower = this.below; lower !== undefined; lower = lower.below) {
      assertSameBytes(Deno.readFileSync(lower.path), lower.#kept!, `below ${this.image.name}`);
    }
  }

  /** Whether `target` reads as the model does. */
  async compare(target: string, format: string[]): Promise<void> {
    const path = this.dir.file(`${this.name}.raw`);
    Deno.writeFileSync(path, this.model);
    const said = await ok("qemu-img", ["compare", ...format, "-F", "raw", target, path]);
    assert.match(said, /identical/, this.image.name);
  }
}

/** A daemon that exports all of them. */
function serveAll(dir: TestDir, subjects: readonly Subject[]): Promise<Daemon> {
  const nodes = subjects.flatMap((subject) => [
    "--blockdev",
    JSON.stringify({ ...subject.options(), "node-name": subject.name }),
    "--export",
    `nbd,id=e-${subject.name},node-name=${subject.name},writable=on`,
  ]);
  return Daemon.start({
    dir,
    args: ["--nbd-server", "addr.type=unix,addr.path=nbd", ...nodes],
  });
}

/** qsd reads what there is, writes, and reads again; then the original has its say on the closed images. */
async function useWithQsd(dir: TestDir, subjects: readonly Subject[], dice: Dice): Promise<void> {
  for (const left of ["pid", "nbd", "qmp"]) await Deno.remove(dir.file(left)).catch(() => {});
  await using daemon = await serveAll(dir, subjects);
  for (const subject of subjects) {
    await subject.compare(daemon.uri(subject.name), ["-f", "raw"]);
    await qemuIo(daemon.uri(subject.name), subject.commands(dice, 20));
    await subject.compare(daemon.uri(subject.name), ["-f", "raw"]);
  }
  const { status, stderr } = await daemon.stop();
  assert.deepEqual({ status, stderr }, { status: 0, stderr: "" });
  for (const subject of subjects) await subject.judge();
}

for (
  const [what, images] of [["images", cases], ["chains of qcow2 images", chains]] as const
) {
  Deno.test({
    name: `${what} go to and fro between qsd and the original without a difference`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      const dice = new Dice(4);
      const subjects = images.map((image, at) => new Subject(image, `i${at}`, dir));
      for (const subject of subjects) await subject.create(dice);
      for (let round = 0; round < 2; round++) {
        for (const subject of subjects) await subject.write(dice);
        await useWithQsd(dir, subjects, dice);
      }
    },
  });
}

/** Compressed clusters in a closed image, as the original counts them. */
async function compressedClusters({ path }: Subject): Promise<number> {
  const told = JSON.parse(await ok("qemu-img", ["check", "--output=json", path]));
  return told["compressed-clusters"] ?? 0;
}

Deno.test({
  name: "compressed clusters of qemu-img convert are read, and written over in part",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const dice = new Dice(6);
    const subjects = converted.map((image, at) => new Subject(image, `v${at}`, dir));
    for (const subject of subjects) await subject.create(dice);
    const before = await Promise.all(subjects.map(compressedClusters));
    await useWithQsd(dir, subjects, dice);
    for (const [at, subject] of subjects.entries()) {
      const after = await compressedClusters(subject);
      const told = `${subject.image.name}: ${before[at]}, then ${after}`;
      assert.ok(after > 0 && after < before[at]!, told);
    }
    for (const subject of subjects) await subject.write(dice);
    await useWithQsd(dir, subjects, dice);
  },
});

Deno.test({
  name: "the compress filter stores compressed clusters that the original reads",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const subjects = ["zlib", "zstd"].map((type, at) =>
      new Subject(
        { name: type, create: `compression_type=${type}`, size: 4 * 1024 * 1024 },
        `c${at}`,
        dir,
      )
    );
    const args = subjects.flatMap(({ name }) => [
      "--blockdev",
      `compress,node-name=top-${name},discard=unmap,file=${name}`,
      "--export",
      `nbd,id=t-${name},node-name=top-${name},writable=on`,
    ]);
    for (const { image, path } of subjects) await createImage(image, path, "");
    const nodes = subjects.flatMap((subject) => [
      "--blockdev",
      JSON.stringify({ ...subject.options(), "node-name": subject.name }),
    ]);
    await using daemon = await Daemon.start({
      dir,
      args: ["--nbd-server", "addr.type=unix,addr.path=nbd", ...nodes, ...args],
    });
    const dice = new Dice(9);
    for (const subject of subjects) {
      await qemuIo(daemon.uri(`top-${subject.name}`), subject.commands(dice, 25));
      await subject.compare(daemon.uri(`top-${subject.name}`), ["-f", "raw"]);
    }
    assert.equal((await daemon.stop()).status, 0);
    for (const subject of subjects) {
      await subject.judge();
      const compressed = await compressedClusters(subject);
      assert.ok(compressed > 5, `${compressed} compressed clusters`);
    }
  },
});
