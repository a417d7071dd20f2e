import assert from "node:assert/strict";
import { IoVec } from "../../../base/mod.ts";
import { Errno, type Sys } from "../../../sys/mod.ts";
import type { TransferEngine } from "./engine.ts";
import { PagesOfFile } from "./pages.ts";
import { Transfer } from "./transfer.ts";

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
  const pages = new PagesOfFile(sys, transfer, "file");
  assert.equal(pages.pipeUnit(), 0, "nothing is known of the file system yet");
  flagged = 4096;
  assert.equal(transfer.write(0, IoVec.of(4096, 4096)), undefined);
  assert.equal(pages.pipeUnit(), 0);
  flagged = -Errno.EOPNOTSUPP;
  assert.equal(transfer.write(0, IoVec.of(4096, 4096)), undefined);
  assert.equal(pages.pipeUnit(), 1);
  answers.push(1000, -Errno.ENOSPC);
  assert.equal(pages.writeFromPipe(8192, 9, 4096), 1000);
  assert.equal(transfer.size, 9192);
  assert.equal(pages.writeFromPipe(8192, 9, 4096), -Errno.ENOSPC);
  assert.equal(transfer.size, 9192);
  transfer.writeGuard.slow = true;
  assert.equal(pages.pipeUnit(), 0);
  transfer.writeGuard.slow = false;
  assert.equal(pages.pipeUnit(), 1, "a failed write says nothing of the way");
  answers.push(-Errno.EINVAL);
  assert.equal(pages.writeFromPipe(8192, 9, 4096), -Errno.EINVAL);
  assert.equal(pages.pipeUnit(), 0, "the file system takes no pages");
  transfer.directAlignment = 512;
  assert.equal(pages.pipeUnit(), 0);
});
