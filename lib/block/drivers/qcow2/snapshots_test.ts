/** Internal snapshots: what was there when they were taken is there later, and qemu-img finds nothing wrong. */
import assert from "node:assert/strict";
import { chance, IoVec, KiB } from "../../../base/mod.ts";
import { createContext, type OwnedContext } from "../../../sys/mod.ts";
import { type BlockBackend, BlockGraph, Perm } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import type { Snapshots } from "./snapshots.ts";
import { imageDriver } from "./testing.ts";
import type { ImageOptions, OpenedImage } from "./types.ts";

/** Runs a program that must end with one of these. */
async function runFor(codes: readonly number[], program: string, args: string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.ok(codes.includes(code), `${program} ${args.join(" ")}: ${code}: ${text}`);
}

/** Runs a program that must succeed. */
const run = (program: string, ...args: string[]) => runFor([0], program, args);

/** An image, opened, with what its disk should hold. */
class Disk {
  graph!: BlockGraph;
  backend!: BlockBackend;
  image!: OpenedImage;
  model: Uint8Array;

  constructor(
    readonly context: OwnedContext,
    readonly path: string,
    size: number,
    readonly options: Partial<ImageOptions> = {},
  ) {
    this.model = new Uint8Array(size);
  }

  get snapshots(): Snapshots {
    return this.image.snapshots as Snapshots;
  }

  async open(): Promise<void> {
    const { context } = this;
    const qcow2 = imageDriver(this.options, (image) => this.image = image);
    this.graph = new BlockGraph({
      context,
      drivers: driverRegistry([file, qcow2] as Parameters<typeof driverRegistry>[0]),
      events: { emit: () => {} },
    });
    await this.graph.add({
      driver: "qcow2",
      "node-name": "disk",
      file: { driver: "file", filename: this.path },
    }, { monitorOwned: true });
    this.backend = await this.graph.backend("disk", {
      describe: "the test",
      needed: Perm.consistentRead | Perm.write,
      shared: Perm.all,
    });
  }

  async close(): Promise<void> {
    await this.backend.detach();
    await this.graph.closeAll();
  }

  /** Nothing but leaks: clusters are given back on disk when the next commit comes. */
  async check(): Promise<void> {
    await this.backend.flush();
    if (this.options.lazyRefcounts === true) return;
    await runFor([0, 3], "qemu-img", ["check", "-q", "-U", this.path]);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const { buffers } = this.context;
    const buffer = buffers.acquire(bytes.length);
    buffer.bytes.set(bytes);
    await this.backend.write(offset, IoVec.of(buffer.address, bytes.length));
    buffers.release(buffer);
    this.model.set(bytes, offset);
  }
  async zero(offset: number, length: number): Promise<void> {
    await this.backend.writeZeroes(offset, length);
    this.model.fill(0, offset, offset + length);
  }

  /** Everything, through `node`. */
  async read(
    node: { read(offset: number, iov: IoVec, flags: number): unknown },
    size: number,
  ): Promise<Uint8Array> {
    const { buffers } = this.context;
    const buffer = buffers.acquire(size);
    await node.read(0, IoVec.of(buffer.address, size), 0);
    const bytes = buffer.bytes.slice(0, size);
    buffers.release(buffer);
    return bytes;
  }
  async verify(): Promise<void> {
    assert.deepEqual(await this.read(this.backend, this.model.length), this.model);
  }
}

const SIZE = 1024 * KiB + 512;
const now = (name: string) => ({ name, dateSec: 1, dateNsec: 2, vmClockNsec: 3n });

async function withDisk(
  create: readonly string[],
  task: (disk: Disk, directory: string) => Promise<void>,
  options: Partial<ImageOptions> = {},
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  try {
    const path = `${directory}/disk.qcow2`;
    await run("qemu-img", "create", "-q", "-f", "qcow2", ...create, path, String(SIZE));
    const disk = new Disk(context, path, SIZE, options);
    await disk.open();
    try {
      await task(disk, directory);
    } finally {
      await disk.close();
    }
    await run("qemu-img", "check", "-q", path);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

/** What a snapshot holds, read by qemu-img. */
async function asQemuSees(disk: Disk, directory: string, name: string): Promise<Uint8Array> {
  const target = `${directory}/out.raw`;
  await run("qemu-img", "convert", "-U", "-l", name, "-O", "raw", disk.path, target);
  return await Deno.readFile(target);
}

const shapes: Readonly<Record<string, { create: string[]; options?: Partial<ImageOptions> }>> = {
  "clusters of 64 KiB": { create: [] },
  "clusters of 512 bytes": { create: ["-o", "cluster_size=512"] },
  "version 2": { create: ["-o", "compat=v2,cluster_size=4k"] },
  subclusters: { create: ["-o", "extended_l2=on,cluster_size=16k"] },
  "counts of 4 bits": { create: ["-o", "refcount_bits=4,cluster_size=2k"] },
  "counts of 64 bits": { create: ["-o", "refcount_bits=64,cluster_size=4k"] },
  "lazy counts": {
    create: ["-o", "lazy_refcounts=on,cluster_size=4k"],
    options: { lazyRefcounts: true },
  },
};

for (const [name, { create, options }] of Object.entries(shapes)) {
  Deno.test(`snapshots and the disk keep their contents: ${name}`, async () => {
    await withDisk(create, async (disk, directory) => {
      const below = chance(name.length * 7919);
      const taken = new Map<string, Uint8Array>();
      const byName = (wanted: string) =>
        disk.snapshots.list().find((one) => one.name === wanted)!.id;
      for (let step = 0; step < 60; step++) {
        const offset = below(SIZE - 40000);
        const what = below(10);
        const some = [...taken.keys()][below(Math.max(1, taken.size))];
        if (what < 4) {
          await disk.write(offset, new Uint8Array(1 + below(40000)).fill(1 + below(255)));
        } else if (what < 5) await disk.zero(offset, 1 + below(40000));
        else if (what < 7 && taken.size < 5) {
          taken.set(`s${step}`, disk.model.slice());
          await disk.snapshots.create(now(`s${step}`));
        } else if (what < 8 && some !== undefined) {
          await disk.snapshots.delete(byName(some));
          taken.delete(some);
        } else if (what < 9 && some !== undefined) {
          await disk.snapshots.apply(byName(some));
          disk.model = taken.get(some)!.slice();
        } else await disk.check();
        if (step % 10 === 9) await disk.verify();
      }
      await disk.check();
      for (const [one, bytes] of taken) {
        assert.deepEqual(await asQemuSees(disk, directory, one), bytes, one);
      }
      await disk.close();
      await disk.open();
      await disk.verify();
      assert.deepEqual(disk.snapshots.list().map((one) => one.name), [...taken.keys()]);
    }, options);
  });
}

Deno.test("a snapshot can be read while the disk is written to", async () => {
  await withDisk(["-o", "cluster_size=4k"], async (disk) => {
    await disk.write(3000, new Uint8Array(50000).fill(7));
    await disk.zero(200000, 9000);
    const before = disk.model.slice();
    await disk.snapshots.create(now("a"));
    const view = await disk.snapshots.view("1");
    const read = async () => {
      const bytes = new Uint8Array(SIZE);
      for (let at = 0; at < SIZE;) {
        let length = SIZE - at;
        let source: { host: number } | undefined;
        await view.locate(at, length, {
          inChild(_child, host, here = length) {
            length = here;
            source = { host };
          },
          zero(here = length) {
            length = here;
          },
          unallocated(_backing, here = length) {
            length = here;
          },
          encoded() {
            assert.fail("nothing is compressed");
          },
        });
        if (source !== undefined) {
          bytes.set(await disk.image.readMetadata(source.host, length), at);
        }
        at += length;
      }
      return bytes;
    };
    assert.deepEqual(await read(), before);
    await disk.write(0, new Uint8Array(100000).fill(9));
    await disk.backend.flush();
    assert.deepEqual(await read(), before);
    await assert.rejects(disk.snapshots.delete("1"), { errno: "EBUSY" });
    await view.close();
    await disk.snapshots.delete("1");
    await disk.verify();
    await disk.check();
  });
});

Deno.test("what qemu-img takes, deletes and applies is understood, and the other way round", async () => {
  await withDisk(["-o", "cluster_size=4k"], async (disk) => {
    await disk.write(0, new Uint8Array(30000).fill(1));
    await disk.snapshots.create(now("ours"));
    const first = disk.model.slice();
    await disk.write(0, new Uint8Array(30000).fill(2));
    await disk.close();
    await run("qemu-img", "snapshot", "-c", "theirs", disk.path);
    const second = disk.model.slice();
    await run("qemu-img", "snapshot", "-a", "ours", disk.path);
    await disk.open();
    disk.model = first;
    await disk.verify();
    assert.deepEqual(disk.snapshots.list().map(({ id, name }) => [id, name]), [
      ["1", "ours"],
      ["2", "theirs"],
    ]);
    await disk.snapshots.apply("2");
    disk.model = second;
    await disk.verify();
    await disk.check();
    await disk.close();
    await run("qemu-img", "snapshot", "-d", "ours", disk.path);
    await disk.open();
    await disk.snapshots.delete("2");
    await disk.verify();
    assert.deepEqual(disk.snapshots.list(), []);
    assert.equal(disk.image.header.snapshotsOffset, 0);
  });
});

Deno.test("going back to a snapshot takes back its length", async () => {
  await withDisk(["-o", "cluster_size=4k"], async (disk) => {
    await disk.write(SIZE - 5000, new Uint8Array(5000).fill(3));
    await disk.snapshots.create(now("short"));
    await disk.image.truncate!(SIZE * 3 + 512, { exact: true, preallocation: "off" });
    assert.equal(disk.image.size, SIZE * 3 + 512);
    await disk.snapshots.apply("1");
    assert.equal(disk.image.size, SIZE);
    await disk.verify();
    await disk.check();
  });
});

Deno.test("counts of one bit refuse a snapshot and stay right", async () => {
  await withDisk(["-o", "refcount_bits=1,cluster_size=4k"], async (disk) => {
    await disk.write(0, new Uint8Array(200000).fill(1));
    await assert.rejects(disk.snapshots.create(now("a")), { message: "Invalid argument" });
    assert.deepEqual(disk.snapshots.list(), []);
    await disk.write(100000, new Uint8Array(200000).fill(2));
    await disk.verify();
    await disk.check();
  });
});

Deno.test("counts that are nearly full refuse one snapshot more", async () => {
  await withDisk(["-o", "refcount_bits=2,cluster_size=2k"], async (disk) => {
    await disk.write(0, new Uint8Array(100000).fill(1));
    await disk.snapshots.create(now("a"));
    await disk.snapshots.create(now("b"));
    await disk.write(50000, new Uint8Array(500000).fill(2));
    await assert.rejects(disk.snapshots.create(now("c")), { message: "Invalid argument" });
    await disk.verify();
    await disk.check();
    await disk.snapshots.delete("1");
    await disk.snapshots.create(now("c"));
    await disk.verify();
    await disk.check();
  });
});

Deno.test("VM state of the disk goes with its snapshot", async () => {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  const path = `${directory}/disk.qcow2`;
  try {
    await run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "1M");
    await run("qemu-io", "-c", "write -b -P 5 0 68k", "-c", "write -P 6 0 9k", path);
    const disk = new Disk(context, path, 1 << 20);
    await disk.open();
    await disk.snapshots.create(now("a"));
    await disk.check();
    await disk.backend.writeZeroes(0, 9216);
    await disk.snapshots.apply("1");
    await disk.snapshots.delete("1");
    await disk.close();
    await run("qemu-img", "check", "-q", path);
    await run("qemu-io", "-c", "read -b -P 5 0 68k", "-c", "read -P 6 0 9k", path);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
});
