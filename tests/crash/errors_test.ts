/** Errors of the file system are told to the request that met them, and to it alone. */
import assert from "node:assert/strict";
import { ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, ERR, FLAG } from "../harness/nbd_wire.ts";
import { serve } from "../harness/serve.ts";
import { skip } from "../harness/skips.ts";
import { lacks, ok, run } from "../harness/tools.ts";
import { Faults } from "./failing.ts";

const MIB = 1048576;
const EIO = 5;
const ENOSPC = 28;
const ignore = lacks("crash/errors", "cc");

Deno.test({
  name: "EIO of a read is told to that request alone, and the export goes on",
  // The original closes the connection when a structured read fails.
  ignore: ignore || ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    const bytes = noisy(dir.file("disk.raw"), MIB);
    const faults = await Faults.make(dir, "disk.raw");
    await using daemon = await serve({ dir, start: { env: faults.env } });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    using other = await NbdPeer.attach(daemon.file("nbd"), "disk", { structured: false });
    faults.set({ call: "read", errno: EIO, from: 65536, to: 69632 });
    const cookies: bigint[] = [];
    for (let at = 0; at < 32; at++) {
      cookies.push(await peer.ask({ type: CMD.READ, offset: at * 4096, length: 4096 }));
    }
    for (const [at, cookie] of cookies.entries()) {
      const { error, data } = await peer.answer(cookie);
      assert.equal(error, at === 16 ? ERR.EIO : 0, `read ${at}`);
      if (at !== 16) {
        assertSameBytes(data, bytes.subarray(at * 4096, (at + 1) * 4096), `read ${at}`);
      }
    }
    assert.equal((await other.call({ type: CMD.READ, offset: 65536, length: 512 })).error, ERR.EIO);
    assert.equal((await other.read(0, 512)).length, 512);
    faults.set();
    assertSameBytes(await peer.read(65536, 4096), bytes.subarray(65536, 69632), "after the fault");
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "EIO and ENOSPC of writes are told by their name to that request alone",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), MIB);
    const faults = await Faults.make(dir, "disk.raw");
    await using daemon = await serve({ dir, start: { env: faults.env } });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    for (const [errno, told] of [[EIO, ERR.EIO], [ENOSPC, ERR.ENOSPC]] as const) {
      faults.set({ call: "write", errno, from: 8192, to: 12288 });
      const cookies: bigint[] = [];
      for (let at = 0; at < 8; at++) {
        const payload = noise(4096, 100 + at + errno);
        cookies.push(await peer.ask({ type: CMD.WRITE, offset: at * 4096, payload }));
        if (at !== 2) model.set(payload, at * 4096);
      }
      for (const [at, cookie] of cookies.entries()) {
        assert.equal((await peer.answer(cookie)).error, at === 2 ? told : 0, `write ${at}`);
      }
    }
    faults.set();
    assertSameBytes(await peer.read(0, MIB), model, "the image");
    await daemon.stop();
    assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the file");
  },
});

Deno.test({
  name:
    "EIO and ENOSPC in the middle of a large write are told to it alone, and the next payload is its own",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 8 * MIB);
    const faults = await Faults.make(dir, "disk.raw");
    await using daemon = await serve({ dir, start: { env: faults.env } });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    const errors = [[EIO, ERR.EIO], [ENOSPC, ERR.ENOSPC]] as const;
    for (const [round, [errno, told]] of errors.entries()) {
      const broken = 2 * MIB + 700_000; // where nothing gets through, in the second write
      faults.set({ call: "write", errno, from: broken, to: broken + 4096 });
      for (let at = 0; at < 8; at++) {
        const payload = noise(MIB, 100 * round + at);
        const answer = await peer.call({ type: CMD.WRITE, offset: at * MIB, payload });
        assert.equal(answer.error, at === 2 ? told : 0, `write ${at}`);
        model.set(payload, at * MIB);
      }
      faults.set();
      await peer.write(2 * MIB, model.subarray(2 * MIB, 3 * MIB));
      assertSameBytes(await peer.read(0, 8 * MIB), model, "the image");
    }
    await daemon.stop();
    assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the file");
  },
});

Deno.test({
  name: "a file system without splice is written to all the same",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 8 * MIB);
    const faults = await Faults.make(dir, "disk.raw");
    await using daemon = await serve({ dir, start: { env: faults.env } });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    for (let round = 0; round < 2; round++) {
      for (let at = 0; at < 8; at++) {
        const payload = noise(MIB - 512, 50 + at + round);
        await peer.write(at * MIB, payload);
        model.set(payload, at * MIB);
      }
      faults.set({ call: "splice", errno: 22 }); // EINVAL
    }
    await daemon.stop();
    assertSameBytes(Deno.readFileSync(dir.file("disk.raw")), model, "the file");
  },
});

/** Words before the program: its calls fail, also those that FFI makes on other threads; the pid stays. */
const inject = (calls: string, errno: string): string[] => [
  ...["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${calls}`],
  ...["-e", `inject=${calls}:error=${errno}`],
];

Deno.test({
  name: "a failed flush is told to the flush and to FUA writes, not to plain writes",
  ignore: lacks("crash/errors", "strace"),
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB);
    await using daemon = await serve({ dir, start: { wrapper: inject("fdatasync,fsync", "EIO") } });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    await peer.write(0, noise(4096));
    assert.equal((await peer.call({ type: CMD.FLUSH })).error, ERR.EIO);
    const fua = { type: CMD.WRITE, flags: FLAG.FUA, offset: 0, payload: noise(4096) };
    assert.equal((await peer.call(fua)).error, ERR.EIO);
    await peer.write(4096, noise(4096));
    assert.equal((await peer.read(0, 4096)).length, 4096);
    assert.equal((await daemon.qmp.execute("query-block-exports")).length, 1);
  },
});

Deno.test({
  name: "where fallocate is not supported, zeroes are written and discards are harmless",
  ignore: lacks("crash/errors", "strace"),
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), MIB);
    await using daemon = await serve({
      dir,
      node: ",discard=unmap",
      start: { wrapper: inject("fallocate", "EOPNOTSUPP") },
    });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
    const zeroes = { type: CMD.WRITE_ZEROES, offset: 8192, length: 65536 };
    assert.equal((await peer.call(zeroes)).error, 0);
    model.fill(0, 8192, 8192 + 65536);
    await peer.call({ type: CMD.TRIM, offset: 131072, length: 65536 });
    const fast = { ...zeroes, offset: 524288, flags: FLAG.FAST_ZERO };
    const { error } = await peer.call(fast);
    assert.ok(error === 0 || error === 95, `fast zero: ${error}`);
    if (error === 0) model.fill(0, 524288, 524288 + 65536);
    const got = await peer.read(0, MIB);
    assertSameBytes(got.subarray(0, 131072), model.subarray(0, 131072), "the zeroes");
    assertSameBytes(got.subarray(196608), model.subarray(196608), "the rest");
  },
});

const canMount = Deno.uid() === 0 || skip("crash/enospc", "mounting a tmpfs needs root") !== true;

Deno.test({
  name: "a full file system gives ENOSPC to the write that met it; reads and overwrites go on",
  ignore: !canMount || lacks("crash/enospc", "mount", "umount"),
  fn: async () => {
    await using dir = TestDir.make();
    Deno.mkdirSync(dir.file("small"));
    const mounted = await run("mount", ["-t", "tmpfs", "-o", "size=2M", "none", dir.file("small")]);
    if (mounted.status !== 0) return void skip("crash/enospc", `mount: ${mounted.stderr.trim()}`);
    try {
      Deno.writeFileSync(dir.file("small/disk.raw"), new Uint8Array(0));
      Deno.truncateSync(dir.file("small/disk.raw"), 8 * MIB);
      await using daemon = await serve({ dir, file: "small/disk.raw" });
      using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
      const errors: number[] = [];
      for (let at = 0; at < 8; at++) {
        const payload = noise(MIB, at + 1);
        errors.push((await peer.call({ type: CMD.WRITE, offset: at * MIB, payload })).error);
      }
      assert.equal(errors[0], 0);
      assert.equal(errors.at(-1), ERR.ENOSPC);
      assert.ok(errors.every((error) => error === 0 || error === ERR.ENOSPC), `${errors}`);
      assertSameBytes(await peer.read(0, MIB), noise(MIB, 1), "what was written before");
      await peer.write(0, noise(65536, 50));
      assertSameBytes(await peer.read(0, 65536), noise(65536, 50), "an overwrite");
      assert.equal((await peer.call({ type: CMD.TRIM, offset: 0, length: MIB })).error, 0);
      assert.equal((await daemon.stop()).status, 0);
    } finally {
      await ok("umount", [dir.file("small")]);
    }
  },
});

Deno.test("an image that is cut off underneath fails nobody but reads zeroes or EIO beyond its end", async () => {
  await using dir = TestDir.make();
  const bytes = noisy(dir.file("disk.raw"), MIB);
  await using daemon = await serve({ dir });
  using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
  Deno.truncateSync(dir.file("disk.raw"), 65536);
  assertSameBytes(await peer.read(0, 65536), bytes.subarray(0, 65536), "what is left");
  const { error, data } = await peer.call({ type: CMD.READ, offset: 524288, length: 4096 });
  assert.ok(error === 0 || error === ERR.EIO, `${error}`);
  if (error === 0) assertSameBytes(data, new Uint8Array(4096), "beyond the end");
  const across = await peer.call({ type: CMD.READ, offset: 61440, length: 8192 });
  if (across.error === 0) {
    assertSameBytes(across.data.subarray(0, 4096), bytes.subarray(61440, 65536), "before the end");
    assertSameBytes(across.data.subarray(4096), new Uint8Array(4096), "after the end");
  }
  await peer.write(524288, noise(4096, 3));
  assertSameBytes(await peer.read(524288, 4096), noise(4096, 3), "written again");
  assert.equal((await daemon.qmp.execute("query-block-exports")).length, 1);
  assert.equal((await daemon.stop()).status, 0);
});

Deno.test("an image that grows underneath is served in its old size", async () => {
  await using dir = TestDir.make();
  const bytes = noisy(dir.file("disk.raw"), MIB);
  await using daemon = await serve({ dir });
  using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
  Deno.truncateSync(dir.file("disk.raw"), 2 * MIB);
  assertSameBytes(await peer.read(0, MIB), bytes, "the image");
  const beyond = await peer.call({ type: CMD.READ, offset: MIB, length: 512 });
  assert.equal(beyond.error, ERR.EINVAL);
  assert.equal((await daemon.stop()).status, 0);
});
