import assert from "node:assert/strict";
import zlib from "node:zlib";
import { chance } from "../base/mod.ts";
import { Libdeflate } from "./libdeflate.ts";
import { type Below, broken, GuardedStreams, ROOM } from "./testing.ts";

function isHere(): boolean {
  const library = Libdeflate.open();
  library?.close();
  return library !== undefined;
}
const ignore = !isHere();

/** A stream of any kind that zlib writes; a quarter of them make more than fits. */
function anyStream(below: Below): Uint8Array {
  const bytes = new Uint8Array(ROOM + (below(4) === 0 ? below(ROOM) : 0));
  const letters = [2, 8, 64, 256][below(4)]!;
  for (let at = 0; at < bytes.length; at++) {
    const repeats = at > 300 && below(3) === 0;
    bytes[at] = repeats ? bytes[at - 1 - below(300)]! : below(letters);
  }
  const windowBits = [9, 12, 15][below(3)]!;
  const options = { windowBits, level: below(10), strategy: below(5), memLevel: 1 + below(9) };
  return new Uint8Array(zlib.deflateRawSync(bytes, options));
}

Deno.test({
  name:
    "libdeflate makes what zlib makes of any sound stream, and of broken ones no more than its room",
  ignore,
  fn: () => {
    using bench = new GuardedStreams(Libdeflate.open()!, "inflate");
    const pick = chance(20);
    const below = (limit: number) => Math.floor(pick(2 ** 32) / 2 ** 32 * limit);
    let lenient = 0;
    const streams = 150;
    const copies = 20;
    for (let i = 0; i < streams; i++) {
      const sound = anyStream(below);
      const { filled, done, alike } = bench.run(sound);
      assert.equal(done, ROOM);
      const whole = zlib.inflateRawSync(sound).length;
      assert.equal(filled, whole === ROOM, `stream ${i}`);
      assert.equal(alike, filled, `stream ${i}`);
      for (let j = 0; j < copies; j++) {
        const got = bench.run(broken(sound, below));
        if (!got.filled) continue;
        if (got.done < 0) lenient++;
        else assert.ok(got.done === ROOM && got.alike, `stream ${i}, copy ${j}`);
      }
    }
    // Rules that it does not check are hardly ever broken alone.
    assert.ok(lenient <= streams * copies / 500, `${lenient} that zlib refuses`);
  },
});

Deno.test({
  name: "libdeflate: what is no whole stream is left to zlib",
  ignore,
  fn: () => {
    using bench = new GuardedStreams(Libdeflate.open()!, "inflate");
    const whole = new Uint8Array(zlib.deflateRawSync(new Uint8Array(ROOM).fill(7), { level: 0 }));
    const stored = (length: number, complement = ~length) =>
      Uint8Array.of(1, length & 255, length >> 8, complement & 255, complement >> 8 & 255, 1, 2, 3);
    const cases: Record<string, Uint8Array> = {
      "a byte": Uint8Array.of(3),
      "zeroes": new Uint8Array(600),
      "ones": new Uint8Array(600).fill(255),
      "a stored block longer than the stream": stored(ROOM),
      "a stored block whose length is not confirmed": stored(3, 3),
      "a stored block of nothing": stored(0),
      "a reserved kind of block": Uint8Array.of(7, 0, 0, 0),
      "a distance before the beginning": Uint8Array.of(0x63, 0x00, 0x86, 0x01, 0, 0, 0, 0),
      "a last byte that is missing": whole.slice(0, -1),
      "a bomb": new Uint8Array(zlib.deflateRawSync(new Uint8Array(16 * 1024 * 1024))),
      "too little": new Uint8Array(zlib.deflateRawSync(new Uint8Array(ROOM - 1))),
      "one byte too much": new Uint8Array(zlib.deflateRawSync(new Uint8Array(ROOM + 1))),
    };
    for (const [name, stream] of Object.entries(cases)) {
      assert.equal(bench.run(stream).filled, false, name);
    }
    assert.equal(bench.run(whole).alike, true);
  },
});
