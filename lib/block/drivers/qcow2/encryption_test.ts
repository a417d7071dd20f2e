/**
 * The image's side of encryption, with ciphers of the test: what the guest reads is what it wrote, what lies in the
 * file is that, enciphered with the right sector numbers, and qemu-img finds nothing wrong. With legacy AES in the
 * cipher's place qemu-io reads and writes the same image.
 */
import assert from "node:assert/strict";
import { createCipheriv, createDecipheriv } from "node:crypto";
import { chance, IoVec, KiB, type Pick } from "../../../base/mod.ts";
import { createContext, type OwnedContext, type Sys } from "../../../sys/mod.ts";
import { type BlockBackend, BlockGraph, Perm } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import { raw } from "../raw.ts";
import { qcow2With } from "./mod.ts";
import type { ClusterCipher, OpenedImage } from "./types.ts";
import type { Snapshots } from "./snapshots.ts";

const SECTOR = 512;
const SIZE = 1024 * KiB + SECTOR;

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const text = new TextDecoder().decode(stdout);
  assert.equal(code, 0, `${program} ${args.join(" ")}: ${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

/** A difference of long arrays would take for ever to describe. */
function same(got: Uint8Array, wanted: Uint8Array, from = 0): void {
  assert.equal(got.length, wanted.length);
  const at = got.findIndex((byte, i) => byte !== wanted[i]);
  assert.ok(at < 0, `${got[at]} instead of ${wanted[at]} at ${from + at}`);
}

/** What sectors are numbered by: their place on the disk, or in the file. */
type Numbering = "guest" | "host";
/** Enciphers or deciphers one sector, in place. */
type SectorCode = (sector: Uint8Array, number: number) => void;

/** Each byte with one that depends on sector and place; never the same. */
function xorSector(sector: Uint8Array, number: number): void {
  for (let i = 0; i < SECTOR; i++) sector[i]! ^= ((number * 37 + i * 11) & 255) | 1;
}

/** Sectors one by one, as `numbering` says. `encode` late: the plan has to wait for it. */
function cipher(
  sys: Sys,
  numbering: Numbering,
  encode: SectorCode,
  decode: SectorCode,
): ClusterCipher {
  const first = (guest: number, host: number) => (numbering === "guest" ? guest : host) / SECTOR;
  const gather = (iov: IoVec) => {
    const parts = Array.from(
      { length: iov.count },
      (_, i) => sys.viewAt(iov.addresses[i]!, iov.lengths[i]!),
    );
    const bytes = new Uint8Array(iov.total);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return { bytes, parts };
  };
  const each = (bytes: Uint8Array, number: number, code: SectorCode) => {
    assert.equal(bytes.length % SECTOR, 0);
    assert.ok(Number.isInteger(number));
    for (let at = 0; at < bytes.length; at += SECTOR) {
      code(bytes.subarray(at, at + SECTOR), number + at / SECTOR);
    }
  };
  return {
    decrypt(iov, guest, host) {
      const { bytes, parts } = gather(iov);
      each(bytes, first(guest, host), decode);
      let at = 0;
      for (const part of parts) {
        part.set(bytes.subarray(at, at + part.length));
        at += part.length;
      }
    },
    async encrypt(iov, target, guest, host) {
      await undefined;
      const { bytes } = gather(iov);
      each(bytes, first(guest, host), encode);
      sys.viewAt(target, bytes.length).set(bytes);
    },
  };
}

/** An opened image, and what its disk should hold. */
class Disk {
  #graph!: BlockGraph;
  backend!: BlockBackend;
  image!: OpenedImage;

  constructor(
    readonly context: OwnedContext,
    readonly options: Record<string, unknown>,
    readonly make: (sys: Sys) => ClusterCipher,
    public model: Uint8Array,
  ) {}

  get snapshots(): Snapshots {
    return this.image.snapshots as Snapshots;
  }

  async open(more: Record<string, unknown> = {}): Promise<void> {
    const { context } = this;
    const driver = qcow2With(() => this.make(context.sys));
    const spy = {
      ...driver,
      open: async (...args: Parameters<typeof driver.open>) => {
        const opened = await driver.open(...args);
        this.image = opened as OpenedImage;
        return opened;
      },
    };
    this.#graph = new BlockGraph({
      context,
      drivers: driverRegistry([file, raw, spy] as Parameters<typeof driverRegistry>[0]),
      events: { emit: () => {} },
    });
    const node = {
      driver: "qcow2",
      "node-name": "disk",
      discard: "unmap",
      ...this.options,
      ...more,
    };
    await this.#graph.add(node as Parameters<BlockGraph["add"]>[0], { monitorOwned: true });
    const readOnly = more["read-only"] === true;
    this.backend = await this.#graph.backend("disk", {
      describe: "the test",
      needed: Perm.consistentRead | (readOnly ? 0 : Perm.write | Perm.resize),
      shared: Perm.all,
    });
  }
  async close(): Promise<void> {
    await this.backend.detach();
    await this.#graph.closeAll();
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const { buffers } = this.context;
    const buffer = buffers.acquire(bytes.length);
    buffer.bytes.set(bytes);
    // In two pieces, as requests come from a guest.
    const iov = new IoVec();
    const cut = Math.floor(bytes.length / 3);
    if (cut > 0) iov.add(buffer.address, cut);
    iov.add(buffer.address + cut, bytes.length - cut);
    await this.backend.write(offset, iov);
    same(buffer.bytes.subarray(0, bytes.length), bytes);
    buffers.release(buffer);
    this.model.set(bytes, offset);
  }
  async read(offset: number, length: number): Promise<Uint8Array> {
    const { buffers } = this.context;
    const buffer = buffers.acquire(length);
    await this.backend.read(offset, IoVec.of(buffer.address, length));
    const bytes = buffer.bytes.slice(0, length);
    buffers.release(buffer);
    return bytes;
  }
  async verify(): Promise<void> {
    same(await this.read(0, this.model.length), this.model);
  }
  async resize(size: number, preallocation: "off" | "metadata"): Promise<void> {
    await this.backend.truncate(size, { exact: true, preallocation });
    const model = new Uint8Array(size);
    model.set(this.model.subarray(0, size));
    this.model = model;
  }
}

interface Shape {
  readonly create: readonly string[];
  readonly backing?: boolean;
  readonly dataFile?: boolean;
  readonly options?: Record<string, unknown>;
}

const SHAPES: Readonly<Record<string, Shape>> = {
  "clusters of 64 KiB": { create: [] },
  "clusters of 4 KiB over a backing file": { create: ["cluster_size=4k"], backing: true },
  "clusters of 512 bytes": { create: ["cluster_size=512"] },
  "version 2 over a backing file": { create: ["compat=0.10", "cluster_size=4k"], backing: true },
  subclusters: { create: ["extended_l2=on", "cluster_size=16k"] },
  "subclusters over a backing file": {
    create: ["extended_l2=on", "cluster_size=64k"],
    backing: true,
  },
  "a data file": { create: ["cluster_size=4k"], dataFile: true },
  "a raw data file": { create: ["cluster_size=4k", "data_file_raw=on"], dataFile: true },
  "discard-no-unref": { create: ["cluster_size=4k"], options: { "discard-no-unref": true } },
};

/** An image, its disk enciphered by XOR, while `task` runs; qemu-img checks it afterwards. */
async function withDisk(
  shape: Shape,
  numbering: Numbering,
  task: (disk: Disk, path: string) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  try {
    const path = `${directory}/disk.qcow2`;
    const create = [...shape.create];
    const model = new Uint8Array(SIZE);
    if (shape.dataFile) create.push(`data_file=${directory}/data`);
    const backing: string[] = [];
    if (shape.backing) {
      const below = chance(5);
      for (let at = 0; at < SIZE * 0.75; at++) model[at] = below(256);
      await Deno.writeFile(`${directory}/backing`, model.subarray(0, SIZE * 3 / 4));
      backing.push("-b", `${directory}/backing`, "-F", "raw");
    }
    const format = create.length === 0 ? [] : ["-o", create.join(",")];
    await run("qemu-img", "create", "-qf", "qcow2", ...format, ...backing, path, String(SIZE));
    const options = {
      file: { driver: "file", filename: path },
      "l2-cache-size": 65536,
      ...(shape.dataFile && { "data-file": { driver: "file", filename: `${directory}/data` } }),
      ...shape.options,
    };
    const disk = new Disk(
      context,
      options,
      (sys) => cipher(sys, numbering, xorSector, xorSector),
      model,
    );
    await disk.open();
    try {
      await task(disk, path);
    } finally {
      await disk.close();
    }
    await run("qemu-img", "check", "-q", path);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

/** One of what guests and their owners do. */
async function step(disk: Disk, below: Pick, v2: boolean): Promise<void> {
  const offset = below(disk.model.length - 50000);
  const length = 1 + below(50000);
  const what = below(12);
  if (what < 6) {
    // Small ones too: the rest of their sector, and of their cluster, is not theirs.
    await disk.write(
      offset,
      new Uint8Array(below(3) ? length : 1 + below(700)).fill(1 + below(255)),
    );
  } else if (what < 9) {
    await disk.backend.writeZeroes(offset, length, below(2) === 0 ? 2 : 0);
    disk.model.fill(0, offset, offset + length);
  } else if (what < 10) {
    await disk.backend.discard(offset, length);
    const now = await disk.read(offset, length);
    for (let i = 0; i < length; i++) {
      assert.ok(
        now[i] === 0 || now[i] === disk.model[offset + i],
        "a discard shows something else",
      );
    }
    disk.model.set(now, offset);
  } else if (what < 11) {
    await disk.close();
    await disk.open();
  } else if (!v2) {
    const size = disk.model.length + SECTOR * below(200);
    await disk.resize(size, "off");
  }
}

/** An extent of `qemu-img map`. */
interface Extent {
  readonly start: number;
  readonly length: number;
  readonly depth: number;
  readonly data: boolean;
  readonly zero: boolean;
  readonly offset?: number;
}

/** What lies in the image is the disk, enciphered. Gives the number of sectors that were looked at. */
async function checkFile(disk: Disk, path: string, numbering: Numbering): Promise<number> {
  const map: Extent[] = JSON.parse(await run("qemu-img", "map", "--output=json", path));
  // The data file, where there is one, has the disk's own offsets.
  const bytes = await Deno.readFile(
    (disk.options["data-file"] as { filename: string } | undefined)?.filename ?? path,
  );
  let sectors = 0;
  for (const { start, length, depth, data, zero, offset } of map) {
    if (depth > 0 || !data || zero || offset === undefined) continue;
    const lies = new Uint8Array(length);
    lies.set(bytes.subarray(offset, offset + length));
    for (let at = 0; at < length; at += SECTOR, sectors++) {
      const sector = lies.subarray(at, at + SECTOR);
      xorSector(sector, ((numbering === "guest" ? start : offset) + at) / SECTOR);
      assert.deepEqual(
        sector,
        disk.model.slice(start + at, start + at + SECTOR),
        `at ${start + at}`,
      );
    }
  }
  return sectors;
}

for (const numbering of ["guest", "host"] as const) {
  for (const [name, shape] of Object.entries(SHAPES)) {
    Deno.test(`what is written is enciphered by ${numbering} sector: ${name}`, async () => {
      await withDisk(shape, numbering, async (disk, path) => {
        const below = chance(name.length * 31 + numbering.length);
        const v2 = name.startsWith("version 2");
        // All of it has its place from the start, with nothing enciphered in it.
        if (name === "a raw data file") await disk.write(0, disk.model.slice());
        for (let i = 0; i < 80; i++) {
          await step(disk, below, v2);
          if (i % 8 === 7) await disk.verify();
        }
        await disk.close();
        assert.ok(await checkFile(disk, path, numbering) > 100, "nothing was looked at");
        await disk.open();
        await disk.verify();
      });
    });
  }

  Deno.test(`snapshots share enciphered clusters by ${numbering} sector`, async () => {
    await withDisk({ create: ["cluster_size=4k"] }, numbering, async (disk) => {
      const below = chance(numbering.length);
      const now = (name: string) => ({ name, dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
      for (let i = 0; i < 20; i++) await step(disk, below, true);
      const before = disk.model.slice();
      await disk.snapshots.create(now("a"));
      for (let i = 0; i < 30; i++) await step(disk, below, true);
      const after = disk.model;
      await disk.verify();
      await disk.close();
      await disk.open({ "read-only": true, "x-qsd-snapshot": "a" });
      disk.model = before;
      await disk.verify();
      await disk.close();
      await disk.open();
      disk.model = after;
      await disk.verify();
      await disk.snapshots.apply("1");
      disk.model = before.slice();
      await disk.verify();
      for (let i = 0; i < 20; i++) await step(disk, below, true);
      await disk.snapshots.delete("1");
      await disk.verify();
    });
  });

  for (const create of [["cluster_size=4k"], ["extended_l2=on", "cluster_size=16k"]]) {
    Deno.test(`preallocated clusters read as zeroes, ${numbering} ${create}`, async () => {
      await withDisk({ create }, numbering, async (disk) => {
        await disk.write(0, new Uint8Array(SIZE).fill(9));
        await disk.backend.discard(0, 512 * KiB);
        disk.model = await disk.read(0, SIZE);
        await disk.resize(2 * SIZE + 70000 - 70000 % SECTOR, "metadata");
        await disk.verify();
        await disk.write(SIZE + 9000, new Uint8Array(300).fill(3));
        await disk.verify();
      });
    });
  }
}

Deno.test("preallocation that could not read as zeroes is refused", async () => {
  await withDisk({ create: ["compat=0.10"] }, "host", async (disk) => {
    await assert.rejects(disk.resize(2 * SIZE - SECTOR, "metadata"), { errno: "ENOTSUP" });
    await disk.verify();
  });
});

Deno.test("an enciphered disk takes no compressed clusters", async () => {
  await withDisk({ create: [] }, "host", (disk) => {
    assert.equal(disk.image.compressedUnit, undefined);
    return Promise.resolve();
  });
});

const AES_KEY = "12345678";
/** Sectors are chained by themselves; their number in the disk makes the first block's vector. */
function aes(
  sector: Uint8Array,
  number: number,
  way: typeof createCipheriv | typeof createDecipheriv,
): void {
  const key = new Uint8Array(16);
  key.set(new TextEncoder().encode(AES_KEY));
  const vector = new Uint8Array(16);
  new DataView(vector.buffer).setBigUint64(0, BigInt(number), true);
  const code = way("aes-128-cbc", key, vector);
  code.setAutoPadding(false);
  sector.set(code.update(sector));
  code.final();
}

Deno.test("with legacy AES for a cipher, qemu-io reads what was written, and the other way round", async () => {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  const path = `${directory}/disk.qcow2`;
  const secret = ["--object", `secret,id=s,data=${AES_KEY}`];
  const asImage = ["--image-opts", `driver=qcow2,encrypt.key-secret=s,file.filename=${path}`];
  const qemuIo = (...commands: string[]) =>
    run("qemu-io", ...secret, ...commands.flatMap((one) => ["-c", one]), ...asImage);
  try {
    const format = "encrypt.format=aes,encrypt.key-secret=s,cluster_size=4k";
    await run("qemu-img", "create", "-qf", "qcow2", ...secret, "-o", format, path, String(SIZE));
    await qemuIo("write -P 7 3k 50k", "write -z 16k 8k");
    const model = new Uint8Array(SIZE).fill(7, 3 * KiB, 53 * KiB).fill(0, 16 * KiB, 24 * KiB);
    const disk = new Disk(
      context,
      { file: { driver: "file", filename: path }, encrypt: { format: "aes", "key-secret": "s" } },
      (sys) =>
        cipher(
          sys,
          "guest",
          (sector, number) => aes(sector, number, createCipheriv),
          (sector, number) => aes(sector, number, createDecipheriv),
        ),
      model,
    );
    await disk.open();
    await disk.verify();
    await disk.write(100 * KiB + 100, new Uint8Array(30000).fill(5));
    await disk.write(20 * KiB, new Uint8Array(512).fill(6));
    await disk.verify();
    await disk.close();
    const said = await qemuIo(
      "read -P 7 3k 13k",
      "read -P 0 16k 4k",
      "read -P 6 20k 512",
      "read -P 5 102500 30000",
      "read -P 0 132500 1k",
    );
    assert.ok(!said.includes("failed"), said);
    await run("qemu-img", "check", "-q", ...secret, ...asImage);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
});
