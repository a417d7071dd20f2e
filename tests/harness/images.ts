/** Image files with known bytes. */
import assert from "node:assert/strict";

/** Bytes that differ at every offset and seed (xorshift32 from the seed), so that misplaced data shows. */
export function noise(length: number, seed = 1): Uint8Array {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let at = 0; at < words.length; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[at] = state;
  }
  return new Uint8Array(words.buffer, 0, length);
}

/** A stretch of a sparse file that holds data. */
export interface Stretch {
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** Creates a file of `size` bytes that is a hole but for the stretches. */
export function sparse(path: string, size: number, stretches: readonly Stretch[] = []): void {
  using file = Deno.openSync(path, { write: true, create: true, truncate: true });
  file.truncateSync(size);
  for (const { at, bytes } of stretches) {
    file.seekSync(at, Deno.SeekMode.Start);
    writeAll(file, bytes);
  }
}

/** Creates a file full of noise. */
export function noisy(path: string, size: number, seed = 1): Uint8Array {
  const bytes = noise(size, seed);
  Deno.writeFileSync(path, bytes);
  return bytes;
}

/** Bytes that a file really uses on disk. */
export function allocated(path: string): number {
  return (Deno.statSync(path).blocks ?? 0) * 512;
}

/** Compares big byte strings without printing them. */
export function assertSameBytes(got: Uint8Array, want: Uint8Array, what: string): void {
  assert.equal(got.length, want.length, `${what}: length`);
  for (let at = 0; at < want.length; at++) {
    if (got[at] !== want[at]) {
      assert.fail(`${what}: byte ${at} is ${got[at]}, expected ${want[at]}`);
    }
  }
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
}
