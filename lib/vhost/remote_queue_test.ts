import assert from "node:assert/strict";
import { type QueueStart, type QueueThread, type RemoteHost, RemoteQueue } from "./remote_queue.ts";
import { ProtocolError } from "./wire.ts";

const ADDRESSES = { flags: 0, descriptor: 0, used: 0, available: 0, log: 0 };

Deno.test("a queue does not start in its thread when its descriptors cannot be duplicated", async () => {
  const open: number[] = [];
  const sys = {
    dup: (fd: number) => {
      if (open.length === 1) return -24;
      open.push(fd + 100);
      return fd + 100;
    },
    close: (fd: number) => void open.splice(open.indexOf(fd), 1),
  };
  const started: QueueStart[] = [];
  const thread: QueueThread = {
    start: (given) => {
      started.push(given);
      return Promise.resolve(undefined);
    },
    stop: () => Promise.resolve(undefined),
  };
  const host = { context: { sys }, share: () => ({ regions: [] }) } as unknown as RemoteHost;
  const queue = new RemoteQueue(host, thread, 0, () => 1);
  queue.setKick(10);
  queue.setCall(11);
  queue.size = 8;
  queue.addresses = ADDRESSES;
  queue.enabled = true;
  await assert.rejects(async () => await queue.refresh(), ProtocolError);
  assert.deepEqual(started, []);
  assert.deepEqual(open, []);
  assert.equal(queue.running, false);
});

Deno.test("guest memory in which a failed thread may be at work is given up, whichever thread that is", async () => {
  const surrendered: number[] = [];
  const context = {
    sys: { dup: (fd: number) => fd },
    buffers: {
      surrender: (address: number) => void surrendered.push(address),
    },
  };
  const regions = [{ address: 4096 }, { address: 65536 }];
  const host = { context, share: () => ({ regions }) } as unknown as RemoteHost;
  const stopped = async (stop: QueueThread["stop"]) => {
    surrendered.length = 0;
    const thread: QueueThread = { start: () => Promise.resolve(undefined), stop };
    const queue = new RemoteQueue(host, thread, 0, () => 1);
    queue.size = 8;
    queue.addresses = ADDRESSES;
    queue.enabled = true;
    queue.setKick(-1);
    await queue.refresh();
    await queue.idle();
    return queue;
  };
  assert.equal((await stopped(() => Promise.resolve({ base: 3, surrendered: [] }))).base, 3);
  assert.deepEqual(surrendered, []);
  // The node's thread has failed; this one tells where its requests were under way.
  const other = await stopped(() => Promise.resolve({ base: 3, surrendered: [65536] }));
  assert.deepEqual([other.lost, surrendered], [false, [65536]]);
  // This one has failed, and can tell nothing.
  const own = await stopped(() => Promise.reject(new Error("it has failed")));
  assert.deepEqual([own.lost, surrendered], [true, [4096, 65536]]);
});
