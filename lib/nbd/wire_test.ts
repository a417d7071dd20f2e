import assert from "node:assert/strict";
import { BlockError } from "../base/mod.ts";
import {
  Framing,
  getUint64,
  nbdErrnoOf,
  putChunk,
  putSimpleReply,
  putUint64,
  RequestHeader,
} from "./wire.ts";
import {
  blockSizeInfo,
  exportInfo,
  exportNameReply,
  greeting,
  metaContextReply,
  optionError,
  parseInfoRequest,
  parseMetaRequest,
  parseOptionHeader,
  serverReply,
} from "./wire_options.ts";
import { infoRequestData, metaRequestData, optionMessage } from "./testing_wire.ts";

function hex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text.match(/../g)!, (pair) => parseInt(pair, 16));
}

// The bytes below were recorded from qemu-storage-daemon 7.2 and from clients, not made by this code.

Deno.test("the greeting is that of a fixed newstyle server without zeroes", () => {
  assert.equal(hex(greeting()), "4e42444d4147494349484156454f50540003");
});

Deno.test("option replies have QEMU's bytes", () => {
  assert.equal(
    hex(serverReply("x", "hey")),
    "0003e889045565a900000003000000020000000800000001" + "78686579",
  );
  assert.equal(
    hex(exportInfo(6, 1 << 20, 0xded)),
    "0003e889045565a900000006000000030000000c0000" + "00000000001000000ded",
  );
  assert.equal(
    hex(blockSizeInfo(7, 1, 4096, 32 << 20)),
    "0003e889045565a900000007000000030000000e0003" + "000000010000100002000000",
  );
  assert.equal(
    hex(metaContextReply(10, 1, "ab")),
    "0003e889045565a90000000a000000040000000600000001" + "6162",
  );
  assert.equal(
    hex(optionError(77, 0x80000001, "no")),
    "0003e889045565a90000004d80000001000000026e6f",
  );
  assert.equal(hex(exportNameReply(1 << 20, 0xd6d, true)), "00000000001000000d6d");
  assert.equal(exportNameReply(1 << 20, 0xd6d, false).length, 134);
});

Deno.test("a request's header is parsed to its fields, cookie kept bit by bit", () => {
  const compact = bytesOf(
    "25609513" + "0001" + "0001" + "8123456789abcdef" + "0000000100000200" + "00001000",
  );
  const header = new RequestHeader();
  assert.equal(header.parse(new DataView(compact.buffer), 0, false), true);
  assert.deepEqual({ ...header }, {
    flags: 1,
    type: 1,
    cookieHigh: 0x81234567,
    cookieLow: 0x89abcdef,
    offset: 0x100000200,
    length: 4096,
  });
  const extended = bytesOf(
    "21e41c71" + "0020" + "0007" + "0000000000000001" + "0000000000000000" + "0000000200000001",
  );
  assert.equal(header.parse(new DataView(extended.buffer), 0, true), true);
  assert.equal(header.length, 0x200000001);
  assert.equal(header.parse(new DataView(extended.buffer), 0, false), false);
});

Deno.test("replies have the document's layout in all three framings", () => {
  const view = new DataView(new ArrayBuffer(32));
  putSimpleReply(view, 0, 22, { cookieHigh: 1, cookieLow: 0xffffffff, offset: 0 });
  assert.equal(
    hex(new Uint8Array(view.buffer, 0, 16)),
    "67446698" + "00000016" + "00000001ffffffff",
  );
  const to = { cookieHigh: 0, cookieLow: 7, offset: 0x100000000 };
  putChunk(view, 0, Framing.structured, to, true, 0x8001, 25);
  assert.equal(
    hex(new Uint8Array(view.buffer, 0, 20)),
    "668e33ef" + "0001" + "8001" + "0000000000000007" + "00000019",
  );
  putChunk(view, 0, Framing.extended, to, false, 6, 24);
  assert.equal(
    hex(new Uint8Array(view.buffer)),
    "6e8a278c" + "0000" + "0006" + "0000000000000007" + "0000000100000000" + "0000000000000018",
  );
});

Deno.test("64-bit numbers survive the way to the wire and back, whichever bits they have", () => {
  const view = new DataView(new ArrayBuffer(8));
  for (const value of [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 52 + 2 ** 31 + 1]) {
    putUint64(view, 0, value);
    assert.equal(view.getBigUint64(0), BigInt(value));
    assert.equal(getUint64(view, 0), value);
  }
});

Deno.test("options survive the way to the wire and back", () => {
  assert.deepEqual(parseOptionHeader(optionMessage(7, infoRequestData("x"))), {
    option: 7,
    length: 7,
  });
  for (const at of [0, 3, 4, 7]) {
    const spoilt = optionMessage(7);
    spoilt[at]! ^= 1;
    assert.equal(parseOptionHeader(spoilt), undefined, `byte ${at}`);
  }
  assert.deepEqual(parseInfoRequest(7, infoRequestData("ü", [3, 1])), { name: "ü", kinds: [3, 1] });
  assert.deepEqual(parseMetaRequest(10, metaRequestData("x", ["base:allocation", ""])), {
    name: "x",
    queries: ["base:allocation", ""],
  });
});

Deno.test("truncated option data is refused at every length, in QEMU's words", () => {
  const info = infoRequestData("name", [3]);
  for (let n = 0; n < info.length; n++) {
    assert.equal(parseInfoRequest(6, info.subarray(0, n)), "Inconsistent lengths in option info");
  }
  const meta = metaRequestData("name", ["base:allocation", "qemu:"]);
  for (let n = 0; n < meta.length; n++) {
    const text = parseMetaRequest(10, meta.subarray(0, n));
    assert.equal(text, "Inconsistent lengths in option set meta context");
  }
  const longer = new Uint8Array(info.length + 1);
  longer.set(info);
  assert.equal(parseInfoRequest(6, longer), "option 'info' has unexpected length");
  const more = new Uint8Array(meta.length + 1);
  more.set(meta);
  assert.equal(parseMetaRequest(10, more), "option 'set meta context' has unexpected length");
});

Deno.test("lengths that lie are refused without being believed", () => {
  assert.equal(parseInfoRequest(6, bytesOf("ffffffff61")), "Invalid name length: 4294967295");
  assert.equal(parseInfoRequest(6, bytesOf("0000100161")), "Invalid name length: 4097");
  assert.equal(
    parseMetaRequest(9, bytesOf("0000000161ffffffff")),
    "Inconsistent lengths in option list meta context",
  );
  assert.equal(
    parseMetaRequest(9, bytesOf("000000016100000001ffffffff")),
    "Inconsistent lengths in option list meta context",
  );
});

Deno.test("a query longer than a string may be is one that names nothing, not the absence of one", () => {
  const longest = "base:" + "q".repeat(4091);
  const request = parseMetaRequest(9, metaRequestData("x", [longest + "q", "base:", longest]));
  assert.deepEqual(request, { name: "x", queries: ["", "base:", longest] });
});

Deno.test("the words of an error are no longer than a string may be", () => {
  assert.equal(optionError(7, 0x80000003, "x".repeat(5000)).length, 20 + 4096);
});

Deno.test("errors of the system become the protocol's", () => {
  const cases: [string, number][] = [
    ["EPERM", 1],
    ["EROFS", 1],
    ["EIO", 5],
    ["ENOMEM", 12],
    ["ENOSPC", 28],
    ["EDQUOT", 28],
    ["EFBIG", 28],
    ["EOVERFLOW", 75],
    ["ENOTSUP", 95],
    ["EOPNOTSUPP", 95],
    ["ESHUTDOWN", 108],
    ["EINVAL", 22],
  ];
  for (const [errno, value] of cases) assert.equal(nbdErrnoOf(new BlockError(errno, "")), value);
});
