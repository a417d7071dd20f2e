import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { Serialiser } from "./serialise.ts";
import { ioError, MemoryDisk, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

/** Runs all microtasks that are ready now. */
const turn = () => new Promise<void>((resolve) => setTimeout(resolve, 0));

Deno.test("only overlapping requests wait, and only if one of them serialises", () => {
  const order = new Serialiser();
  const plain = order.begin(0, 512, false);
  assert.equal(order.wait(plain), undefined);
  const other = order.begin(0, 512, false);
  assert.equal(order.wait(other), undefined, "two plain writes");
  const far = order.begin(512, 1024, true);
  assert.equal(order.wait(far), undefined, "neighbours");
  const rmw = order.begin(256, 512, true);
  assert.ok(order.wait(rmw) instanceof Promise);
  for (const ticket of [plain, other, far, rmw]) ticket.finish();
  assert.equal(order.active, 0);
});

Deno.test("requests go in the order they came: none starves, none is overtaken", async () => {
  const order = new Serialiser();
  const log: string[] = [];
  const enter = (name: string, start: number, end: number, serialising: boolean) => {
    const ticket = order.begin(start, end, serialising);
    const wait = order.wait(ticket);
    if (wait === undefined) log.push(name);
    else void wait.then(() => log.push(name));
    return ticket;
  };
  const a = enter("a", 0, 1024, false);
  const b = enter("b", 512, 2048, true);
  const c = enter("c", 0, 4096, false); // behind b, although a would not hold it
  const d = enter("d", 2048, 4096, true); // behind c
  assert.deepEqual(log, ["a"]);
  a.finish();
  await turn();
  assert.deepEqual(log, ["a", "b"]);
  b.finish();
  await turn();
  assert.deepEqual(log, ["a", "b", "c"]);
  c.finish();
  await turn();
  d.finish();
  assert.deepEqual(log, ["a", "b", "c", "d"]);
});

async function blocks() {
  const disk = new MemoryDisk(65536);
  disk.limits = { requestAlignment: 4096, memoryAlignment: 512 };
  const made = testGraph({ d: disk });
  await made.add({ driver: "memory", "node-name": "n", disk: "d" });
  const backend = await made.graph.backend("n", {
    describe: "test",
    needed: Perm.write,
    shared: Perm.all,
  });
  disk.latency = "held";
  return { ...made, disk, backend };
}

Deno.test("a write to a part of a block reads it, and others of that block wait", async () => {
  const { graph, context, disk, backend, memory } = await blocks();
  const one = memory(new Uint8Array(100).fill(1));
  const two = memory(new Uint8Array(100).fill(2));
  const whole = memory(new Uint8Array(4096).fill(3));
  const writes = [
    backend.write(50, IoVec.of(one.address, 100)),
    backend.write(120, IoVec.of(two.address, 100)),
    backend.write(8192, IoVec.of(whole.address, 4096)),
  ];
  await disk.arrivals(2);
  await turn();
  assert.deepEqual(disk.held.map(({ op, offset }) => `${op} ${offset}`), ["read 0", "write 8192"]);
  disk.held[1]!.release();
  disk.held[0]!.release();
  await disk.arrivals(1);
  assert.deepEqual(disk.held.map(({ op, length }) => `${op} ${length}`), ["write 4096"]);
  disk.held[0]!.release();
  for (let i = 0; i < 2; i++) {
    await disk.arrivals(1);
    disk.held[0]!.release();
  }
  await Promise.all(writes);
  assert.deepEqual([...disk.bytes.subarray(49, 51)], [0, 1]);
  assert.deepEqual([...disk.bytes.subarray(119, 121)], [1, 2]);
  assert.deepEqual([...disk.bytes.subarray(219, 221)], [2, 0]);
  assert.equal(context.buffers.inUse, 0);
  await backend.detach();
  disk.latency = "sync";
  await graph.closeAll();
});

Deno.test("a failed read-modify-write fails alone, and lets the next one go", async () => {
  const { graph, context, disk, backend, memory } = await blocks();
  const data = memory(new Uint8Array(10).fill(5));
  const first = assert.rejects(
    async () => await backend.write(0, IoVec.of(data.address, 10)),
    { errno: "EIO" },
  );
  const second = backend.write(20, IoVec.of(data.address, 10));
  await disk.arrivals(1);
  disk.held[0]!.release(ioError());
  await first;
  disk.latency = "sync";
  await disk.arrivals(1);
  disk.held[0]!.release();
  await second;
  assert.deepEqual([disk.bytes[0], disk.bytes[20]], [0, 5]);
  assert.equal(context.buffers.inUse, 0);
  await backend.detach();
  await graph.closeAll();
});
