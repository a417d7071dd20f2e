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

Deno.test("ranges are located once enough in a row were in the page cache, until one is not", async () => {
  let present = (wanted: number) => wanted;
  const asked: [number, number][] = [];
  const sys = {
    monotonicNs: () => 0,
    waits: () => 0,
    cachedPages(_fd: number, offset: number, length: number) {
      asked.push([offset, length]);
      return present(Math.ceil(length / 4096));
    },
    preadv: () => -Errno.EAGAIN,
  } as unknown as Sys;
  const engine = { readv: (_fd: number, iov: IoVec) => Promise.resolve(iov.total) };
  const transfer = new Transfer(sys, 3, "n", engine as unknown as TransferEngine);
  const pages = new PagesOfFile(sys, transfer, "file");
  const place = { fd: -1, offset: -1 };
  const locate = (known = false) => pages.locate(5000, 65_536, known, place);
  const untilReady = () => {
    let count = 1;
    while (!locate() && count < 100) count++;
    return count;
  };
  assert.equal(locate(true), false, "not before it was found there");
  const first = untilReady();
  assert.ok(first > 1 && first < 100, `${first}`);
  assert.deepEqual(place, { fd: 3, offset: 5000 });
  assert.deepEqual(asked[0], [4096, 66_440], "from the beginning of a page");
  const calls = asked.length;
  assert.equal(locate(true), true);
  assert.equal(asked.length, calls, "what is known is not asked for again");
  present = (wanted) => wanted - 1;
  assert.equal(locate(), false);
  present = (wanted) => wanted;
  assert.equal(untilReady(), first, "it begins anew");
  await transfer.read(0, IoVec.of(4096, 4096));
  assert.equal(locate(true), false, "a read had to wait");
  assert.equal(untilReady(), first);
  transfer.readGuard.slow = true;
  assert.equal(locate(), false, "it would be made by the pool");
  transfer.readGuard.slow = false;
  transfer.directAlignment = 512;
  assert.equal(locate(), false, "there are no pages");
  transfer.directAlignment = 0;
  assert.equal(locate(), true);
  present = () => -Errno.ENOSYS;
  assert.equal(locate(), false);
  present = (wanted) => wanted;
  assert.equal(locate(), false, "whoever does not tell is not asked again");
});

Deno.test("of devices nothing is said of pages, and none are dropped", async () => {
  const sys = { cachedPages: () => 1, pool: {} } as unknown as Sys;
  const pages = new PagesOfFile(sys, { fd: 3 } as Transfer, "device");
  assert.equal(pages.inPageCache(0, 4096), undefined);
  await pages.dropPages(0, 4096);
  const file = new PagesOfFile(sys, { fd: 3 } as Transfer, "file");
  assert.equal(file.inPageCache(0, 4096), true);
});
