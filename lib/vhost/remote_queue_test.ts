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
    stop: () => Promise.resolve(0),
  };
  const host = { context: { sys }, share: () => ({}) } as unknown as RemoteHost;
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
