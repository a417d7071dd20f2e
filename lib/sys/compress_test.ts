import assert from "node:assert/strict";
import zlib from "node:zlib";
import { openCodec } from "./compress.ts";

Deno.test("zstd: a frame that is cut off where its output is full leaves nothing for the next", () => {
  const codec = openCodec("zstd-decode");
  const letters = (seed: number) =>
    Uint8Array.from({ length: 8192 }, (_, at) => 97 + (((at * at + seed) >> 3) % 23));
  const params = { [zlib.constants.ZSTD_c_checksumFlag]: 1 };
  const cut = new Uint8Array(zlib.zstdCompressSync(letters(1), { params })).slice(0, -4);
  const output = new Uint8Array(8192);
  assert.equal(codec.run(cut, output), 8192);
  assert.equal(codec.run(new Uint8Array(zlib.zstdCompressSync(letters(2))), output), 8192);
  assert.deepEqual(output, letters(2));
  codec.close();
});
