import assert from "node:assert/strict";
import { BlockError, CommandError, IoVec } from "../../../base/mod.ts";
import type { Sys } from "../../../sys/mod.ts";
import { emptyStatus, Perm, RequestFlag } from "../../mod.ts";
import {
  openContext,
  Piece,
  readBytes,
  type TestContext,
  testContext,
  type TestOpen,
} from "../testing.ts";
import { file as driver, type FileInstance, hostCdrom, hostDevice } from "./mod.ts";

const OFF = { exact: true, preallocation: "off" } as const;

/** Runs `body` with a directory and a context of its own. */
function test(
  name: string,
  body: (context: TestContext, directory: string) => Promise<void>,
  wrap?: (sys: Sys) => Sys,
): void {
  Deno.test(name, async () => {
    const directory = await Deno.makeTempDir();
    const context = testContext(wrap);
    try {
      await body(context, directory);
    } finally {
      context.end();
      await Deno.remove(directory, { recursive: true });
    }
  });
}

async function open(
  context: TestContext,
  filename: string,
  how: TestOpen = {},
  options: Record<string, unknown> = {},
  definition = driver,
): Promise<FileInstance> {
  const all = { filename, ...options };
  return await definition.open(openContext(context, all, how), all) as FileInstance;
}

async function write(
  context: TestContext,
  node: FileInstance,
  offset: number,
  bytes: Uint8Array,
): Promise<void> {
  const piece = new Piece(context.sys, bytes.length);
  try {
    piece.bytes.set(bytes);
    await node.write(offset, piece.iov, 0);
  } finally {
    piece.free();
  }
}

function read(
  context: TestContext,
  node: FileInstance,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  return readBytes(context.sys, (at, iov, flags) => node.read(at, iov, flags), offset, length);
}

async function refused(promise: Promise<unknown>): Promise<string> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof CommandError, String(error));
    return error.message;
  }
  assert.fail("it was accepted");
}

test("what is written is read back, at any offset, in several segments", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(8192));
  const node = await open(context, `${dir}/x`);
  await write(context, node, 1000, new Uint8Array(3000).fill(7));
  const piece = new Piece(context.sys, 4096);
  const iov = new IoVec().add(piece.memory.address + 3000, 1096).add(piece.memory.address, 3000);
  await node.read(500, iov, 0);
  const want = new Uint8Array(4096).fill(7, 500, 3500);
  const got = new Uint8Array([...piece.bytes.subarray(3000), ...piece.bytes.subarray(0, 3000)]);
  assert.deepEqual(got, want);
  piece.free();
  await node.flush();
  node.close();
  assert.equal(Deno.readFileSync(`${dir}/x`)[1000], 7);
});

test("reads from the page cache complete at once", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(65536).fill(3));
  const node = await open(context, `${dir}/x`);
  const piece = new Piece(context.sys, 4096);
  assert.equal(node.read(4096, piece.iov, 0), undefined);
  assert.equal(piece.bytes[0], 3);
  assert.equal(node.transfers.inline, 1);
  piece.free();
  node.close();
});

test(
  "reads past the end of the file give zeroes, also when it shrinks meanwhile",
  async (context, dir) => {
    Deno.writeFileSync(`${dir}/x`, new Uint8Array(1000).fill(5));
    const node = await open(context, `${dir}/x`);
    assert.equal(node.size, 1000);
    const tail = await read(context, node, 512, 512);
    assert.deepEqual(tail, new Uint8Array(512).fill(5, 0, 488));
    Deno.truncateSync(`${dir}/x`, 100);
    assert.deepEqual(await read(context, node, 0, 1000), new Uint8Array(1000).fill(5, 0, 100));
    const large = await read(context, node, 0, 3 << 20);
    assert.deepEqual(large, new Uint8Array(3 << 20).fill(5, 0, 100));
    node.close();
  },
);

test("a write into the rest of the last sector makes the file longer", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(1000));
  const node = await open(context, `${dir}/x`);
  await write(context, node, 1010, new Uint8Array(4).fill(1));
  assert.equal(node.size, 1014);
  assert.equal(Deno.statSync(`${dir}/x`).size, 1014);
  node.close();
});

test("what cannot be opened is refused in QEMU's words", async (context, dir) => {
  Deno.mkdirSync(`${dir}/d`);
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(512));
  await new Deno.Command("mkfifo", { args: [`${dir}/fifo`] }).output();
  const regular = (name: string) => `'file' driver requires '${name}' to be a regular file`;
  const device = (driver: string, name: string) =>
    `'${driver}' driver requires '${name}' to be either a character or block device`;
  const migration = "it is about live migration, which a storage daemon does not take part in";
  const texts: [string, () => Promise<unknown>][] = [
    [`Could not open '${dir}/d': Is a directory`, () => open(context, `${dir}/d`)],
    [regular(`${dir}/d`), () => open(context, `${dir}/d`, { readOnly: true })],
    [regular(`${dir}/d`), () => open(context, `${dir}/d`, { autoReadOnly: true })],
    [regular(`${dir}/fifo`), () => open(context, `${dir}/fifo`, { readOnly: true })],
    [regular("/dev/null"), () => open(context, "/dev/null")],
    [`Could not open '${dir}/no': No such file or directory`, () => open(context, `${dir}/no`)],
    ["The 'file' block driver requires a file name", () => open(context, "")],
    [device("host_device", `${dir}/x`), () => open(context, `${dir}/x`, {}, {}, hostDevice)],
    [device("host_cdrom", `${dir}/x`), () => open(context, `${dir}/x`, {}, {}, hostCdrom)],
    [
      "aio=native was specified, but it requires cache.direct=on, which was not specified.",
      () => open(context, `${dir}/x`, {}, { aio: "native" }),
    ],
    [
      "No persistent reservation manager with id 'm'",
      () => open(context, `${dir}/x`, {}, { "pr-manager": "m" }),
    ],
    [
      `Parameter 'drop-cache' can only be true: ${migration}`,
      () => open(context, `${dir}/x`, {}, { "drop-cache": false }),
    ],
    [
      `Parameter 'x-check-cache-dropped' can only be false: ${migration}`,
      () => open(context, `${dir}/x`, {}, { "x-check-cache-dropped": true }),
    ],
    [
      "Could not dup FD for /dev/fdset/1 flags 2: Function not implemented",
      () => open(context, "/dev/fdset/1"),
    ],
    [`Could not open '${dir}/x\\0y': Invalid argument`, () => open(context, `${dir}/x\0y`)],
  ];
  for (const [want, attempt] of texts) assert.equal(await refused(attempt()), want);
});

test("symbolic links are followed, and the name stays as it was given", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(4096).fill(9));
  Deno.symlinkSync(`${dir}/x`, `${dir}/link`);
  const node = await open(context, `${dir}/link`);
  assert.equal((await read(context, node, 0, 1))[0], 9);
  assert.deepEqual(node.facts(), {
    filename: `${dir}/link`,
    format: "file",
    actualSize: 4096,
    dirtyFlag: false,
  });
  node.close();
});

test("host_device takes character devices, whose length is 0", async (context) => {
  const node = await open(context, "/dev/null", {}, {}, hostDevice);
  assert.equal(node.size, 0);
  assert.ok(node.inserted());
  node.close();
});

test("host_cdrom without a medium has no length and no data", async (context) => {
  const node = await open(context, "/dev/null", {}, {}, hostCdrom);
  assert.equal(node.size, 0);
  assert.equal(node.inserted(), false);
  await assert.rejects(read(context, node, 0, 512), {
    errno: "ENOMEDIUM",
    message: "No medium found",
  });
  node.close();
});

test(
  "zeroes and discards read as zeroes, free space where asked, and are counted",
  async (context, dir) => {
    Deno.writeFileSync(`${dir}/x`, new Uint8Array(1 << 20).fill(1));
    const node = await open(context, `${dir}/x`);
    const allocated = () => Deno.statSync(`${dir}/x`).blocks! * 512;
    const status = (offset: number, length: number) => {
      const out = emptyStatus();
      node.status(offset, length, true, out);
      return out;
    };
    assert.equal(status(0, 1 << 20).data, true);
    await node.writeZeroes(4096, 65536, 0);
    assert.equal(allocated(), 1 << 20);
    await node.writeZeroes(131072, 65536, RequestFlag.mayUnmap);
    assert.equal(allocated(), (1 << 20) - 65536);
    assert.equal(status(131072, 65536).zero, true);
    await node.discard(262144, 65536);
    assert.equal(allocated(), (1 << 20) - 131072);
    assert.equal(status(262144, 65536).zero, true);
    const want = new Uint8Array(1 << 20).fill(1);
    for (const at of [131072, 262144, 4096]) want.fill(0, at, at + 65536);
    assert.deepEqual(await read(context, node, 0, 1 << 20), want);
    assert.deepEqual(node.statistics(), {
      driver: "file",
      "discard-nb-ok": 1,
      "discard-nb-failed": 0,
      "discard-bytes-ok": 65536,
    });
    node.close();
  },
);

test("status that need not be precise is data and asks nobody", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(0));
  Deno.truncateSync(`${dir}/x`, 1 << 20);
  const node = await open(context, `${dir}/x`);
  const out = emptyStatus();
  node.status(0, 4096, false, out);
  assert.equal(out.data, true);
  node.status(0, 4096, true, out);
  assert.equal(out.zero, true);
  node.close();
});

test("truncate grows, shrinks and preallocates", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(0));
  const node = await open(context, `${dir}/x`);
  const blocks = () => Deno.statSync(`${dir}/x`).blocks! * 512;
  await node.truncate(65536, OFF);
  assert.deepEqual([node.size, blocks()], [65536, 0]);
  await node.truncate(131072, { exact: true, preallocation: "falloc" });
  assert.deepEqual([node.size, blocks()], [131072, 65536]);
  await node.truncate(3 << 20, { exact: true, preallocation: "full" });
  assert.deepEqual([node.size, blocks()], [3 << 20, (3 << 20) - 65536]);
  await node.truncate(4096, OFF);
  assert.equal(Deno.statSync(`${dir}/x`).size, 4096);
  const problem = (size: number, preallocation: "metadata" | "falloc") =>
    assert.rejects(node.truncate(size, { exact: true, preallocation }), BlockError);
  await problem(8192, "metadata");
  await problem(512, "falloc");
  assert.equal(node.size, 4096);
  node.close();
});

test(
  "a size that the file system cannot hold is refused and changes nothing",
  async (context, dir) => {
    Deno.writeFileSync(`${dir}/x`, new Uint8Array(512));
    const node = await open(context, `${dir}/x`);
    await assert.rejects(node.truncate(2 ** 52, OFF), {
      errno: "EFBIG",
      kind: "no-space",
      message: "Could not resize file: File too large",
    });
    assert.equal(node.size, 512);
    node.close();
  },
);

test("O_DIRECT reports its alignment and reads and writes through it", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(65536 + 1000).fill(2));
  const node = await open(context, `${dir}/x`, { direct: true });
  const { requestAlignment, memoryAlignment } = node.limits;
  assert.ok([512, 1024, 2048, 4096].includes(requestAlignment!), `${requestAlignment}`);
  assert.ok(memoryAlignment! >= 1 && memoryAlignment! <= 4096);
  await write(context, node, 4096, new Uint8Array(8192).fill(8));
  assert.deepEqual(await read(context, node, 4096, 8192), new Uint8Array(8192).fill(8));
  const tail = await read(context, node, 65536, 4096);
  assert.deepEqual(tail, new Uint8Array(4096).fill(2, 0, 1000), "the end may lie anywhere");
  node.close();
});

test(
  "auto-read-only opens for writing with the first writer and back after the last",
  async (context, dir) => {
    Deno.writeFileSync(`${dir}/x`, new Uint8Array(4096));
    const node = await open(context, `${dir}/x`, { autoReadOnly: true });
    await assert.rejects(write(context, node, 0, new Uint8Array(512)), { errno: "EBADF" });
    (await node.preparePermissions(Perm.consistentRead | Perm.write, Perm.all)).commit();
    await write(context, node, 0, new Uint8Array(512).fill(4));
    await node.flush();
    (await node.preparePermissions(Perm.consistentRead, Perm.all)).commit();
    await assert.rejects(write(context, node, 0, new Uint8Array(512)), { errno: "EBADF" });
    assert.equal((await read(context, node, 0, 1))[0], 4);
    node.close();
  },
);

test("reopening for writing finds the same file though its name is gone", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(4096).fill(6));
  const node = await open(context, `${dir}/x`, { autoReadOnly: true });
  Deno.renameSync(`${dir}/x`, `${dir}/moved`);
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(4096).fill(1));
  (await node.preparePermissions(Perm.write, Perm.all)).commit();
  await write(context, node, 512, new Uint8Array(512).fill(7));
  assert.equal(Deno.readFileSync(`${dir}/moved`)[512], 7);
  assert.equal(Deno.readFileSync(`${dir}/x`)[512], 1);
  node.close();
});

test("reopen changes mode and cache, and refuses what cannot change", async (context, dir) => {
  Deno.writeFileSync(`${dir}/x`, new Uint8Array(8192).fill(1));
  const filename = `${dir}/x`;
  const node = await open(context, filename);
  const reopen = async (options: Record<string, unknown>, how: TestOpen = {}) => {
    const all = { filename, ...options };
    const change = await node.prepareReopen(openContext(context, all, how), all);
    await change.commit();
  };
  await reopen({}, { direct: true });
  assert.ok(node.limits.requestAlignment! >= 512);
  await reopen({}, { readOnly: true });
  assert.equal(node.limits.requestAlignment, 1);
  await assert.rejects(write(context, node, 0, new Uint8Array(512)), { errno: "EBADF" });
  await reopen({ "drop-cache": true });
  await write(context, node, 0, new Uint8Array(512).fill(3));
  assert.equal(await refused(reopen({ filename: "other" })), "Cannot change the option 'filename'");
  for (const [option, value] of [["aio", "io_uring"], ["locking", "off"], ["aio-max-batch", 4]]) {
    const text = `Cannot change the option '${option}'`;
    assert.equal(await refused(reopen({ "drop-cache": true, [option as string]: value })), text);
  }
  assert.match(await refused(reopen({ "drop-cache": false })), /^Parameter 'drop-cache' can only/);
  assert.equal(
    await refused(reopen({})),
    "Option 'drop-cache' cannot be reset to its default value",
  );
  node.close();
});

test(
  "locks follow permissions, whatever is shared by force, and the mode of the descriptor does not lose them",
  async (context, dir) => {
    Deno.writeFileSync(`${dir}/x`, new Uint8Array(4096));
    const { sys } = context;
    const probe = sys.open(`${dir}/x`, 2);
    const placed = () =>
      [100, 101, 102, 103, 200, 201, 202, 203].filter((byte) =>
        sys.ofdTestLock(probe, 1, byte, 1) !== 2
      );
    const holds = async (expected: readonly number[], when?: string) => {
      // A child that another test starts has our descriptors, and their locks, until it runs a program of its own.
      const until = performance.now() + 5000;
      while (placed().length > expected.length && performance.now() < until) {
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      assert.deepEqual(placed(), expected, when);
    };
    const node = await open(context, `${dir}/x`, { autoReadOnly: true });
    const permit = async (needed: number, shared: number) =>
      (await node.preparePermissions(needed, shared)).commit();
    const all = { filename: `${dir}/x` };
    const reopen = async (how: TestOpen) =>
      (await node.prepareReopen(openContext(context, all, how), all)).commit();
    await permit(Perm.consistentRead, Perm.all & ~Perm.resize);
    await holds([100, 203]);
    await permit(Perm.consistentRead | Perm.write, Perm.all & ~Perm.resize);
    await holds([100, 101, 203], "reopened for writing");
    (await node.preparePermissions(Perm.consistentRead, Perm.none)).abort();
    await holds([100, 101, 203], "an aborted change");
    await permit(Perm.consistentRead, Perm.all & ~Perm.resize);
    await holds([100, 203], "reopened for reading");
    await reopen({ readOnly: true });
    await holds([100, 203]);
    await permit(Perm.consistentRead, Perm.none);
    await holds([100, 200, 201, 202, 203]);
    await reopen({ direct: true });
    await holds([100, 200, 201, 202, 203]);
    // Both at once, of a node that shares nothing: its own new descriptor is not in its way.
    await reopen({ readOnly: true });
    const change = await node.prepareReopen(openContext(context, all, {}), all);
    const permissions = await node.preparePermissions(
      Perm.consistentRead | Perm.write | Perm.resize,
      Perm.none,
    );
    change.commit();
    permissions.commit();
    await holds([100, 101, 103, 200, 201, 202, 203]);
    node.close();
    await holds([]);
    sys.close(probe);
  },
);

/** Answers reads and writes that must not wait with what `answer` says, until it says undefined. */
class Impatient {
  answer: (length: number) => number | undefined = () => undefined;
  wrap = (sys: Sys): Sys =>
    new Proxy(sys, {
      get: (of, key) => {
        const value: unknown = Reflect.get(of, key, of);
        if (typeof value !== "function") return value;
        if (key !== "preadv" && key !== "pwritev") return value.bind(of);
        return (fd: number, iov: IoVec, offset: number, flags: number) => {
          const rc = flags === 0 ? undefined : this.answer(iov.total);
          if (rc === undefined || rc < 0) return rc ?? value.call(of, fd, iov, offset, 0);
          return value.call(of, fd, iov.slice(0, rc), offset, 0);
        };
      },
    });
}

const impatient = new Impatient();
test(
  "what the page cache has not got is fetched by the engine, from where the cache ended",
  async (context, dir) => {
    const bytes = Uint8Array.from({ length: 16384 }, (_, i) => i % 251);
    Deno.writeFileSync(`${dir}/x`, bytes);
    const node = await open(context, `${dir}/x`);
    const answers = [-11, -4, (length: number) => length / 2, (length: number) => length - 1];
    for (const [i, answer] of answers.entries()) {
      impatient.answer = typeof answer === "number" ? () => answer : answer;
      assert.deepEqual(await read(context, node, 100, 5000), bytes.subarray(100, 5100));
      assert.equal(node.transfers.queued, 2 * i + 1, "the engine did the rest");
      await write(context, node, 200, bytes.subarray(200, 9000));
      assert.equal(node.transfers.queued, 2 * i + 2);
    }
    assert.deepEqual(Deno.readFileSync(`${dir}/x`), bytes);
    impatient.answer = () => -95; // this file system does not know the flag
    await read(context, node, 0, 4096);
    await write(context, node, 0, bytes.subarray(0, 4096));
    assert.deepEqual(node.transfers, { engine: "threads", inline: 2, queued: 8 });
    node.close();
  },
  impatient.wrap,
);

test("pages that nobody holds can be dropped, those in a socket stay", async (context) => {
  const dir = await Deno.makeTempDir();
  const ends = context.sys.socketpair();
  assert(typeof ends !== "number");
  try {
    await Deno.writeFile(`${dir}/f`, new Uint8Array(65_536).fill(7));
    const node = await open(context, `${dir}/f`);
    const there = () => node.pages!.inPageCache(0, 65_536);
    if (there() === undefined) return await node.close(); // before Linux 6.5
    const file = context.sys.open(`${dir}/f`, 0, 0);
    assert.equal(context.sys.sendfile(ends[0], file, 8192, 512), 512);
    context.sys.close(file);
    await node.flush();
    await node.pages!.dropPages(0, 65_536);
    assert.equal(there(), true);
    const memory = context.buffers.acquire(512);
    assert.equal(context.sys.recv(ends[1], memory.address, 512, 0), 512);
    assert.ok(memory.bytes.subarray(0, 512).every((byte) => byte === 7));
    context.buffers.release(memory);
    await node.pages!.dropPages(0, 65_536);
    assert.equal(there(), false);
    await node.close();
  } finally {
    for (const fd of ends) context.sys.close(fd);
    await Deno.remove(dir, { recursive: true });
  }
});

/** Where the tests' files lie by themselves, and in tmpfs, which knows no other way than a hole. */
for (const place of [undefined, "/dev/shm"]) {
  test(`zeroes without pages leave none in the page cache: ${place ?? "here"}`, async (context) => {
    const dir = await Deno.makeTempDir(place === undefined ? {} : { dir: place });
    try {
      await Deno.writeFile(`${dir}/f`, new Uint8Array(65_536).fill(7));
      const node = await open(context, `${dir}/f`);
      const there = () => node.pages!.inPageCache(16_384, 32_768);
      if (there() === undefined) return await node.close(); // before Linux 6.5
      assert.equal(there(), true);
      await node.flush();
      await node.writeZeroes(16_384, 32_768, RequestFlag.noFallback | RequestFlag.noPages);
      assert.equal(there(), false);
      const bytes = await read(context, node, 0, 65_536);
      assert.ok(bytes.every((byte, at) => byte === (at >= 16_384 && at < 49_152 ? 0 : 7)));
      await node.close();
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  });
}
