import assert from "node:assert/strict";
import { BlockError, CommandError, IoVec } from "../base/mod.ts";
import { bitmapCommands, bitmapInfo } from "./bitmaps/mod.ts";
import { ioError, MemoryDisk, testGraph } from "./testing.ts";
import { FakeThread } from "./testing_thread.ts";
import { type BlockStatus, Perm } from "./types.ts";

const writer = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};
const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 0));

/** Node `n` (raw) over `f` (memory disk `d`), and threads `a` and `b`. */
async function made() {
  const disks = { d: new MemoryDisk(1 << 16), e: new MemoryDisk(1 << 16) };
  const test = testGraph(disks);
  const threads = new Map<string, FakeThread>();
  const [a, b] = ["a", "b"].map((name) => new FakeThread(name, test.graph, threads)) as [
    FakeThread,
    FakeThread,
  ];
  await test.add({ driver: "memory", "node-name": "f", disk: "d" });
  await test.add({ driver: "raw", "node-name": "n", file: "f" });
  const { graph } = test;
  const close = async () => {
    await graph.closeAll();
    assert.deepEqual([a, b].map(({ replica }) => [...replica.all].map((node) => node.name)), [
      [],
      [],
    ]);
  };
  const bytes = (contents: Uint8Array | number) => {
    const { address, length, bytes } = test.memory(contents);
    const wanted = typeof contents === "number" ? contents : contents.length;
    return { iov: IoVec.of(address, Math.min(length, wanted)), bytes: bytes.subarray(0, wanted) };
  };
  return { ...test, disks, a, b, close, bytes };
}

Deno.test("a moved node is read and written where it runs, and comes back", async () => {
  const { graph, disks, a, close, bytes } = await made();
  const user = await graph.backend("n", writer);
  const data = bytes(new Uint8Array(4096).fill(7));
  await user.write(512, data.iov);
  await graph.move("n", a);
  assert.deepEqual(["n", "f"].map((name) => graph.find(name)!.place), [a, a]);
  assert.deepEqual(disks.d.permissions.needed, Perm.consistentRead | Perm.write);
  await user.write(8192, data.iov);
  const got = bytes(16384);
  await user.read(0, got.iov);
  assert.deepEqual(got.bytes, disks.d.bytes.subarray(0, 16384));
  assert.equal(got.bytes[8192], 7);
  await graph.move("n", undefined);
  assert.equal(graph.find("n")!.place, undefined);
  const again = bytes(16384);
  await user.read(0, again.iov);
  assert.deepEqual(again.bytes, got.bytes);
  await user.detach();
  await close();
});

Deno.test("parents are closed before their children and opened after them", async () => {
  const { graph, a, close } = await made();
  await graph.move("n", a);
  assert.deepEqual(a.calls.filter((call) => call.startsWith("open")), ["open f", "open n"]);
  await graph.move("n", undefined);
  assert.deepEqual(a.calls.filter((call) => call.startsWith("release")), [
    "release n",
    "release f",
  ]);
  await close();
});

Deno.test("a move that fails half-way leaves every node open where it was", async () => {
  for (const failing of ["f", "n"]) {
    const { graph, a, close, bytes } = await made();
    const user = await graph.backend("n", writer);
    a.before = (method, name) => {
      if (method === "open" && name === failing) throw new CommandError("not here");
    };
    await assert.rejects(graph.move("n", a), { message: "not here" });
    assert.deepEqual(["n", "f"].map((name) => graph.find(name)!.place), [undefined, undefined]);
    await user.write(0, bytes(new Uint8Array(512).fill(9)).iov);
    assert.equal(a.replica.all.size, 0);
    a.before = () => {};
    await graph.move("n", a);
    await user.write(0, bytes(new Uint8Array(512).fill(8)).iov);
    await user.detach();
    await close();
  }
});

Deno.test("a flush that fails keeps the node where it is", async () => {
  const { graph, disks, a, close, bytes } = await made();
  const user = await graph.backend("n", writer);
  await user.write(0, bytes(512).iov);
  disks.d.fault = ({ op }) => op === "flush" ? ioError("ENOSPC") : undefined;
  await assert.rejects(graph.move("n", a), { errno: "ENOSPC" });
  assert.equal(graph.find("n")!.place, undefined);
  disks.d.fault = undefined;
  await user.detach();
  await close();
});

Deno.test("requests under way end before the move, those that come meanwhile wait for it", async () => {
  const { graph, disks, a, close, bytes } = await made();
  const user = await graph.backend("n", writer);
  disks.d.latency = "held";
  const first = Promise.resolve(user.write(0, bytes(new Uint8Array(512).fill(1)).iov));
  await disks.d.arrivals(1);
  const moving = graph.move("n", a);
  await turn();
  const second = Promise.resolve(user.write(0, bytes(new Uint8Array(512).fill(2)).iov));
  await turn();
  assert.equal(disks.d.held.length, 1);
  assert.equal(graph.find("f")!.place, undefined);
  disks.d.latency = "sync";
  disks.d.held[0]!.release();
  await Promise.all([first, moving, second]);
  assert.equal(graph.find("f")!.place, a);
  assert.equal(disks.d.bytes[0], 2);
  await user.detach();
  await close();
});

Deno.test("users in a thread are held by drains of the graph, and follow the node", async () => {
  const { graph, disks, a, b, close, bytes } = await made();
  const anchor = await graph.backend("n", writer);
  await graph.move("n", a);
  const use = await graph.use("n", a);
  const user = a.replica.attach("n", writer);
  user.write(0, bytes(new Uint8Array(512).fill(3)).iov);
  const section = await graph.drain("n");
  let done = false;
  const waiting = Promise.resolve(user.write(0, bytes(new Uint8Array(512).fill(4)).iov))
    .then(() => done = true);
  await turn();
  assert.equal(done, false);
  section.end();
  await waiting;
  // The user stays in `a`; its requests go to `b`, then to the main context.
  for (const place of [b, undefined, a]) {
    await graph.move("n", place);
    await user.write(1024, bytes(new Uint8Array(512).fill(5)).iov);
    const got = bytes(2048);
    await user.read(0, got.iov);
    assert.deepEqual(got.bytes, disks.d.bytes.subarray(0, 2048));
    assert.equal(user.size, 1 << 16);
  }
  await user.detach();
  use.release();
  await anchor.detach();
  await close();
});

Deno.test("a node whose child runs elsewhere reaches it, from a thread and from the main context", async () => {
  const { graph, disks, a, b, close, bytes, add } = await made();
  const places = graph.places;
  const [n, f] = [graph.find("n")!, graph.find("f")!];
  const user = await graph.backend("n", writer);
  for (const [top, below] of [[a, b], [undefined, b], [a, undefined], [b, a]] as const) {
    await places.mover.relocate(new Map([[n, top], [f, below]]));
    assert.deepEqual([n.place, f.place], [top, below]);
    await user.write(100, bytes(new Uint8Array(1000).fill(6)).iov);
    await user.writeZeroes(200, 100);
    const got = bytes(2048);
    await user.read(0, got.iov);
    assert.deepEqual(got.bytes, disks.d.bytes.subarray(0, 2048));
    const status: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
    await user.status(0, 4096, true, status);
    assert.equal(status.data, true);
    await user.flush();
  }
  await add({ driver: "raw", "node-name": "over", file: "n" });
  await graph.del("over");
  await user.detach();
  await close();
});

Deno.test("a pinned user keeps all nodes that are connected with it where they are", async () => {
  const { graph, a, b, close } = await made();
  const pinned = await graph.backend("f", { ...writer, fixedPlace: true });
  const refusal = { message: "Cannot change iothread of active block backend" };
  await assert.rejects(graph.move("n", a), refusal);
  await pinned.detach();
  await graph.move("n", a);
  const there = await graph.backend("n", { ...writer, fixedPlace: true });
  await graph.move("n", a);
  await assert.rejects(graph.move("n", b), refusal);
  await there.detach();
  await close();
});

Deno.test("a reopen of a node in a thread happens at home, and the node goes back", async () => {
  const { graph, disks, a, close } = await made();
  await graph.move("n", a);
  await graph.reopen([{ driver: "memory", "node-name": "f", disk: "d", "read-only": true }]);
  assert.deepEqual(disks.d.reopens, ["prepare", "commit"]);
  assert.equal(graph.find("f")!.place, a);
  assert.equal(a.replica.find("f")!.readOnly, true);
  await assert.rejects(
    graph.reopen([{ driver: "memory", "node-name": "f", disk: "e" }]),
    { message: "Parameter 'disk' cannot change" },
  );
  assert.equal(graph.find("f")!.place, a);
  await close();
});

Deno.test("permissions are refused and granted where the driver runs", async () => {
  const { graph, disks, a, close } = await made();
  await graph.move("n", a);
  disks.d.refusePermissions = () => new CommandError("locked");
  await assert.rejects(graph.backend("n", writer), { message: "locked" });
  disks.d.refusePermissions = undefined;
  const user = await graph.backend("n", writer);
  assert.equal(disks.d.permissions.needed, Perm.consistentRead | Perm.write);
  assert.equal(a.replica.find("n")!.edge("file")!.needed, Perm.consistentRead | Perm.write);
  await user.detach();
  assert.equal(disks.d.permissions.needed, 0);
  await close();
});

Deno.test("a resize in a thread reaches users everywhere", async () => {
  const { graph, a, close } = await made();
  const sizes: number[] = [];
  const anchor = await graph.backend("n", { ...writer, onResize: (size) => sizes.push(size) });
  await graph.move("n", a);
  const use = await graph.use("n", a);
  const far: number[] = [];
  const user = a.replica.attach("n", { ...writer, onResize: (size) => far.push(size) });
  await graph.resize("n", 1 << 15);
  await turn();
  assert.deepEqual([sizes, far, anchor.size, user.size], [[1 << 15], [1 << 15], 1 << 15, 1 << 15]);
  await user.detach();
  use.release();
  await anchor.detach();
  await close();
});

Deno.test("a write threshold is watched wherever the node runs, and moves with it", async () => {
  const { graph, events, a, b, close, bytes } = await made();
  const user = await graph.backend("n", writer);
  await graph.setWriteThreshold(graph.find("f")!, 1000);
  await graph.move("n", a);
  assert.equal(graph.find("f")!.threshold, 1000);
  await user.write(0, bytes(512).iov);
  assert.deepEqual(events, []);
  await user.write(512, bytes(512).iov);
  assert.deepEqual(events.map(({ data }) => data["amount-exceeded"]), [24]);
  assert.equal(graph.find("f")!.threshold, 0);
  await graph.setWriteThreshold(graph.find("f")!, 2000);
  await graph.move("n", b);
  await user.write(4096, bytes(512).iov);
  assert.equal(events.length, 2);
  await graph.places.refresh();
  assert.equal(graph.find("f")!.writeHighest, 4608);
  await user.detach();
  await close();
});

Deno.test("a thread that fails takes its nodes along, and nothing else", async () => {
  const { graph, add, a, b, close, bytes } = await made();
  await add({ driver: "memory", "node-name": "other", disk: "e" });
  const [user, other] = [await graph.backend("n", writer), await graph.backend("other", writer)];
  await graph.move("n", a);
  await graph.move("other", b);
  a.failed = true;
  graph.places.lost(a);
  await assert.rejects(
    async () => await user.write(0, bytes(512).iov),
    (error) => error instanceof BlockError && error.errno === "EIO",
  );
  assert.equal(user.size, 1 << 16);
  await other.write(0, bytes(512).iov);
  await assert.rejects(graph.move("other", a), { message: "IOThread 'a' has failed" });
  assert.equal(graph.find("other")!.place, b);
  await other.write(0, bytes(512).iov);
  await user.detach();
  await other.detach();
  a.replica.all.clear(); // it went with its thread
  await close();
});

/** As `made`, with a user of `n`, the bitmap commands, and what the bitmaps of `n` say. */
async function withBitmaps() {
  const test = await made();
  const user = await test.graph.backend("n", writer);
  const commands = bitmapCommands(test.graph);
  const block = test.bytes(512);
  const write = async (at: number) => await user.write(at, block.iov);
  const info = () =>
    Object.fromEntries(
      bitmapInfo(test.graph.find("n")!.bitmaps!).map((one) => [one.name, one.count]),
    );
  const end = async () => {
    await user.detach();
    await test.close();
  };
  return { ...test, user, commands, write, info, end };
}

Deno.test("dirty bitmaps record where their node runs, and go along when it moves", async () => {
  const { graph, a, b, commands, write, info, end } = await withBitmaps();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "x", granularity: 512 });
  await write(0);
  await graph.move("n", a);
  await write(4096);
  await write(4096);
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "y", granularity: 1024 });
  assert.equal(graph.find("n")!.place, a, "adding brings it back where it was");
  await write(8192);
  assert.deepEqual(info(), { x: 1536, y: 1024 });
  await graph.move("n", b);
  await write(16384);
  await graph.move("n", undefined);
  await write(32768);
  assert.deepEqual(info(), { x: 2560, y: 3072 });
  await end();
});

Deno.test("bitmap commands change a bitmap where it is", async () => {
  const { graph, a, commands, write, info, end } = await withBitmaps();
  const of = { node: "n", name: "x" };
  await commands["block-dirty-bitmap-add"]({ ...of, granularity: 512 });
  await commands["block-dirty-bitmap-add"]({ node: "f", name: "below", granularity: 512 });
  await graph.move("n", a);
  await write(0);
  await commands["block-dirty-bitmap-disable"](of);
  await write(4096);
  assert.deepEqual(info(), { x: 512 });
  await commands["block-dirty-bitmap-enable"](of);
  await write(8192);
  assert.deepEqual(info(), { x: 1024 });
  const sum = await commands["x-debug-block-dirty-bitmap-sha256"](of);
  await commands["block-dirty-bitmap-clear"](of);
  assert.deepEqual(info(), { x: 0 });
  await write(8192);
  await commands["block-dirty-bitmap-merge"]({
    node: "n",
    target: "x",
    bitmaps: [{ node: "f", name: "below" }],
  });
  assert.deepEqual(info(), { x: 1536 });
  await commands["block-dirty-bitmap-clear"](of);
  await write(0);
  await write(8192);
  assert.deepEqual(await commands["x-debug-block-dirty-bitmap-sha256"](of), sum);
  await commands["block-dirty-bitmap-remove"](of);
  assert.equal(graph.find("n")!.place, a);
  assert.equal(graph.find("n")!.bitmaps, undefined);
  await write(0);
  await end();
});

Deno.test("a bitmap grows and shrinks with its node in a thread", async () => {
  const { graph, a, commands, write, info, end } = await withBitmaps();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "x", granularity: 512 });
  await write(65024);
  await graph.move("n", a);
  const { bits } = graph.find("n")!.bitmaps!.find("x")!;
  await graph.resize("n", 1 << 17);
  assert.deepEqual([bits.size, bits.memory], [1 << 17, 32]);
  await write((1 << 17) - 512);
  assert.deepEqual(info(), { x: 1024 });
  assert.ok(bits.has((1 << 17) - 512));
  await graph.resize("n", 1 << 12);
  assert.deepEqual([bits.size, bits.count], [1 << 12, 0]);
  await graph.move("n", undefined);
  await write(0);
  assert.deepEqual(info(), { x: 512 });
  await end();
});

Deno.test("bitmaps record on after a move that failed", async () => {
  const { graph, a, commands, write, info, end } = await withBitmaps();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "x", granularity: 512 });
  a.before = (method, name) => {
    if (method === "open" && name === "n") throw new CommandError("no");
  };
  await assert.rejects(graph.move("n", a), { message: "no" });
  a.before = () => {};
  await write(0);
  assert.deepEqual(info(), { x: 512 });
  await graph.move("n", a);
  await write(512);
  assert.deepEqual(info(), { x: 1024 });
  await end();
});

Deno.test("bitmaps of a thread that failed stay, as they were, and can be removed", async () => {
  const { graph, a, commands, write, info, end } = await withBitmaps();
  await commands["block-dirty-bitmap-add"]({ node: "n", name: "x", granularity: 512 });
  await graph.move("n", a);
  await write(0);
  a.failed = true;
  graph.places.lost(a);
  assert.deepEqual(info(), { x: 512 });
  await assert.rejects(write(4096), BlockError);
  await commands["block-dirty-bitmap-clear"]({ node: "n", name: "x" });
  assert.deepEqual(info(), { x: 0 });
  await commands["block-dirty-bitmap-remove"]({ node: "n", name: "x" });
  // What the thread had is gone with it: nothing is left to be looked for there.
  a.replica.all.clear();
  await end();
});
