import assert from "node:assert/strict";
import { BlockError, CommandError, IoVec } from "../../base/mod.ts";
import { ioError, MemoryDisk, testGraph } from "../testing.ts";
import { Perm } from "../types.ts";
import { bitmapCommands, bitmapInfo } from "./commands.ts";

const writer = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};

/** A node `d` of a memory disk with discard, a backend, and the commands. */
async function setUp(size = 1 << 20) {
  const d = new MemoryDisk(size);
  const made = testGraph({ d, o: new MemoryDisk(1 << 21) });
  const { graph, add } = made;
  await add({ driver: "memory", "node-name": "n", disk: "d", discard: "unmap" });
  await add({ driver: "memory", "node-name": "o", disk: "o" });
  const backend = await graph.backend("n", writer);
  const commands = bitmapCommands(graph);
  const dirty = (name: string) => {
    const runs: [number, number][] = [];
    graph.find("n")!.bitmaps!.find(name)!.bits.each(0, 2 ** 40, (at, run) => runs.push([at, run]));
    return runs;
  };
  const end = async () => {
    await backend.detach();
    await graph.closeAll();
  };
  return { ...made, d, backend, commands, dirty, end };
}
const K = 1024;

Deno.test("writes, zeroes and discards are recorded, each bitmap by its granules, while it is enabled", async () => {
  const { backend, commands, dirty, memory, end } = await setUp();
  const add = commands["block-dirty-bitmap-add"];
  await add({ node: "n", name: "fine", granularity: 512 });
  await add({ node: "n", name: "coarse" });
  await add({ node: "n", name: "off", disabled: true });
  await backend.write(1000, IoVec.of(memory(100).address, 100));
  await backend.writeZeroes(128 * K, 1024);
  await backend.discard(256 * K, 512);
  assert.deepEqual(dirty("fine"), [[512, 1024], [128 * K, 1024], [256 * K, 512]]);
  assert.deepEqual(dirty("coarse"), [[0, 64 * K], [128 * K, 64 * K], [256 * K, 64 * K]]);
  assert.deepEqual(dirty("off"), []);
  await commands["block-dirty-bitmap-enable"]({ node: "n", name: "off" });
  await commands["block-dirty-bitmap-disable"]({ node: "n", name: "fine" });
  await backend.write((1 << 20) - 1, IoVec.of(memory(1).address, 1));
  assert.deepEqual(dirty("off"), [[(1 << 20) - 64 * K, 64 * K]]);
  assert.equal(dirty("fine").length, 3);
  await commands["block-dirty-bitmap-clear"]({ node: "n", name: "coarse" });
  assert.deepEqual(dirty("coarse"), []);
  await end();
});

Deno.test("a write is recorded when it ends, and when it fails, since it may have been done in part", async () => {
  const { d, backend, commands, dirty, memory, end } = await setUp();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "b" });
  const iov = IoVec.of(memory(512).address, 512);
  d.latency = "held";
  const pending = backend.write(0, iov);
  await d.arrivals(1);
  await commands["block-dirty-bitmap-clear"]({ node: "n", name: "b" });
  d.held[0]!.release();
  await pending;
  assert.deepEqual(dirty("b"), [[0, 64 * K]], "cleared while it was under way");
  d.latency = "sync";
  d.fault = () => ioError();
  assert.throws(() => backend.write(512 * K, iov), BlockError);
  d.fault = undefined;
  assert.deepEqual(dirty("b"), [[0, 64 * K], [512 * K, 64 * K]]);
  await end();
});

Deno.test("bitmaps follow the length of their node; new parts are clean", async () => {
  const { graph, backend, commands, dirty, memory, end } = await setUp();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "b" });
  await backend.write((1 << 20) - 512, IoVec.of(memory(512).address, 512));
  await graph.resize("n", 1 << 21);
  assert.deepEqual(dirty("b"), [[(1 << 20) - 64 * K, 64 * K]]);
  await graph.resize("n", 512 * K);
  assert.deepEqual(dirty("b"), []);
  await graph.resize("n", 1 << 20);
  assert.deepEqual(dirty("b"), [], "what was cut off does not come back");
  await end();
});

Deno.test("a merge takes granules of any size, and all sources or none", async () => {
  const { graph, backend, commands, dirty, memory, end } = await setUp();
  const add = commands["block-dirty-bitmap-add"];
  const merge = async (bitmaps: (string | { node: string; name: string })[]) =>
    await commands["block-dirty-bitmap-merge"]({ node: "n", target: "t", bitmaps });
  await add({ node: "n", name: "t", granularity: 4096 });
  await add({ node: "n", name: "a", granularity: 512 });
  await add({ node: "o", name: "x" });
  await commands["block-dirty-bitmap-disable"]({ node: "n", name: "t" });
  await backend.write(5000, IoVec.of(memory(512).address, 512));
  const sizes = "Bitmaps are of different sizes (destination size is 1048576, " +
    "source size is 2097152) and can't be merged";
  await assert.rejects(merge(["a", { node: "o", name: "x" }]), { message: sizes });
  await assert.rejects(merge(["a", "zz"]), { message: "Dirty bitmap 'zz' not found" });
  assert.deepEqual(dirty("t"), []);
  await merge([]);
  await merge(["t", "a"]);
  assert.deepEqual(dirty("t"), [[4096, 4096]]);
  const target = graph.find("n")!.bitmaps!.find("t")!;
  target.users++;
  await assert.rejects(merge(["a"]), {
    message: "Bitmap 't' is currently in use by another operation and cannot be used",
  });
  target.users--;
  await end();
});

Deno.test("a bitmap in no state to be used is refused in QEMU's words", async () => {
  const { graph, commands, end } = await setUp();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "b" });
  const bitmap = graph.find("n")!.bitmaps!.find("b")!;
  const outcome = async (what: () => unknown) => {
    try {
      await what();
      return "done";
    } catch (error) {
      assert.ok(error instanceof CommandError);
      return error.message;
    }
  };
  const args = { node: "n", name: "b" };
  const clear = () => outcome(() => commands["block-dirty-bitmap-clear"](args));
  const enable = () => outcome(() => commands["block-dirty-bitmap-enable"](args));
  const remove = () => outcome(() => commands["block-dirty-bitmap-remove"](args));
  bitmap.readOnly = true;
  const readOnly = "Bitmap 'b' is readonly and cannot be modified";
  assert.deepEqual([await clear(), await enable(), await remove()], [readOnly, "done", readOnly]);
  bitmap.readOnly = false;
  bitmap.inconsistent = true;
  const inconsistent = "Bitmap 'b' is inconsistent and cannot be used";
  assert.deepEqual([await clear(), await enable()], [inconsistent, inconsistent]);
  assert.equal(bitmapInfo(graph.find("n")!.bitmaps!)[0]!.inconsistent, true);
  bitmap.users++;
  const busy = "Bitmap 'b' is currently in use by another operation and cannot be used";
  assert.deepEqual([await clear(), await remove()], [busy, busy]);
  bitmap.users--;
  assert.equal(await remove(), "done");
  assert.equal(graph.find("n")!.bitmaps, undefined, "nothing is left on the way of writes");
  await end();
});

Deno.test("a bitmap that would not fit in memory is refused", async () => {
  const { graph, commands, end } = await setUp();
  const huge = Object.defineProperty(graph.find("n")!, "size", { value: 2 ** 52 });
  await assert.rejects(
    async () =>
      await commands["block-dirty-bitmap-add"]({ node: "n", name: "b", granularity: 512 }),
    { message: `Bitmap 'b' would need ${2 ** 40} bytes of memory` },
  );
  Reflect.deleteProperty(huge, "size");
  await end();
});
