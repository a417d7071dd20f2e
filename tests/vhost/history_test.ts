/** The model itself: it must not let anything pass. */
import assert from "node:assert/strict";
import { History, SECTOR } from "./history.ts";

const read = (history: History, data: Uint8Array, first = 0) =>
  history.endRead(history.beginRead(first, data.length / SECTOR), data, "test");

Deno.test("reads see the last write, whole, and where it belongs", () => {
  const history = new History(8);
  read(history, new Uint8Array(8 * SECTOR));
  const a = history.beginWrite(2, 2);
  history.endWrite(a);
  const bytes = history.bytesOf(a);
  read(history, bytes, 2);
  assert.throws(() => read(history, new Uint8Array(SECTOR), 2), /may be 1/, "lost");
  assert.throws(() => read(history, bytes.subarray(0, SECTOR), 3), /place/, "misplaced");
  const b = history.beginWrite(2, 1, true);
  history.endWrite(b);
  assert.throws(() => read(history, bytes, 2), /may be 2 \(zeroes\)/, "an older write");
  read(history, new Uint8Array(SECTOR), 2);
});

Deno.test("a read at the same time as a write sees either; later ones never the older", () => {
  const history = new History(1);
  const old = new Uint8Array(SECTOR);
  const write = history.beginWrite(0, 1);
  const bytes = history.bytesOf(write);
  read(history, old);
  read(history, bytes);
  const both = bytes.slice();
  both.fill(0, 0, 64);
  read(history, both);
  const during = history.beginRead(0, 1);
  history.endWrite(write);
  history.endRead(during, old, "one that had begun before");
  assert.throws(() => read(history, both), /may be 1/);
  read(history, bytes);
});

Deno.test("of two writes at once either is the last; who reads decides", () => {
  for (const last of [0, 1]) {
    const history = new History(1);
    const writes = [history.beginWrite(0, 1), history.beginWrite(0, 1)];
    for (const write of writes) history.endWrite(write);
    const bytes = writes.map((write) => history.bytesOf(write));
    const torn = bytes[0]!.slice();
    torn.set(bytes[1]!.subarray(0, 256));
    assert.throws(() => read(history, torn), /torn/);
    read(history, bytes[last]!);
    assert.throws(() => read(history, bytes[1 - last]!), /may be/);
  }
});
