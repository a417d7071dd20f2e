/** What becomes of images that are marked, corrupt or dirty, and of changes when an image goes read-only. */
import assert from "node:assert/strict";
import { IoVec } from "../../../base/mod.ts";
import type { BlockdevOptionsValue } from "../../../qmp/schema/blockdev.ts";
import { type BlockBackend, Perm } from "../../mod.ts";
import { ioError, MemoryDisk, type TestGraph, testGraph } from "../../testing.ts";
import { qcow2 } from "./mod.ts";

const CLUSTER = 65536;
/** The low byte of the incompatible features: bit 0 dirty, bit 1 corrupt. */
const MARKS = 79;
const DIRTY = 1, CORRUPT = 2;

async function run(program: string, ...args: string[]): Promise<number> {
  return (await new Deno.Command(program, { args, stdout: "null", stderr: "null" }).output()).code;
}

/** A disk of 1 MiB whose first cluster holds 7, in an image with these marks. */
async function marked(marks: number): Promise<MemoryDisk> {
  const name = await Deno.makeTempFile();
  try {
    assert.equal(await run("qemu-img", "create", "-q", "-f", "qcow2", name, "1M"), 0);
    assert.equal(await run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 64k", name), 0);
    const bytes = await Deno.readFile(name);
    bytes[MARKS] = marks;
    const disk = new MemoryDisk(bytes.length);
    disk.bytes.set(bytes);
    disk.mark(0, bytes.length, true);
    return disk;
  } finally {
    await Deno.remove(name);
  }
}

/** What `qemu-img check` ends with: 0 for no error and no leak. */
async function check(disk: MemoryDisk): Promise<number> {
  const name = await Deno.makeTempFile();
  try {
    await Deno.writeFile(name, disk.bytes);
    return await run("qemu-img", "check", "-q", name);
  } finally {
    await Deno.remove(name);
  }
}

const options = (readOnly: boolean) =>
  ({
    driver: "qcow2",
    "node-name": "image",
    "read-only": readOnly,
    "cache-clean-interval": 0,
    file: { driver: "memory", disk: "disk" },
  }) as unknown as BlockdevOptionsValue;

async function user({ graph }: TestGraph, writes: boolean): Promise<BlockBackend> {
  return await graph.backend("image", {
    describe: "the test",
    needed: Perm.consistentRead | (writes ? Perm.write : 0),
    shared: Perm.all,
  });
}

async function firstByte(test: TestGraph, backend: BlockBackend): Promise<number> {
  const memory = test.memory(512);
  await backend.read(0, IoVec.of(memory.address, 512));
  return memory.bytes[0]!;
}

async function write(test: TestGraph, backend: BlockBackend, at: number): Promise<void> {
  const memory = test.memory(new Uint8Array(CLUSTER).fill(9));
  await backend.write(at, IoVec.of(memory.address, CLUSTER));
}

const refused = { message: "qcow2: Image is corrupt; cannot be opened read/write" };

Deno.test("an image that is marked as corrupt is read, and neither opened nor reopened for writing", async () => {
  const disk = await marked(CORRUPT);
  const before = disk.bytes.slice();
  const test = testGraph({ disk }, [qcow2 as never]);
  await assert.rejects(test.add(options(false)), refused);
  await test.add(options(true));
  const backend = await user(test, false);
  assert.equal(await firstByte(test, backend), 7);
  await assert.rejects(test.graph.reopen([options(false)]), refused);
  assert.equal(await firstByte(test, backend), 7);
  await backend.detach();
  await test.graph.closeAll();
  assert.deepEqual(disk.bytes, before, "nothing was written");
});

/** Where the counts lie that a repair looks at, and may change. */
const COUNTS = 2 * CLUSTER;

for (const failing of ["read", "write"]) {
  Deno.test(`a dirty image whose counts fail to ${failing} is not opened for writing, and stays marked`, async () => {
    const disk = await marked(DIRTY);
    disk.bytes[COUNTS + 5 * 2 + 1] = 3; // of the data: it is to be 1
    disk.fault = ({ op, offset }) => op === failing && offset === COUNTS ? ioError() : undefined;
    const test = testGraph({ disk }, [qcow2 as never]);
    await assert.rejects(test.add(options(false)), {
      errno: "EIO",
      message: failing === "read"
        ? "Could not repair dirty image: Input/output error"
        : "injected EIO",
    });
    assert.equal(disk.bytes[MARKS]! & DIRTY, DIRTY);
    disk.fault = undefined;
    await test.add(options(false));
    await test.graph.closeAll();
    assert.equal(disk.bytes[MARKS]! & DIRTY, 0);
    assert.equal(await check(disk), 0);
  });
}

Deno.test("a dirty image that cannot be repaired is read as before when it was to become writable", async () => {
  const disk = await marked(DIRTY);
  const test = testGraph({ disk }, [qcow2 as never]);
  await test.add(options(true));
  const backend = await user(test, false);
  disk.fault = ({ op, offset }) => op === "read" && offset === COUNTS ? ioError() : undefined;
  const message = "Could not repair dirty image: Input/output error";
  await assert.rejects(test.graph.reopen([options(false)]), { message });
  assert.equal(await firstByte(test, backend), 7);
  disk.fault = undefined;
  await test.graph.reopen([options(true)]);
  await test.graph.reopen([options(false)]);
  assert.equal(await firstByte(test, backend), 7);
  assert.equal(disk.bytes[MARKS]! & DIRTY, 0);
  await backend.detach();
  await test.graph.closeAll();
  assert.equal(await check(disk), 0);
});

/** Where the entry of the first cluster lies. */
const FIRST_ENTRY = 4 * CLUSTER;

for (const reopened of [false, true]) {
  const how = reopened ? "reopened" : "opened";
  Deno.test(`a dirty image with an entry that no repair mends is ${how} for writing, and marked until it is closed`, async () => {
    const disk = await marked(DIRTY);
    new DataView(disk.bytes.buffer).setBigUint64(
      FIRST_ENTRY,
      1n << 63n | BigInt(5 * CLUSTER + 512),
    );
    const test = testGraph({ disk }, [qcow2 as never]);
    await test.add(options(reopened));
    if (reopened) await test.graph.reopen([options(false)]);
    assert.equal(disk.bytes[MARKS]! & DIRTY, DIRTY);
    const writer = await user(test, true);
    await write(test, writer, CLUSTER);
    await writer.flush();
    await writer.detach();
    assert.equal(disk.bytes[MARKS]! & DIRTY, DIRTY);
    await test.graph.closeAll();
    assert.equal(disk.bytes[MARKS]!, 0);
  });
}

Deno.test("an image goes read-only with all that was written, or stays writable where that fails", async () => {
  const disk = await marked(0);
  const test = testGraph({ disk }, [qcow2 as never]);
  await test.add(options(false));
  const writer = await user(test, true);
  await write(test, writer, CLUSTER);
  await writer.detach();
  disk.fault = ({ op }) => op === "write" ? ioError("ENOSPC") : undefined;
  await assert.rejects(test.graph.reopen([options(true)]), { errno: "ENOSPC" });
  assert.equal(test.graph.find("image")!.readOnly, false);
  disk.fault = undefined;
  const again = await user(test, true);
  await write(test, again, 2 * CLUSTER);
  await again.detach();
  await test.graph.reopen([options(true)]);
  assert.equal(test.graph.find("image")!.readOnly, true);
  assert.equal(await check(disk), 0, "complete before it is closed");
  disk.calls.length = 0;
  await test.graph.closeAll();
  assert.ok(!disk.calls.some(({ op }) => op === "write"), "nothing is written afterwards");
});
