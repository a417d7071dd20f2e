import assert from "node:assert/strict";
import { IoVec } from "../../base/mod.ts";
import { O } from "../constants.ts";
import { Errno } from "../errno.ts";
import { LinuxSys } from "../linux.ts";
import type { Memory, Sys } from "../types.ts";
import { failEveryCall, faultySys } from "./faults.ts";

async function withFile(body: (sys: Sys, path: string, memory: Memory) => Promise<void>) {
  const sys = new LinuxSys();
  const path = await Deno.makeTempFile();
  const memory = sys.allocate(4096);
  try {
    await body(sys, path, memory);
  } finally {
    memory.unmap();
    sys.dispose();
    await Deno.remove(path);
  }
}

Deno.test("the k-th call fails, those before and after it do not", () =>
  withFile(async (real, path, memory) => {
    const faulty = faultySys(real, { failAt: 3, errno: Errno.ENOSPC });
    const { sys } = faulty;
    const fd = sys.open(path, O.RDWR);
    assert.equal(sys.pwrite(fd, memory.address, 10, 0), 10);
    assert.equal(sys.pwrite(fd, memory.address, 10, 10), -Errno.ENOSPC);
    assert.equal(sys.pwrite(fd, memory.address, 10, 10), 10);
    assert.equal(await sys.pool.fsync(fd), 0);
    assert.equal(sys.close(fd), 0);
    assert.equal(faulty.calls, 5);
    assert.deepEqual(faulty.injected, ["pwrite #3"]);
  }));

Deno.test("only the chosen calls count, on the pool too, and may go on failing", () =>
  withFile(async (real, path, memory) => {
    const calls = ["pool.fdatasync"] as const;
    const { sys, injected } = faultySys(real, { failAt: 2, times: Infinity, calls });
    const fd = sys.open(path, O.RDWR);
    assert.equal(sys.pwrite(fd, memory.address, 10, 0), 10);
    assert.equal(await sys.pool.fdatasync(fd), 0);
    assert.equal(await sys.pool.fdatasync(fd), -Errno.EIO);
    assert.equal(await sys.pool.fdatasync(fd), -Errno.EIO);
    assert.equal(injected.length, 2);
    sys.close(fd);
  }));

Deno.test("reads and writes can be short instead", () =>
  withFile(async (real, path, memory) => {
    const { sys } = faultySys(real, { failAt: 2, times: 3, short: true });
    const fd = sys.open(path, O.RDWR);
    assert.equal(sys.pwrite(fd, memory.address, 100, 0), 50);
    const iov = new IoVec().add(memory.address, 60).add(memory.address + 60, 40);
    assert.equal(sys.pwritev(fd, iov, 0, 0), 50);
    assert.equal(await sys.pool.pwritev(fd, IoVec.of(memory.address, 1), 0, 0), 1);
    assert.equal(sys.pwritev(fd, iov, 0, 0), 100);
    assert.equal(iov.total, 100, "the caller's list is as it was");
    sys.close(fd);
  }));

Deno.test("every call of a scenario is made to fail once", () =>
  withFile(async (real, path, memory) => {
    const failed: string[] = [];
    const count = await failEveryCall(real, {}, async ({ sys, injected }) => {
      const fd = sys.open(path, O.RDWR);
      if (fd >= 0) {
        sys.pwrite(fd, memory.address, 10, 0);
        await sys.pool.fsync(fd);
        sys.close(fd);
      }
      failed.push(...injected);
    });
    assert.equal(count, 3);
    assert.deepEqual(failed, ["open #1", "pwrite #2", "pool.fsync #3"]);
  }));
