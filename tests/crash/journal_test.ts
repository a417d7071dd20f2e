/** The judge is judged: it must find what is wrong, and nothing else. */
import assert from "node:assert/strict";
import { Dice } from "../harness/dice.ts";
import { Journal, type RecordingDisk } from "./journal.ts";
import { Ledger } from "./ledger.ts";

const SECTOR = 512;

/** All states that many cuts give, as the first bytes of the given sectors. */
async function states(
  work: (disk: RecordingDisk) => Promise<void>,
  sectors: readonly number[],
): Promise<Set<string>> {
  const found = new Set<string>();
  for (let seed = 0; seed < 30; seed++) {
    const journal = new Journal();
    const disk = journal.disk(new Uint8Array(8 * SECTOR), new Dice(seed));
    await work(disk);
    const dice = new Dice(seed);
    await journal.replay((_, take) => {
      for (let i = 0; i < 10; i++) {
        const [bytes] = take(dice);
        found.add(sectors.map((sector) => bytes![sector * SECTOR] ?? "-").join(""));
      }
    });
  }
  return found;
}

const full = (value: number, sectors = 1) => new Uint8Array(sectors * SECTOR).fill(value);

Deno.test("writes with a flush between are seen in order only", async () => {
  const seen = await states(async (disk) => {
    await disk.write(0, full(1));
    await disk.flush();
    await disk.write(SECTOR, full(2));
  }, [0, 1]);
  assert.deepEqual([...seen].sort(), ["00", "10", "12"]);
});

Deno.test("writes without a flush between are seen in any order", async () => {
  const seen = await states(async (disk) => {
    await disk.write(0, full(1));
    await disk.write(SECTOR, full(2));
  }, [0, 1]);
  assert.deepEqual([...seen].sort(), ["00", "02", "10", "12"]);
});

Deno.test("a flush covers only what had completed when it was asked for", async () => {
  const seen = await states(async (disk) => {
    const write = disk.write(0, full(1));
    await Promise.all([write, disk.flush()]);
    await disk.write(SECTOR, full(2));
  }, [0, 1]);
  assert.ok(seen.has("02"), [...seen].join());
});

Deno.test("a write of several sectors is torn", async () => {
  const seen = await states(async (disk) => await disk.write(0, full(1, 2)), [0, 1]);
  assert.deepEqual([...seen].sort(), ["00", "01", "10", "11"]);
});

Deno.test("the end of a file may be where it was", async () => {
  const seen = await states(async (disk) => await disk.truncate(3 * SECTOR), [1, 5]);
  assert.deepEqual([...seen].sort(), ["0-", "00"]);
});

Deno.test("a ledger allows what was sent, and after a flush only the newest", () => {
  const ledger = new Ledger(full(9, 8));
  const one = ledger.compose(0, 2 * SECTOR);
  const two = ledger.compose(SECTOR, SECTOR);
  ledger.sent(0, 2 * SECTOR, one.number);
  ledger.sent(SECTOR, SECTOR, two.number);
  const mixed = new Uint8Array([...one.bytes.subarray(0, SECTOR), ...two.bytes]);
  for (const bytes of [full(9, 2), one.bytes, mixed]) {
    assert.equal(ledger.judge(0, bytes), undefined);
  }
  assert.match(ledger.judge(0, full(8, 2))!, /sector 0 holds something else/);
  assert.match(ledger.judge(0, two.bytes)!, /holds write 2 of sector 1/);
  ledger.flushed();
  assert.equal(ledger.judge(0, mixed), undefined);
  assert.match(ledger.judge(0, one.bytes)!, /sector 1 holds write 1/);
  assert.equal(ledger.judge(4 * SECTOR, full(9)), undefined);
  assert.match(ledger.judge(4 * SECTOR, full(0))!, /zeroes/);
});

Deno.test("a ledger takes a discard for advice until the sector is written again", () => {
  const ledger = new Ledger(full(9, 8));
  const one = ledger.compose(0, SECTOR);
  ledger.sent(0, SECTOR, one.number);
  ledger.flushed();
  ledger.discarded(0, SECTOR);
  ledger.flushed();
  for (const bytes of [full(9), one.bytes, full(0)]) {
    assert.equal(ledger.judge(0, bytes), undefined);
  }
  const two = ledger.compose(0, SECTOR);
  ledger.sent(0, SECTOR, two.number);
  ledger.flushed();
  assert.match(ledger.judge(0, full(0))!, /zeroes/);
  assert.equal(ledger.judge(0, two.bytes), undefined);
});
