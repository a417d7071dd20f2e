import assert from "node:assert/strict";
import { BlockError, CommandError, IoVec, type MaybePromise } from "../base/mod.ts";
import { type BlockStatus, MESSAGE_SEGMENTS, NodeOp, type NodeRequest } from "../block/mod.ts";
import { LinkClient, linkMemory, LinkServer } from "./link.ts";

/** A request to read, with `fields` instead. */
function asking(fields: Partial<NodeRequest>): NodeRequest {
  const read = { op: NodeOp.read, handle: 1, offset: 0, length: 0, flags: 0 };
  return { ...read, iov: undefined, out: undefined, ...fields };
}

/** A link within one thread: each side looks when its bell is rung, later. */
function made(execute: (request: NodeRequest) => MaybePromise<void>) {
  const memory = linkMemory();
  const node = { name: "n", driver: "raw", size: 512 };
  const rings = { client: 0, server: 0 };
  const server = new LinkServer(
    memory,
    () => {
      rings.client++;
      queueMicrotask(() => client.poll());
    },
    { execute, handleOf: () => 5 },
  );
  const surrendered: number[] = [];
  const client: LinkClient = new LinkClient(
    memory,
    () => {
      rings.server++;
      queueMicrotask(() => server.poll());
    },
    (handle) => handle === 5 ? node : undefined,
    (address) => void surrendered.push(address),
  );
  return { client, server, rings, node, surrendered };
}

Deno.test("a request arrives with all that belongs to it", async () => {
  const seen: unknown[] = [];
  const { client } = made(({ op, handle, offset, length, flags, iov }) => {
    const addresses = iov!.addresses.slice(0, iov!.count);
    seen.push([op, handle, offset, length, flags, addresses, iov!.total]);
  });
  const iov = new IoVec().add(2 ** 46 + 8, 512).add(4096, 1 << 30);
  await client.request(
    asking({
      op: NodeOp.write,
      handle: 3,
      offset: 2 ** 52 + 512,
      length: iov.total,
      flags: 9,
      iov,
    }),
  );
  await client.request(asking({ op: NodeOp.flush, handle: 2 ** 31 }));
  assert.deepEqual(seen, [
    [NodeOp.write, 3, 2 ** 52 + 512, (1 << 30) + 512, 9, [2 ** 46 + 8, 4096], (1 << 30) + 512],
    [NodeOp.flush, 2 ** 31, 0, 0, 0, [], 0],
  ]);
});

Deno.test("as many segments as a message holds arrive in their order", async () => {
  let got: number[] = [];
  const { client } = made(({ iov }) => {
    got = iov!.lengths.slice(0, iov!.count);
  });
  const iov = new IoVec();
  for (let i = 1; i <= MESSAGE_SEGMENTS; i++) iov.add(i * 4096, i);
  await client.request(asking({ length: iov.total, iov }));
  assert.deepEqual(got, iov.lengths);
});

Deno.test("errors come back with what they carry, however long their text", async () => {
  let thrown: unknown;
  const { client } = made(() => {
    throw thrown;
  });
  const ask = () => client.request(asking({ offset: 4096, length: 512, iov: IoVec.of(4096, 512) }));
  thrown = new BlockError("ENOSPC", "no room: \u{1f600}", { node: "n", op: "write", offset: 7 });
  await assert.rejects(ask(), (error) => {
    assert.ok(error instanceof BlockError);
    const { errno, kind, message, node, op, offset } = error;
    assert.deepEqual(
      [errno, kind, message, node, op, offset],
      ["ENOSPC", "no-space", "no room: \u{1f600}", "n", "write", 7],
    );
    return true;
  });
  thrown = new CommandError("x".repeat(100_000));
  await assert.rejects(ask(), (error) => error instanceof BlockError && error.errno === "EIO");
  thrown = new BlockError("EIO", "\u0001".repeat(1000), { node: "x".repeat(31) });
  await assert.rejects(ask(), (error) => error instanceof BlockError && error.errno === "EIO");
  thrown = "not even an error";
  await assert.rejects(ask(), { message: "not even an error" });
});

Deno.test("block status comes back, with the node that it names", async () => {
  let answer: BlockStatus = { length: 4096, allocated: true, data: false, zero: true };
  const { client, node } = made(({ out }) => {
    delete out!.offset;
    delete out!.file;
    Object.assign(out!, answer);
  });
  const out: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
  const ask = () => client.request(asking({ op: NodeOp.status, length: 8192, flags: 1, out }));
  await ask();
  assert.deepEqual(out, answer);
  answer = {
    length: 2 ** 40,
    allocated: true,
    data: true,
    zero: false,
    offset: 2 ** 50,
    file: node,
  };
  await ask();
  assert.deepEqual(out, answer);
  answer = { length: 512, allocated: false, data: false, zero: false };
  await ask();
  assert.deepEqual(out, answer);
});

Deno.test("more requests than slots, answered in any order, are each answered once", async () => {
  const held: (() => void)[] = [];
  let running = 0;
  let most = 0;
  const { client } = made(({ offset }) => {
    most = Math.max(most, ++running);
    if (offset % 3 === 0) return void running--;
    return new Promise<void>((resolve, reject) =>
      held.push(() => {
        running--;
        if (offset % 3 === 1) resolve();
        else reject(new BlockError("EIO", `failed ${offset}`));
      })
    );
  });
  const asked = Array.from(
    { length: 5000 },
    (_, i) =>
      client.request(asking({ offset: i, length: 1, iov: IoVec.of(4096, 1) })).then(
        () => "ok",
        (e) => e.message,
      ),
  );
  let dice = 1;
  let over = false;
  const all = Promise.all(asked).finally(() => over = true);
  while (!over) {
    await new Promise((go) => setTimeout(go, 0));
    while (held.length > 0) {
      dice = (dice * 48271) % 0x7fffffff;
      held.splice(dice % held.length, 1)[0]!();
    }
  }
  const answers = await all;
  answers.forEach((answer, i) => assert.equal(answer, i % 3 === 2 ? `failed ${i}` : "ok"));
  assert.ok(most > 50 && most <= 128, `${most} at once`);
  assert.equal(client.inFlight, 0);
});

Deno.test("when the other side is gone everything fails, now and from now on", async () => {
  const { client } = made(() => new Promise<void>(() => {}));
  const asked = Array.from(
    { length: 200 },
    () => client.request(asking({ op: NodeOp.flush })),
  );
  await Promise.resolve();
  client.fail("IOThread 't' has failed");
  for (const one of await Promise.allSettled(asked)) {
    assert.equal(one.status, "rejected");
    assert.equal(one.status === "rejected" && one.reason.message, "IOThread 't' has failed");
  }
  await assert.rejects(client.request(asking({})), { errno: "EIO" });
});

Deno.test("when the other side is gone the memory of what it had begun is given up, and no other", async () => {
  const { client, surrendered } = made(() => new Promise<void>(() => {}));
  const asked = Array.from(
    { length: 200 },
    (_, i) => client.request(asking({ length: 2, iov: new IoVec().add(8192 * i, 1).add(9, 1) })),
  );
  await Promise.resolve();
  client.fail("IOThread 't' has failed");
  await Promise.allSettled(asked);
  const begun = surrendered.length / 2;
  assert.ok(begun > 0 && begun < asked.length);
  assert.deepEqual(surrendered, Array.from({ length: begun }, (_, i) => [8192 * i, 9]).flat());
});
