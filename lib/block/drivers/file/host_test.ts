/** Against what needs a real host: loop devices, a full file system, QEMU's own tools. Skips say why. */
import assert from "node:assert/strict";
import { BlockError } from "../../../base/mod.ts";
import type { BlockdevOptionsValue } from "../../../qmp/schema/blockdev.ts";
import { type ContractSubject, driverContract } from "../../contract.ts";
import { Perm, RequestFlag } from "../../mod.ts";
import { drivers } from "../mod.ts";
import { openContext, Piece, readBytes, type TestContext, testContext } from "../testing.ts";
import { file as fileDriver, type FileInstance, hostCdrom, hostDevice } from "./mod.ts";

const MiB = 1 << 20;

function run(command: string, ...args: string[]): { ok: boolean; text: string } {
  try {
    const { success, stdout, stderr } = new Deno.Command(command, { args }).outputSync();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    return { ok: success, text: success ? decode(stdout) : decode(stderr) };
  } catch (error) {
    return { ok: false, text: String(error) };
  }
}

/** A loop device over a new file of `length` bytes, or the reason why there is none. */
function loopDevice(length: number, ...args: string[]): { path: string; end(): void } | string {
  const directory = Deno.makeTempDirSync();
  Deno.writeFileSync(`${directory}/disk`, new Uint8Array(length));
  const { ok, text } = run("losetup", "-f", "--show", ...args, `${directory}/disk`);
  const remove = () => Deno.removeSync(directory, { recursive: true });
  if (!ok) remove();
  if (!ok) return `no loop device: ${text}`;
  return {
    path: text,
    end() {
      run("losetup", "-d", text);
      remove();
    },
  };
}

/** A tmpfs of `size` bytes, or the reason why there is none. */
function smallTmpfs(size: number): { path: string; end(): void } | string {
  const path = Deno.makeTempDirSync();
  const { ok, text } = run("mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", path);
  if (!ok) Deno.removeSync(path);
  if (!ok) return `no tmpfs can be mounted: ${text}`;
  return {
    path,
    end() {
      run("umount", path);
      Deno.removeSync(path);
    },
  };
}

/** Runs `body` with what `make` gives; skips with its reason if it gives none. */
function testWith<T extends { end(): void }>(
  name: string,
  make: () => T | string,
  body: (resource: T, context: TestContext) => Promise<void>,
): void {
  Deno.test(name, async (t) => {
    const resource = make();
    if (typeof resource === "string") {
      await t.step({ name: `skipped: ${resource}`, ignore: true, fn() {} });
      return;
    }
    const context = testContext();
    try {
      await body(resource, context);
    } finally {
      context.end();
      resource.end();
    }
  });
}

async function open(
  context: TestContext,
  filename: string,
  definition = fileDriver,
  how = {},
): Promise<FileInstance> {
  return await definition.open(openContext(context, { filename }, how), {
    filename,
  }) as FileInstance;
}

async function fill(context: TestContext, node: FileInstance, offset: number, length: number) {
  const piece = new Piece(context.sys, length);
  piece.bytes.fill(0x5a);
  try {
    await node.write(offset, piece.iov, 0);
  } finally {
    piece.free();
  }
}

function read(context: TestContext, node: FileInstance, offset: number, length: number) {
  return readBytes(context.sys, (at, iov, flags) => node.read(at, iov, flags), offset, length);
}

testWith(
  "a full file system fails the request that found it full, and no other",
  () => smallTmpfs(MiB),
  async (tmpfs, context) => {
    const filename = `${tmpfs.path}/x`;
    Deno.writeFileSync(filename, new Uint8Array(0));
    Deno.truncateSync(filename, 4 * MiB);
    const node = await open(context, filename);
    await fill(context, node, 0, MiB / 2);
    for (const length of [MiB, 3 * MiB]) { // inline, and on the pool
      await assert.rejects(fill(context, node, MiB, length), (error: BlockError) => {
        assert.deepEqual([error.errno, error.kind, error.op], ["ENOSPC", "no-space", "write"]);
        return true;
      });
    }
    assert.deepEqual(await read(context, node, 0, 512), new Uint8Array(512).fill(0x5a));
    await node.discard(MiB, 3 * MiB);
    await fill(context, node, 2 * MiB, 65536);
    await node.flush();
    await assert.rejects(node.truncate(8 * MiB, { exact: true, preallocation: "falloc" }), {
      errno: "ENOSPC",
      message: "Could not preallocate data for the new file: No space left on device",
    });
    node.close();
  },
);

testWith(
  "host_device: length, modes, resizing and statistics of a block device",
  () => loopDevice(MiB),
  async (device, context) => {
    const node = await open(context, device.path, hostDevice);
    assert.equal(node.size, MiB);
    assert.equal(node.facts().actualSize, 0);
    const off = { exact: false, preallocation: "off" } as const;
    await node.truncate(MiB / 2, off);
    assert.equal(node.size, MiB);
    await assert.rejects(node.truncate(2 * MiB, off), { message: "Cannot grow device files" });
    await assert.rejects(node.truncate(MiB / 2, { ...off, exact: true }), {
      message: "Cannot resize device files",
    });
    await fill(context, node, 0, 65536);
    await node.discard(0, 32768);
    await node.writeZeroes(32768, 16384, 0);
    await node.writeZeroes(49152, 8192, RequestFlag.mayUnmap);
    await assert.rejects(node.writeZeroes(0, 4096, RequestFlag.noFallback), { errno: "ENOTSUP" });
    const bytes = await read(context, node, 32768, 32768);
    assert.ok(bytes.subarray(0, 24576).every((byte) => byte === 0));
    assert.ok(bytes.subarray(24576).every((byte) => byte === 0x5a));
    assert.deepEqual(node.statistics(), {
      driver: "host_device",
      "discard-nb-ok": 1,
      "discard-nb-failed": 0,
      "discard-bytes-ok": 32768,
    });
    await node.flush();
    node.close();
    await assert.rejects(open(context, device.path), {
      message: `'file' driver requires '${device.path}' to be a regular file`,
    });
  },
);

testWith(
  "host_device: a read-only device is not opened for writing",
  () => loopDevice(MiB, "-r"),
  async (device, context) => {
    const message = "The device is not writable: Permission denied";
    await assert.rejects(open(context, device.path, hostDevice), { message });
    const node = await open(context, device.path, hostDevice, { autoReadOnly: true });
    assert.equal((await read(context, node, 0, 512)).length, 512);
    await assert.rejects(node.preparePermissions(Perm.write, Perm.all), { message });
    node.close();
  },
);

testWith(
  "host_cdrom: a device that is not a drive has no medium",
  () => loopDevice(MiB),
  async (device, context) => {
    const node = await open(context, device.path, hostCdrom);
    assert.equal(node.size, 0);
    await assert.rejects(read(context, node, 0, 512), { errno: "ENOMEDIUM" });
    assert.equal(node.statistics(), undefined);
    node.close();
  },
);

function onDevice(sector: number, direct: boolean): ContractSubject {
  const device = loopDevice(MiB, "--sector-size", String(sector));
  if (typeof device === "string") throw new Error(device);
  const context = testContext();
  return {
    context,
    drivers,
    options: {
      driver: "host_device",
      filename: device.path,
      cache: { direct },
    } as BlockdevOptionsValue,
    size: MiB,
    cannot: { resize: "devices keep their length" },
    end() {
      context.end();
      device.end();
    },
  };
}

const probe = loopDevice(MiB, "--sector-size", "4096");
if (typeof probe === "string") {
  Deno.test({ name: `host_device contract skipped: ${probe}`, ignore: true, fn() {} });
} else {
  probe.end();
  driverContract("host_device", () => onDevice(512, false));
  driverContract("host_device, O_DIRECT", () => onDevice(512, true));
  driverContract("host_device, sectors of 4 KiB", () => onDevice(4096, false));
  driverContract("host_device, O_DIRECT, sectors of 4 KiB", () => onDevice(4096, true));
}

/** An image in a directory of its own, if QEMU's tools are there. */
function image(): { path: string; end(): void } | string {
  const found = run("qemu-img", "--version");
  if (!found.ok) return `no qemu-img: ${found.text}`;
  const directory = Deno.makeTempDirSync();
  Deno.writeFileSync(`${directory}/x.img`, new Uint8Array(MiB));
  return {
    path: `${directory}/x.img`,
    end: () => Deno.removeSync(directory, { recursive: true }),
  };
}

testWith("QEMU's tools refuse an image that we do not share", image, async (image, context) => {
  assert.equal(run("qemu-img", "create", "-q", "-f", "qcow2", image.path, "1M").ok, true);
  const node = await open(context, image.path);
  const writer = Perm.consistentRead | Perm.write;
  (await node.preparePermissions(writer, Perm.consistentRead | Perm.writeUnchanged)).commit();
  const write = () => run("qemu-io", "-f", "raw", "-c", "write 0 512", image.path);
  const info = (...args: string[]) => run("qemu-img", "info", ...args, "-f", "qcow2", image.path);
  assert.match(write().text, /Failed to get "write" lock\nIs another process using the image/);
  assert.match(info().text, /Failed to get shared "write" lock/);
  assert.equal(info("-U").ok, true, "force-share is let through");
  // Back to sharing everything: the locks follow.
  (await node.preparePermissions(Perm.consistentRead, Perm.all)).commit();
  assert.equal(write().ok, true);
  node.close();
});

testWith("we refuse an image that QEMU's tools do not share", image, async (image, context) => {
  assert.equal(run("qemu-img", "create", "-q", "-f", "qcow2", image.path, "1M").ok, true);
  const other = new Deno.Command("qemu-io", {
    args: ["-f", "qcow2", image.path],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const input = other.stdin.getWriter();
  const output = other.stdout.getReader();
  await input.write(new TextEncoder().encode("length\n"));
  await output.read(); // it answers: the image is open
  const node = await open(context, image.path, fileDriver, { autoReadOnly: true });
  for (
    const [needed, shared, message] of [
      [Perm.consistentRead, Perm.all & ~Perm.resize, 'Failed to get shared "resize" lock'],
      [Perm.write, Perm.all, 'Failed to get "write" lock'],
      [Perm.resize, Perm.all, 'Failed to get "resize" lock'],
    ] as const
  ) {
    await assert.rejects(node.preparePermissions(needed, shared), {
      message,
      hints: [`Is another process using the image [${image.path}]?`],
    });
  }
  const shared = await open(context, image.path, fileDriver, { readOnly: true });
  // The graph has parents of such a node share everything.
  (await shared.preparePermissions(Perm.consistentRead, Perm.all)).commit();
  shared.close();
  await input.close();
  await output.cancel();
  await other.status;
  (await node.preparePermissions(Perm.write, Perm.consistentRead)).commit();
  node.close();
});
