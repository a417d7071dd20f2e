/** For tests: an image over a disk in memory, whose calls, latency and faults a test sees and decides. */
import assert from "node:assert/strict";
import { IoVec } from "../../../base/mod.ts";
import type { BlockdevOptionsValue } from "../../../qmp/schema/blockdev.ts";
import { type BlockBackend, Perm } from "../../mod.ts";
import { MemoryDisk, type TestGraph, testGraph } from "../../testing.ts";
import type { ImageInstance } from "./instance.ts";
import { imageDriver } from "./testing.ts";
import type { ImageOptions } from "./types.ts";

/** A disk in memory with what `qemu-img create` made. */
export async function diskOf(...args: string[]): Promise<MemoryDisk> {
  const directory = await Deno.makeTempDir();
  try {
    const { code } = await new Deno.Command("qemu-img", {
      args: ["create", "-q", "-f", "qcow2", ...args.slice(0, -1), `${directory}/d`, args.at(-1)!],
    }).output();
    assert.equal(code, 0);
    const bytes = await Deno.readFile(`${directory}/d`);
    const disk = new MemoryDisk(bytes.length);
    disk.bytes.set(bytes);
    return disk;
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

/** Lets `qemu-img check` judge what is on the disk: it must end with one of `codes` (3: leaks). */
export async function check(disk: MemoryDisk, codes: readonly number[] = [0]): Promise<void> {
  const name = await Deno.makeTempFile();
  try {
    await Deno.writeFile(name, disk.bytes);
    const { code, stdout, stderr } = await new Deno.Command("qemu-img", {
      args: ["check", name],
      stdout: "piped",
      stderr: "piped",
    }).output();
    const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
    assert.ok(codes.includes(code), text);
  } finally {
    await Deno.remove(name);
  }
}

/** An opened image over `disk` (and `backing`). */
export class Bench {
  readonly test: TestGraph;
  backend!: BlockBackend;
  image!: ImageInstance;

  private constructor(
    readonly disk: MemoryDisk,
    backing?: MemoryDisk,
    options?: Partial<ImageOptions>,
  ) {
    const driver = imageDriver(options, (image) => this.image = image as unknown as ImageInstance);
    this.test = testGraph({ disk, ...(backing === undefined ? {} : { backing }) }, [
      driver as never,
    ]);
  }

  /** Opens it for a user who may write. */
  static async open(
    disk: MemoryDisk,
    backing?: MemoryDisk,
    options?: Partial<ImageOptions>,
  ): Promise<Bench> {
    const bench = new Bench(disk, backing, options);
    const below = backing === undefined ? {} : { backing: { driver: "memory", disk: "backing" } };
    await bench.test.add({
      driver: "qcow2",
      "node-name": "image",
      discard: "unmap",
      file: { driver: "memory", disk: "disk" },
      ...below,
    } as unknown as BlockdevOptionsValue);
    bench.backend = await bench.test.graph.backend("image", {
      describe: "the test",
      needed: Perm.consistentRead | Perm.write,
      shared: Perm.all,
    });
    disk.calls.length = 0;
    return bench;
  }

  /** Writes `length` bytes of `value`. */
  async write(offset: number, length: number, value: number): Promise<void> {
    const memory = this.test.memory(new Uint8Array(length).fill(value));
    await this.backend.write(offset, IoVec.of(memory.address, length));
  }
  /** What the disk holds there. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const memory = this.test.memory(length);
    await this.backend.read(offset, IoVec.of(memory.address, length));
    return memory.bytes.slice(0, length);
  }
  /** What reached the file, in short: "write 4096 at 65536", "flush". */
  get changes(): string[] {
    return this.disk.calls.filter(({ op }) => op !== "read").map(({ op, offset, length }) =>
      op === "flush" ? op : `${op} ${length} at ${offset}`
    );
  }
  /** The user goes, and the image is closed. */
  async close(): Promise<void> {
    await this.backend.detach();
    await this.test.graph.closeAll();
  }
}
