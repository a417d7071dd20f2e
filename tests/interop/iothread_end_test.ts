/** IOThreads that end under load. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { daemonWithThreads } from "../harness/iothreads.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { lacks, ok, run } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";

const ignore = lacks("interop/iothread_end", "qemu-img");
const MIB = 1024 * 1024;

Deno.test({
  name:
    "SIGTERM while a thread is under load: clients are dropped, the image holds what was flushed",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 4 * MIB, 10);
    const daemon = await daemonWithThreads(dir, [
      "--export",
      "nbd,id=e,node-name=n,iothread=t0,writable=on",
    ]);
    try {
      const peer = await NbdPeer.attach(daemon.file("nbd"), "n");
      const data = noise(65536, 77);
      await peer.write(MIB, data);
      let served = 0;
      const load = (async () => {
        for (;;) {
          await peer.read((served % 32) * 65536, 65536);
          served++;
        }
      })().catch(() => {});
      await until(() => served > 20, "some reads");
      const ended = await daemon.stop();
      await load;
      peer.close();
      assert.deepEqual([ended.status, ended.stderr], [0, ""]);
      const image = Deno.readFileSync(dir.file("disk.raw"));
      assertSameBytes(image.subarray(MIB, MIB + 65536), data, "what was written");
    } finally {
      await daemon[Symbol.asyncDispose]();
    }
  },
});

Deno.test({
  name:
    "kill -9 while two threads write to qcow2 images: what was flushed is there, both are sound",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), MIB, 3);
    const STEP = 24576;
    const COUNT = 400;
    const args: string[] = [];
    for (const i of [0, 1]) {
      await ok("qemu-img", ["create", "-q", "-f", "qcow2", dir.file(`d${i}.qcow2`), "64M"]);
      args.push(
        ...["--blockdev", `qcow2,node-name=q${i},file.driver=file,file.filename=d${i}.qcow2`],
        ...["--export", `nbd,id=q${i},node-name=q${i},iothread=t${i},writable=on`],
      );
    }
    await using daemon = await daemonWithThreads(dir, args);
    const written = [0, 0];
    const flushed = [0, 0];
    const seed = (i: number, block: number) => 10_000 * i + block;
    const load = async (i: number) => {
      const peer = await NbdPeer.attach(daemon.file("nbd"), `q${i}`);
      try {
        for (let block = 0; block < COUNT; block++) {
          await peer.write(block * STEP, noise(STEP, seed(i, block)));
          written[i] = block + 1;
          if (block % 7 !== 6) continue;
          await peer.flush();
          flushed[i] = block + 1;
        }
      } finally {
        peer.close();
      }
    };
    const loads = Promise.allSettled([load(0), load(1)]);
    await until(() => Math.min(...flushed) >= 70, "some flushes", 30_000);
    daemon.kill("SIGKILL");
    await daemon.end();
    for (const one of await loads) assert.equal(one.status, "rejected", "it ended too early");
    for (const i of [0, 1]) {
      assert.ok(flushed[i]! >= 70 && written[i]! < COUNT);
      const image = dir.file(`d${i}.qcow2`);
      const { status, stdout } = await run("qemu-img", ["check", image]);
      assert.ok(status === 0 || status === 3, `d${i}: ${stdout}`); // 3: leaked clusters alone
      await ok("qemu-img", ["convert", "-O", "raw", image, dir.file("copy.raw")]);
      const copy = Deno.readFileSync(dir.file("copy.raw"));
      for (let block = 0; block < flushed[i]!; block++) {
        const got = copy.subarray(block * STEP, (block + 1) * STEP);
        assertSameBytes(got, noise(STEP, seed(i, block)), `block ${block} of d${i}`);
      }
    }
  },
});
