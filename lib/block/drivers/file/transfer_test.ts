import assert from "node:assert/strict";
import { IoVec, MiB } from "../../../base/mod.ts";
import type { Sys } from "../../../sys/mod.ts";
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
