import assert from "node:assert/strict";
import { SizeClassPool } from "./buffers.ts";
import { LinuxSys } from "./mod.ts";

Deno.test("a buffer that somebody may still write to is never handed out again, nor unmapped", () => {
  const sys = new LinuxSys();
  const pool = new SizeClassPool((length) => sys.allocate(length));
  const [lost, other] = [pool.acquire(8192), pool.acquire(8192)];
  pool.surrender(lost.address + 4096);
  pool.release(lost);
  pool.release(other);
  assert.equal(pool.inUse, 0);
  assert.equal(pool.kept, other.length);
  assert.equal(pool.acquire(8192), other);
  assert.notEqual(pool.acquire(8192).address, lost.address);
  pool.trim();
  lost.bytes[0] = 1;
  assert.equal(lost.bytes[0], 1);
  lost.unmap();
  sys.dispose();
});
