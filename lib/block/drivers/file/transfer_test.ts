import assert from "node:assert/strict";
import { IoVec, MiB } from "../../../base/mod.ts";
import { Errno, type Sys } from "../../../sys/mod.ts";
import type { TransferEngine } from "./engine.ts";
import { Transfer } from "./transfer.ts";

Deno.test("a transfer that the engine rejects leaves nothing in the guard's count of queued bytes", async () => {
  const broken = () => Promise.reject(new Error("the engine is closed"));
  const engine = { readv: broken, writev: broken } as unknown as TransferEngine;
  const sys = { monotonicNs: () => 0, waits: () => 0 } as unknown as Sys;
  const transfer = new Transfer(sys, 3, "n", engine);
  const iov = IoVec.of(4096, MiB); // too large for a call of this thread
  await assert.rejects(async () => await transfer.read(0, iov), /the engine is closed/);
  await assert.rejects(async () => await transfer.write(0, iov), /the engine is closed/);
  assert.deepEqual([transfer.readGuard.enter(0), transfer.writeGuard.enter(0)], [0, 0]);
});

Deno.test("data out of a pipe is written where writes are made inline, and no RWF.NOWAIT is to be had", () => {
  const answers: number[] = [];
  let flagged = -Errno.EOPNOTSUPP;
  const sys = {
    monotonicNs: () => 0,
    waits: () => 0,
    pwritev: () => flagged,
    pwrite: (_fd: number, _address: number, length: number) => length,
    splice: (...args: number[]) => {
      assert.deepEqual(args, [9, 3, 4096, 8192]);
      return answers.shift()!;
    },
  } as unknown as Sys;
  const transfer = new Transfer(sys, 3, "n", {} as TransferEngine);
  assert.equal(transfer.takesPipe, false, "nothing is known of the file system yet");
  flagged = 4096;
  assert.equal(transfer.write(0, IoVec.of(4096, 4096)), undefined);
  assert.equal(transfer.takesPipe, false);
  flagged = -Errno.EOPNOTSUPP;
  assert.equal(transfer.write(0, IoVec.of(4096, 4096)), undefined);
  assert.equal(transfer.takesPipe, true);
  answers.push(1000, -Errno.ENOSPC);
  assert.equal(transfer.writeFromPipe(8192, 9, 4096), 1000);
  assert.equal(transfer.size, 9192);
  assert.equal(transfer.writeFromPipe(8192, 9, 4096), -Errno.ENOSPC);
  assert.equal(transfer.size, 9192);
  transfer.writeGuard.slow = true;
  assert.equal(transfer.takesPipe, false);
  transfer.writeGuard.slow = false;
  assert.equal(transfer.takesPipe, true, "a failed write says nothing of the way");
  answers.push(-Errno.EINVAL);
  assert.equal(transfer.writeFromPipe(8192, 9, 4096), -Errno.EINVAL);
  assert.equal(transfer.takesPipe, false, "the file system takes no pages");
  transfer.directAlignment = 512;
  assert.equal(transfer.takesPipe, false);
});
