import assert from "node:assert/strict";
import { CommandError } from "../../../base/mod.ts";
import { F } from "../../../sys/mod.ts";
import { Perm } from "../../mod.ts";
import { ImageLocks } from "./locking.ts";

/** The kernel's lock table for one file: descriptions by descriptor, read locks by byte. */
class LockTable {
  readonly held = new Map<number, Set<number>>();
  /** Fails the k-th placement (1 is the first). */
  failAt = 0;
  placements = 0;

  of(fd: number): Set<number> {
    if (!this.held.has(fd)) this.held.set(fd, new Set());
    return this.held.get(fd)!;
  }
  bytes(fd: number): number[] {
    return [...this.of(fd)].sort((a, b) => a - b);
  }
  ofdSetLock(fd: number, type: number, start: number, length: number): number {
    assert.equal(length, 1);
    if (type === F.UNLCK) {
      this.of(fd).delete(start);
      return 0;
    }
    assert.equal(type, F.RDLCK, "image locks are shared locks");
    if (++this.placements === this.failAt) return -37;
    this.of(fd).add(start);
    return 0;
  }
  ofdTestLock(fd: number, type: number, start: number): number {
    assert.equal(type, F.WRLCK);
    for (const [other, bytes] of this.held) if (other !== fd && bytes.has(start)) return F.RDLCK;
    return F.UNLCK;
  }
}

function take(locks: ImageLocks, fd: number, needed: number, shared: number): void {
  locks.prepare(fd, needed, shared);
  locks.settle(fd, needed, shared);
}

Deno.test("locks lie on the bytes where QEMU looks for them", () => {
  const table = new LockTable();
  const locks = new ImageLocks(table, "x.img");
  take(locks, 3, Perm.consistentRead | Perm.write, Perm.all & ~Perm.resize);
  assert.deepEqual(table.bytes(3), [100, 101, 203]);
  take(locks, 3, Perm.consistentRead, Perm.all & ~Perm.resize);
  assert.deepEqual(table.bytes(3), [100, 203]);
  take(locks, 3, Perm.none, Perm.all);
  assert.deepEqual(table.bytes(3), []);
});

Deno.test("another's locks are named as QEMU names them, and nothing is left behind", () => {
  const table = new LockTable();
  take(
    new ImageLocks(table, "x.img"),
    3,
    Perm.consistentRead | Perm.write | Perm.resize,
    Perm.consistentRead | Perm.writeUnchanged,
  );
  const second = new ImageLocks(table, "x.img");
  const attempts = [
    [Perm.consistentRead, Perm.all & ~Perm.write, 'Failed to get shared "write" lock'],
    [Perm.write, Perm.all, 'Failed to get "write" lock'],
    [Perm.resize, Perm.all, 'Failed to get "resize" lock'],
    [Perm.none, Perm.all & ~Perm.consistentRead, 'Failed to get shared "consistent read" lock'],
  ] as const;
  for (const [needed, shared, desc] of attempts) {
    assert.throws(
      () => second.prepare(4, needed, shared),
      (error: CommandError) => {
        assert.equal(error.message, desc);
        assert.deepEqual(error.hints, ["Is another process using the image [x.img]?"]);
        return true;
      },
    );
    assert.deepEqual(table.bytes(4), []);
  }
});

Deno.test("an aborted change leaves exactly the locks that were held", () => {
  const table = new LockTable();
  const locks = new ImageLocks(table, "x.img");
  take(locks, 3, Perm.consistentRead, Perm.all & ~Perm.resize);
  locks.prepare(3, Perm.consistentRead | Perm.write, Perm.consistentRead);
  assert.deepEqual(table.bytes(3), [100, 101, 201, 202, 203]);
  locks.abort(3, Perm.consistentRead | Perm.write, Perm.consistentRead);
  assert.deepEqual(table.bytes(3), [100, 203]);
});

Deno.test("new locks are added before old ones are dropped", () => {
  const table = new LockTable();
  const locks = new ImageLocks(table, "x.img");
  take(locks, 3, Perm.write, Perm.all);
  locks.prepare(3, Perm.consistentRead, Perm.all);
  assert.deepEqual(table.bytes(3), [100, 101]);
  locks.settle(3, Perm.consistentRead, Perm.all);
  assert.deepEqual(table.bytes(3), [100]);
});

Deno.test("a lock that cannot be placed is reported, whichever it is, and the others are taken back", () => {
  for (let failAt = 1; failAt <= 4; failAt++) {
    const table = new LockTable();
    const locks = new ImageLocks(table, "x.img");
    take(locks, 3, Perm.none, Perm.all & ~Perm.resize);
    table.failAt = table.placements + failAt;
    assert.throws(
      () => locks.prepare(3, Perm.consistentRead | Perm.write, Perm.consistentRead),
      /^CommandError: Failed to lock byte (100|101|201|202): No locks available$/,
    );
    assert.deepEqual(table.bytes(3), [203]);
  }
});
