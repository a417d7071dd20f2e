/** Payloads of every request: what is read from well-formed ones, and that no other size is taken. */
import assert from "node:assert/strict";
import { viewOf } from "../base/mod.ts";
import { payload } from "./testing.ts";
import {
  bits,
  configChange,
  configReply,
  has,
  HEADER_SIZE,
  inflightReply,
  MAX_PAYLOAD,
  parseAddress,
  parseConfig,
  parseHeader,
  parseInflight,
  parseLog,
  parseMemoryTable,
  parseRegion,
  parseState,
  parseU64,
  parseVringFd,
  ProtocolError,
  stateReply,
  u64Reply,
} from "./wire.ts";

const { words, longs, join, u64 } = payload;
const region = longs(0x1000, 0x2000, 0x7f00_0000_0000, 0x3000);
const config = join(words(32, 2, 1), Uint8Array.of(7, 8));

/** A well-formed payload of each kind: its reader, what it says, and the other lengths that are as good. */
const kinds: Record<
  string,
  { parse: (view: DataView) => unknown; bytes: Uint8Array; says: unknown; also?: number[] }
> = {
  "a number": { parse: parseU64, bytes: u64(2n ** 64n - 2n), says: 2n ** 64n - 2n },
  "a vring's state": {
    parse: parseState,
    bytes: words(3, 0xffffffff),
    says: { index: 3, num: 0xffffffff },
  },
  "a vring's address": {
    parse: parseAddress,
    bytes: join(words(1, 1), longs(0x1000, 0x2000, 0x3000, 2 ** 53 - 1)),
    says: {
      index: 1,
      flags: 1,
      descriptor: 0x1000,
      used: 0x2000,
      available: 0x3000,
      log: 2 ** 53 - 1,
    },
  },
  "a memory table": {
    parse: parseMemoryTable,
    bytes: join(words(2, 0), region, longs(0, 1, 2, 3)),
    says: [
      { guest: 0x1000, size: 0x2000, user: 0x7f00_0000_0000, offset: 0x3000 },
      { guest: 0, size: 1, user: 2, offset: 3 },
    ],
    also: [8 + 8 * 32], // room for all regions
  },
  "a memory region": {
    parse: parseRegion,
    bytes: join(longs(0), region),
    says: { guest: 0x1000, size: 0x2000, user: 0x7f00_0000_0000, offset: 0x3000 },
  },
  "a vring's descriptor": {
    parse: parseVringFd,
    bytes: longs(0x105),
    says: { index: 5, none: true },
  },
  "a log": { parse: parseLog, bytes: longs(4096, 512), says: { size: 4096, offset: 512 } },
  "an in-flight area": {
    parse: parseInflight,
    bytes: join(longs(4096, 64), words(2 | 128 << 16)),
    says: { size: 4096, offset: 64, queues: 2, queueSize: 128 },
    also: [24], // with the padding of a C struct
  },
  "a piece of configuration space": {
    parse: parseConfig,
    bytes: config,
    says: { offset: 32, size: 2, flags: 1, bytes: Uint8Array.of(7, 8) },
    also: [15, 20, 268], // size says how much of it counts
  },
};

Deno.test("each payload is read as it is laid out, wherever it lies in its buffer", () => {
  for (const [name, { parse, bytes, says, also = [] }] of Object.entries(kinds)) {
    assert.deepEqual(parse(viewOf(bytes)), says, name);
    const shifted = join(new Uint8Array(3).fill(0xee), bytes).subarray(3);
    assert.deepEqual(parse(viewOf(shifted)), says, name);
    for (const length of also) {
      const longer = new Uint8Array(length);
      longer.set(bytes);
      assert.deepEqual(parse(viewOf(longer)), says, `${name} in ${length} bytes`);
    }
  }
});

Deno.test("payloads that are cut off, or too long, are refused at every length", () => {
  for (const [name, { parse, bytes, also = [] }] of Object.entries(kinds)) {
    for (let length = 0; length < bytes.length + 40; length++) {
      if (length === bytes.length || also.includes(length)) continue;
      // These say themselves how long they are: what follows does not matter.
      if (length > bytes.length && (parse === parseMemoryTable || parse === parseConfig)) continue;
      const cut = new Uint8Array(length);
      cut.set(bytes.subarray(0, length));
      assert.throws(() => parse(viewOf(cut)), ProtocolError, `${name} of ${length} bytes`);
    }
  }
});

Deno.test("headers: version, acknowledgement, size", () => {
  const parse = (...header: number[]) => parseHeader(viewOf(words(...header)));
  assert.deepEqual(parse(5, 1, 40), { type: 5, needReply: false, size: 40 });
  assert.deepEqual(parse(0xffffffff, 9, 0), { type: 0xffffffff, needReply: true, size: 0 });
  assert.deepEqual(parse(1, 0xfffffffd, MAX_PAYLOAD).size, MAX_PAYLOAD);
  for (const flags of [0, 2, 3, 0xfffffffe]) {
    assert.throws(() => parse(1, flags, 0), /unknown version/, `flags ${flags}`);
  }
  for (const size of [MAX_PAYLOAD + 1, 2 ** 31, 2 ** 32 - 1]) {
    assert.throws(() => parse(1, 1, size), /payload of/, `${size} bytes`);
  }
});

Deno.test("numbers beyond 2^53, and regions that wrap or are empty, are refused", () => {
  const long = (value: bigint) => u64(value);
  const place = (...values: bigint[]) => join(longs(0), ...values.map(long));
  const bad: Record<string, Uint8Array> = {
    "a guest address of 2^53": place(2n ** 53n, 4096n, 0n, 0n),
    "a size of 2^64-1": place(0n, 2n ** 64n - 1n, 0n, 0n),
    "an end beyond 2^53": place(2n ** 53n - 4096n, 4096n, 0n, 0n),
    "a user address whose end is beyond": place(0n, 4096n, 2n ** 53n - 4096n, 0n),
    "an offset whose end is beyond": place(0n, 4096n, 0n, 2n ** 53n - 4096n),
    "nothing": place(4096n, 0n, 4096n, 0n),
  };
  for (const [name, bytes] of Object.entries(bad)) {
    assert.throws(() => parseRegion(viewOf(bytes)), ProtocolError, name);
    const table = join(words(1, 0), bytes.subarray(8));
    assert.throws(() => parseMemoryTable(viewOf(table)), ProtocolError, name);
  }
  const last = place(2n ** 53n - 4097n, 4096n, 0n, 0n);
  assert.equal(parseRegion(viewOf(last)).guest, 2 ** 53 - 4097);
  for (const count of [9, 2 ** 31, 2 ** 32 - 1]) {
    const table = join(words(count, 0), new Uint8Array(32 * 9));
    assert.throws(() => parseMemoryTable(viewOf(table)), /regions \(at most 8\)/);
  }
  assert.deepEqual(parseMemoryTable(viewOf(words(0, 0))), []);
});

Deno.test("a piece of configuration space has no more bytes than the message brought", () => {
  for (const size of [3, 256, 2 ** 32 - 1]) {
    const bytes = join(words(0, size, 0), Uint8Array.of(1, 2));
    assert.throws(() => parseConfig(viewOf(bytes)), /configuration of \d+ bytes in 2/);
  }
});

Deno.test("replies are what the front-end expects, byte for byte", () => {
  const reply = (type: number, ...body: Uint8Array[]) => {
    const all = join(...body);
    return join(words(type, 5, all.length), all);
  };
  assert.deepEqual(u64Reply(1, 2n ** 63n + 1n), reply(1, u64(2n ** 63n + 1n)));
  assert.deepEqual(stateReply(11, { index: 1, num: 0x8000_0001 }), reply(11, words(1, 0x80000001)));
  const access = parseConfig(viewOf(config));
  assert.deepEqual(
    configReply(access, Uint8Array.of(9, 8)),
    reply(24, words(32, 2, 1), Uint8Array.of(9, 8)),
  );
  assert.deepEqual(configReply(access, undefined), reply(24, new Uint8Array()));
  const area = { size: 2 ** 33, offset: 0, queues: 2, queueSize: 256 };
  assert.deepEqual(inflightReply(area), reply(31, longs(2 ** 33, 0), words(2 | 256 << 16, 0)));
  assert.deepEqual(parseInflight(viewOf(inflightReply(area).subarray(HEADER_SIZE))), area);
  assert.deepEqual(configChange(), words(2, 1, 0), "a request of ours, no reply");
});

Deno.test("feature bits", () => {
  assert.equal(bits(), 0n);
  assert.equal(bits(0, 34, 63), 1n | 1n << 34n | 1n << 63n);
  assert.deepEqual([has(bits(34), 34), has(bits(34), 33), has(0n, 0)], [true, false, false]);
});
