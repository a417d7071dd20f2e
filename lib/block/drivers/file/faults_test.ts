/** System calls that fail under an open file: the request they belong to fails, and nothing else. */
import assert from "node:assert/strict";
import { BlockError } from "../../../base/mod.ts";
import { Errno, LinuxSys, type Sys } from "../../../sys/mod.ts";
import { failEveryCall, type FaultyCall, type FaultySys, faultySys } from "../../../sys/sim/mod.ts";
import { Perm, RequestFlag } from "../../mod.ts";
import { openContext, Piece, readBytes, testContext, type TestOpen } from "../testing.ts";
import { file as driver, type FileInstance } from "./mod.ts";

const OFF = { exact: true, preallocation: "off" } as const;
const MiB = 1 << 20;

/** Calls on the data path, made at once or on the pool. */
const names = [
  "preadv",
  "pwritev",
  "pread",
  "pwrite",
  "fdatasync",
  "fallocate",
  "ftruncate",
] as const;
const DATA: readonly FaultyCall[] = names.flatMap((name) => [name, `pool.${name}`] as const);

/** An open file of `length` bytes on the machine `sys`, for as long as `body` runs. */
async function withNode(
  sys: Sys,
  body: (node: FileInstance) => Promise<void>,
  length = 4 * MiB,
  how: TestOpen = {},
): Promise<void> {
  const filename = await Deno.makeTempFile();
  await Deno.writeFile(filename, new Uint8Array(length).fill(1));
  const context = testContext(() => sys);
  try {
    const options = { filename };
    const node = await driver.open(openContext(context, options, how), options) as FileInstance;
    await body(node);
    await node.close();
  } finally {
    context.end();
    await Deno.remove(filename);
  }
}

async function write(sys: Sys, node: FileInstance, offset: number, bytes: Uint8Array) {
  const piece = new Piece(sys, bytes.length);
  try {
    piece.bytes.set(bytes);
    await node.write(offset, piece.iov, 0);
  } finally {
    piece.free();
  }
}

function read(sys: Sys, node: FileInstance, offset: number, length: number) {
  return readBytes(sys, (at, iov, flags) => node.read(at, iov, flags), offset, length);
}

/** Runs `scenario` with each call of the data path failing in turn; gives how many there are. */
async function eachFailure(
  errno: number,
  scenario: (faulty: FaultySys, node: FileInstance) => Promise<void>,
): Promise<number> {
  const real = new LinuxSys();
  try {
    return await failEveryCall(
      real,
      { calls: DATA, errno },
      (faulty) => withNode(faulty.sys, (node) => scenario(faulty, node)),
    );
  } finally {
    real.dispose();
  }
}

Deno.test("whichever system call fails, the request it belongs to fails, and only that", async () => {
  let steps = 0;
  const places = await eachFailure(Errno.EIO, async ({ sys, injected }, node) => {
    const requests = {
      "write": () => write(sys, node, 0, new Uint8Array(4096).fill(2)),
      "read": () => read(sys, node, 0, 4096),
      "write-large": () => write(sys, node, 0, new Uint8Array(2 * MiB).fill(3)),
      "read-large": () => read(sys, node, 0, 2 * MiB),
      "zeroes": () => node.writeZeroes(0, 65536, 0),
      "unmap": () => node.writeZeroes(0, 65536, RequestFlag.mayUnmap),
      "discard": () => node.discard(65536, 65536),
      "truncate": () => node.truncate(3 * MiB, OFF),
    };
    steps = Object.keys(requests).length;
    const failed: string[] = [];
    for (const [name, request] of Object.entries(requests)) {
      const before = injected.length;
      try {
        await request();
        assert.equal(injected.length, before, `${name} swallowed the failure of ${injected}`);
      } catch (error) {
        assert.ok(error instanceof BlockError, String(error));
        assert.deepEqual([error.errno, error.node], ["EIO", "node"]);
        failed.push(name);
      }
    }
    assert.equal(failed.length, injected.length, `${failed} for ${injected}`);
  });
  assert.ok(places >= steps, "every step has a call that can fail");
});

Deno.test("an interrupted call is made again, whichever it is", async () => {
  const places = await eachFailure(Errno.EINTR, async ({ sys }, node) => {
    await write(sys, node, 0, new Uint8Array(4096).fill(2));
    await write(sys, node, 4096, new Uint8Array(2 * MiB).fill(3));
    assert.equal((await read(sys, node, 4000, 100))[99], 3);
    await node.writeZeroes(0, 512, 0);
    await node.discard(0, 512);
    await node.flush();
    await node.truncate(3 * MiB, OFF);
  });
  assert.ok(places >= 7, String(places));
});

Deno.test("reads and writes of which the kernel does only a part are gone on with", async () => {
  const real = new LinuxSys();
  const bytes = Uint8Array.from({ length: 3 * MiB }, (_, i) => i % 251);
  try {
    const places = await failEveryCall(
      real,
      { calls: DATA, short: true },
      ({ sys }) =>
        withNode(sys, async (node) => {
          await write(sys, node, 512, bytes.subarray(0, 5000));
          assert.deepEqual(await read(sys, node, 512, 5000), bytes.slice(0, 5000));
          await write(sys, node, 512, bytes);
          assert.deepEqual(await read(sys, node, 512, bytes.length), bytes);
        }),
    );
    assert.ok(places >= 4, String(places));
  } finally {
    real.dispose();
  }
});

Deno.test("after a failed flush no later one succeeds, unless nothing is in the page cache", async () => {
  const real = new LinuxSys();
  const calls = ["fdatasync", "pool.fdatasync"] as const;
  try {
    const cached = faultySys(real, { calls, failAt: 1 });
    await withNode(cached.sys, async (node) => {
      await assert.rejects(node.flush(), { errno: "EIO", op: "flush" });
      await assert.rejects(node.flush(), { errno: "EIO", op: "flush" });
      assert.equal(cached.calls, 1, "the kernel is not asked again");
      assert.equal((await read(cached.sys, node, 0, 512)).length, 512);
    }, 4096);
    const direct = faultySys(real, { calls, failAt: 1 });
    await withNode(
      direct.sys,
      async (node) => {
        await assert.rejects(node.flush(), { errno: "EIO" });
        await node.flush();
        assert.equal(direct.calls, 2);
      },
      4096,
      { direct: true },
    );
  } finally {
    real.dispose();
  }
});

Deno.test("a node that moves to another thread still knows that a flush has failed", async () => {
  const real = new LinuxSys();
  const faulty = faultySys(real, { calls: ["pool.fdatasync"], failAt: 1 });
  const filename = await Deno.makeTempFile();
  const context = testContext(() => faulty.sys);
  const options = { filename };
  const given = () => openContext(context, options, {});
  try {
    const node = await driver.open(given(), options) as FileInstance;
    await assert.rejects(node.flush(), { errno: "EIO" });
    const handedOver = await node.handOver();
    const next = await driver.open(Object.assign(given(), { handedOver }), options);
    await assert.rejects(async () => await next.flush!(), { errno: "EIO" });
    assert.equal(faulty.calls, 1);
    await next.close();
  } finally {
    context.end();
    await Deno.remove(filename);
    real.dispose();
  }
});

Deno.test("a node that has moved lets go of the locks that it came with", async () => {
  const filename = await Deno.makeTempFile();
  const context = testContext();
  const { sys } = context;
  const options = { filename };
  try {
    const node = await driver.open(openContext(context, options, {}), options) as FileInstance;
    (await node.preparePermissions(Perm.consistentRead | Perm.write, Perm.none)).commit();
    const handedOver = await node.handOver();
    const given = Object.assign(openContext(context, options, {}), { handedOver });
    const next = await driver.open(given, options) as FileInstance;
    const probe = sys.open(filename, 2);
    const locked = () => [101, 201].map((byte) => sys.ofdTestLock(probe, 1, byte, 1) !== 2);
    assert.deepEqual(locked(), [true, true]);
    (await next.preparePermissions(Perm.none, Perm.all)).commit();
    assert.deepEqual(locked(), [false, false]);
    sys.close(probe);
    await next.close();
  } finally {
    context.end();
    await Deno.remove(filename);
  }
});

Deno.test("where a file cannot be opened for writing, the locks are as they were", async () => {
  const real = new LinuxSys();
  const faulty = faultySys(real, { calls: ["pool.open"], failAt: 2, errno: Errno.EACCES });
  const filename = await Deno.makeTempFile();
  const context = testContext(() => faulty.sys);
  const options = { filename };
  try {
    const given = openContext(context, options, { autoReadOnly: true });
    const node = await driver.open(given, options) as FileInstance;
    (await node.preparePermissions(Perm.consistentRead, Perm.all & ~Perm.resize)).commit();
    const probe = real.open(filename, 2);
    const used = () => [100, 101, 200, 201].map((at) => real.ofdTestLock(probe, 1, at, 1) !== 2);
    const before = used();
    assert.deepEqual(before, [true, false, false, false]);
    const wanted = Perm.consistentRead | Perm.write;
    await assert.rejects(node.preparePermissions(wanted, Perm.none));
    assert.deepEqual(faulty.injected.length, 1);
    assert.deepEqual(used(), before);
    real.close(probe);
    await node.close();
  } finally {
    context.end();
    await Deno.remove(filename);
    real.dispose();
  }
});
