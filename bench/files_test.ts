import assert from "node:assert/strict";
import { writeFiles } from "./files.ts";

const BLOCK = 4096;
const MIB = 2 ** 20;

/** `size` bytes of the files that `make` puts into a folder. */
function written(size: number, make: (folder: string) => void): Uint8Array {
  const dir = Deno.makeTempDirSync();
  try {
    Deno.mkdirSync(`${dir}/files/below`, { recursive: true });
    make(`${dir}/files`);
    writeFiles(`${dir}/image`, size, [`${dir}/files`, `${dir}/none`]);
    return Deno.readFileSync(`${dir}/image`);
  } finally {
    Deno.removeSync(dir, { recursive: true });
  }
}

Deno.test("an image of files has the size that is wanted, each file begins at a block, packed ones are left out", () => {
  const make = (folder: string) => {
    Deno.writeFileSync(`${folder}/below/a`, new Uint8Array(40 * MIB).fill(1));
    Deno.writeFileSync(`${folder}/b.gz`, new Uint8Array(40 * MIB).fill(2));
    for (let i = 0; i < 100; i++) Deno.writeFileSync(`${folder}/c${i}`, new Uint8Array(9).fill(3));
  };
  const size = 80 * MIB + 512;
  const bytes = written(size, make);
  assert.equal(bytes.length, size);
  const packed = new Uint8Array(BLOCK).fill(2);
  for (let at = 0; at < size - BLOCK; at += BLOCK) {
    if (bytes[at] === 2) assert.notDeepEqual(bytes.subarray(at, at + BLOCK), packed);
  }
  const small = new Uint8Array(BLOCK);
  small.fill(3, 0, 9);
  const blocks = Array.from({ length: 20_000 }, (_, at) => bytes.subarray(at * BLOCK));
  const isSmall = (block: Uint8Array) => small.every((byte, at) => block[at] === byte);
  assert.ok(blocks.filter((block) => block[0] === 3).some(isSmall));
  assert.deepEqual(written(size, make), bytes, "always the same");
});

Deno.test("an image of files is filled where there are hardly any", () => {
  const bytes = written(70 * MIB, () => {});
  assert.equal(bytes.length, 70 * MIB);
  assert.ok(bytes.subarray(-MIB).some((byte) => byte !== 0));
});
