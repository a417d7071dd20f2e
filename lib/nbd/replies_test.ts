/** Replies, byte by byte, as the protocol document lays them out in each framing. */
import assert from "node:assert/strict";
import { BlockError } from "../base/mod.ts";
import type { Output } from "./output.ts";
import { Replies } from "./replies.ts";
import { Framing, nbdErrnoOf, RequestHeader } from "./wire.ts";

/** What is sent, in place of an Output that a socket takes it from. */
class Sent {
  readonly view = new DataView(new ArrayBuffer(8192), 64);
  at = 0;
  #room = 0;
  reserve(length: number): void {
    this.#room = length;
  }
  commit(length: number): void {
    assert.equal(length, this.#room, "as much as was reserved");
    this.at += length;
  }
  /** In hexadecimal digits; forgotten then. */
  take(): string {
    const bytes = new Uint8Array(this.view.buffer, this.view.byteOffset, this.at);
    this.at = 0;
    return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }
}

const TO = { cookieHigh: 0x01020304, cookieLow: 0xf5f6f7f8, offset: 0x5_0000_0200 };
const COOKIE = "01020304f5f6f7f8";
const hex = (value: number, digits: number) => value.toString(16).padStart(digits, "0");

/** A chunk's header. */
function chunk(framing: Framing, last: boolean, type: string, length: number): string {
  const front = (last ? "0001" : "0000") + type + COOKIE;
  return framing === Framing.extended
    ? "6e8a278c" + front + "0000000500000200" + hex(length, 16)
    : "668e33ef" + front + hex(length, 8);
}

function replies(framing: Framing): { replies: Replies; sent: Sent } {
  const sent = new Sent();
  return { replies: new Replies(sent as unknown as Output, framing), sent };
}

Deno.test("simple replies: success, errors without words, and data behind the header", () => {
  const { replies: to, sent } = replies(Framing.simple);
  to.ok(TO);
  assert.equal(sent.take(), "67446698" + "00000000" + COOKIE);
  to.error(TO, 28, "no space");
  assert.equal(sent.take(), "67446698" + "0000001c" + COOKIE);
  to.putDataHeader(sent.view, 0, TO, TO.offset, 512, true);
  sent.at = to.dataHeader;
  assert.equal(sent.take(), "67446698" + "00000000" + COOKIE);
});

for (const [name, framing] of [["structured", 1], ["extended", 2]] as const) {
  Deno.test(`${name} replies: the end, errors, data, holes and extents`, () => {
    const { replies: to, sent } = replies(framing);
    to.ok(TO);
    const simple = "67446698" + "00000000" + COOKIE;
    assert.equal(sent.take(), framing === 1 ? simple : chunk(framing, true, "0000", 0));
    to.done(TO);
    assert.equal(sent.take(), chunk(framing, true, "0000", 0));
    to.error(TO, 95, "not ü");
    assert.equal(
      sent.take(),
      chunk(framing, true, "8001", 12) + "0000005f" + "0006" + "6e6f7420c3bc",
    );
    for (const last of [false, true]) {
      to.putDataHeader(sent.view, 0, TO, 0x5_0000_1000, 512, last);
      sent.at = to.dataHeader;
      assert.equal(sent.take(), chunk(framing, last, "0001", 520) + "0000000500001000");
      to.hole(TO, 0x5_0000_2000, 0xfffffe00, last);
      assert.equal(
        sent.take(),
        chunk(framing, last, "0002", 12) + "0000000500002000" + "fffffe00",
      );
      to.extents(TO, 7, [512, 4096, 99], [3, 0, 99], 2, last);
      assert.equal(
        sent.take(),
        framing === 1
          ? chunk(framing, last, "0005", 20) + "00000007" + "0000020000000003" + "0000100000000000"
          : chunk(framing, last, "0006", 40) + "00000007" + "00000002" +
            "00000000000002000000000000000003" + "00000000000010000000000000000000",
      );
    }
  });
}

Deno.test("an error's words are no longer than a string may be", () => {
  const { replies: to, sent } = replies(Framing.structured);
  to.error(TO, 5, "x".repeat(5000));
  assert.equal(
    sent.take(),
    chunk(Framing.structured, true, "8001", 6 + 4096) + "00000005" + "1000" + "78".repeat(4096),
  );
});

Deno.test("a request's magic is that of its framing", () => {
  const view = new DataView(new ArrayBuffer(32));
  const header = new RequestHeader();
  for (const [magic, extended] of [[0x25609513, false], [0x21e41c71, true]] as const) {
    view.setUint32(0, magic);
    assert.equal(header.parse(view, 0, extended), true);
    assert.equal(header.parse(view, 0, !extended), false);
  }
});

Deno.test("an error that the protocol has no value for is EIO, and one of access EPERM", () => {
  const values = ["ENODEV", "ETIMEDOUT", "EACCES"].map((errno) =>
    nbdErrnoOf(new BlockError(errno, ""))
  );
  assert.deepEqual(values, [5, 5, 1]);
});
