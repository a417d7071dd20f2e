import assert from "node:assert/strict";
import { IoVec } from "../../../base/mod.ts";
import {
  type Context,
  createContext,
  KernelQueue,
  type Sys,
  syscallNumbers,
} from "../../../sys/mod.ts";
import { openContext, testContext } from "../testing.ts";
import { chooseEngine } from "./engines.ts";
import { file as driver, type FileInstance } from "./mod.ts";

/** Why a kernel queue cannot be tested here, if it cannot. */
async function refusal(aio: "native" | "io_uring"): Promise<string | undefined> {
  const context = testContext();
  const engine = chooseEngine(context, "node", { aio });
  await engine.close();
  context.end();
  return context.messages[0];
}

async function withFile(
  body: (context: Context, filename: string) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  try {
    await Deno.writeFile(`${directory}/x`, new Uint8Array(4 << 20).map((_, i) => i >> 12));
    await body(context, `${directory}/x`);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

for (const aio of ["native", "io_uring"] as const) {
  const reason = await refusal(aio);
  const ignore = reason !== undefined;
  const name = (promise: string) => `${aio}: ${promise}${ignore ? ` (skipped: ${reason})` : ""}`;

  Deno.test({
    name: name("more requests than the kernel takes at once all complete, in batches"),
    ignore,
    fn: () =>
      withFile(async (context, filename) => {
        const { sys } = context;
        const fd = sys.open(filename, 2);
        for (const [batch, most] of [[0, 32], [8, 8]] as const) {
          const engine = chooseEngine(context, "node", { aio, "aio-max-batch": batch });
          assert.ok(engine instanceof KernelQueue);
          const memory = sys.allocate(500 * 4096);
          const reads: Promise<number>[] = [];
          for (let i = 0; i < 500; i++) {
            reads.push(engine.readv(fd, IoVec.of(memory.address + i * 4096, 4096), i * 4096));
          }
          assert.deepEqual(await Promise.all(reads), new Array(500).fill(4096));
          for (let i = 0; i < 500; i++) assert.equal(memory.bytes[i * 4096 + 7], i & 255);
          assert.ok(engine.submissions >= 500 / most, `${engine.submissions} submissions`);
          assert.ok(engine.submissions <= 500, `${engine.submissions} submissions`);
          await engine.close();
          memory.unmap();
        }
        sys.close(fd);
      }),
  });

  Deno.test({
    name: name("a request that the kernel refuses fails alone"),
    ignore,
    fn: () =>
      withFile(async (context, filename) => {
        const { sys } = context;
        const fd = sys.open(filename, 2);
        const engine = chooseEngine(context, "node", { aio });
        const memory = sys.allocate(3 * 4096);
        const piece = (i: number) => IoVec.of(memory.address + i * 4096, 4096);
        const results = await Promise.all([
          engine.readv(fd, piece(0), 4096),
          engine.readv(999_999, piece(1), 0),
          engine.writev(fd, piece(2), 8192),
          engine.readv(fd, IoVec.of(4096, 512), 0), // nothing is mapped there
        ]);
        assert.deepEqual(results, [4096, -9, 4096, -14]);
        await engine.close();
        memory.unmap();
        sys.close(fd);
      }),
  });

  Deno.test({
    name: name("carries the requests of an O_DIRECT node"),
    ignore,
    fn: () =>
      withFile(async (context, filename) => {
        const options = { filename, aio };
        const open = openContext(context, options, { direct: true });
        const node = await driver.open(open, options) as FileInstance;
        const memory = context.sys.allocate(8192);
        await node.read(4096, IoVec.of(memory.address, 8192), 0);
        assert.equal(memory.bytes[4096], 2);
        assert.deepEqual(node.transfers, { engine: aio, inline: 0, queued: 1 });
        const change = await node.prepareReopen(openContext(context, options), options);
        await change.commit();
        assert.equal(node.transfers.engine, aio === "native" ? "threads" : aio);
        await node.close();
        memory.unmap();
      }),
  });
}

Deno.test("where the system refuses a kernel queue, threads do the work and the log says why", async () => {
  for (const [aio, call] of [["native", "io_setup"], ["io_uring", "io_uring_setup"]] as const) {
    const forbid = (sys: Sys): Sys =>
      new Proxy(sys, {
        get: (of, key) => {
          const value: unknown = Reflect.get(of, key, of);
          if (typeof value !== "function") return value;
          if (key !== "raw") return value.bind(of);
          return (number: number, ...args: number[]) =>
            number === syscallNumbers(sys.arch)[call] ? -1 : sys.raw(number, ...args);
        },
      });
    const context = testContext(forbid);
    const filename = await Deno.makeTempFile();
    const options = { filename, aio };
    const open = openContext(context, options, { direct: true });
    const node = await driver.open(open, options) as FileInstance;
    assert.equal(node.transfers.engine, "threads");
    const [message, ...more] = context.messages;
    const refused = `node 'node' uses threads: this system refuses aio=${aio}: ${call}: EPERM (`;
    assert.ok(message?.startsWith(refused), message);
    assert.deepEqual(more, [], "said once");
    await node.close();
    context.end();
    await Deno.remove(filename);
  }
});
