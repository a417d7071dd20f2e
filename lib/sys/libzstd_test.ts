import assert from "node:assert/strict";
import zlib from "node:zlib";
import { chance } from "../base/mod.ts";
import { Libzstd } from "./libzstd.ts";
import { type Below, broken, GuardedStreams, ROOM } from "./testing.ts";

function isHere(): boolean {
  const library = Libzstd.open();
  library?.close();
  return library !== undefined;
}
const ignore = !isHere();
const {
  ZSTD_c_checksumFlag: checksum,
  ZSTD_c_compressionLevel: level,
  ZSTD_c_contentSizeFlag: contentSize,
  ZSTD_c_windowLog: windowLog,
} = zlib.constants;

/** A frame of any kind that zstd writes; a quarter of them make more than fits. */
function anyFrame(below: Below): Uint8Array {
  const bytes = new Uint8Array(ROOM + (below(4) === 0 ? below(ROOM) : 0));
  const letters = [2, 8, 64, 256][below(4)]!;
  for (let at = 0; at < bytes.length; at++) {
    const repeats = at > 300 && below(3) === 0;
    bytes[at] = repeats ? bytes[at - 1 - below(300)]! : below(letters);
  }
  const params = {
    [level]: 1 + below(19),
    [checksum]: below(2),
    [contentSize]: below(2),
    [windowLog]: 10 + below(10),
  };
  return new Uint8Array(zlib.zstdCompressSync(bytes, { params }));
}

Deno.test({
  name:
    "libzstd makes what the runtime makes of any frame, and of broken ones no more than its room",
  ignore,
  fn: () => {
    using bench = new GuardedStreams(Libzstd.open()!, "zstd-decode");
    const pick = chance(21);
    const below = (limit: number) => Math.floor(pick(2 ** 32) / 2 ** 32 * limit);
    let filled = 0;
    let lenient = 0;
    for (let i = 0; i < 120; i++) {
      const sound = anyFrame(below);
      const whole = zlib.zstdDecompressSync(sound).length;
      const got = bench.run(sound);
      assert.equal(got.filled, whole === ROOM, `frame ${i}`);
      assert.equal(got.alike, got.filled, `frame ${i}`);
      for (let j = 0; j < 10; j++) {
        const bytes = broken(sound, below);
        // Whoever asks has looked at the magic number: other formats are not for the library.
        bytes.set(sound.subarray(0, Math.min(4, bytes.length)));
        const result = bench.run(bytes);
        if (!result.filled) continue;
        filled++;
        if (result.done < 0) lenient++;
        else assert.ok(result.done === ROOM && result.alike, `frame ${i}, copy ${j}`);
      }
    }
    assert.ok(filled > 100, "hardly any was decoded");
    // Windows too large for the runtime, and references beyond a small one.
    assert.ok(lenient < filled / 20, `${lenient} that the runtime refuses`);
  },
});

/** A frame's header without its magic number, and a block that repeats a byte. */
function frame(...header: number[]): Uint8Array {
  const block = (ROOM << 3) | 2 | 1;
  const blocks = [block & 255, block >> 8 & 255, block >> 16, 7];
  return Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, ...header, ...blocks);
}

Deno.test({
  name: "libzstd: a frame is bounded by its room, whatever it asks for",
  ignore,
  fn: () => {
    using bench = new GuardedStreams(Libzstd.open()!, "zstd-decode");
    const size = [ROOM & 255, ROOM >> 8, 0, 0];
    assert.equal(bench.run(frame(0xa0, ...size)).filled, true, "as it is to be");
    const resident = Deno.memoryUsage().rss;
    const cases: Record<string, Uint8Array> = {
      "a dictionary that nobody has": frame(0xa1, 9, ...size),
      "a content of 4 GiB": frame(0xa0, 255, 255, 255, 255),
      "a content of 2^63 bytes": frame(0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80),
      "less content than its blocks make": frame(0xa0, 1, 0, 0, 0),
      "a window of 2^41 bytes": frame(0, 0xff),
      "a reserved bit": frame(0xa8, ...size),
      "a bomb": new Uint8Array(zlib.zstdCompressSync(new Uint8Array(16 * 1024 * 1024))),
      "too little": new Uint8Array(zlib.zstdCompressSync(new Uint8Array(ROOM - 1))),
      "nothing": new Uint8Array(zlib.zstdCompressSync(new Uint8Array(0))),
      "zeroes": new Uint8Array(600),
    };
    for (const [name, bytes] of Object.entries(cases)) {
      assert.equal(bench.run(bytes).filled, false, name);
    }
    assert.ok(Deno.memoryUsage().rss - resident < 64 * 1024 * 1024, "no memory for what was asked");
  },
});
