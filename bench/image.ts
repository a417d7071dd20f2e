/** The file that is served in a benchmark, and its pages. */
import { randomBytes } from "node:crypto";

/** How an image is written: its size, and the size of each write, which is what folios of its page cache have at most. */
export interface Writing {
  readonly sizeMib: number;
  /** A divisor of 1024. */
  readonly pieceKib: number;
}

/** Writes incompressible bytes, down to the disk, so that no write-back disturbs the run. */
export function makeImage(path: string, { sizeMib, pieceKib }: Writing): void {
  const block = randomBytes(2 ** 20);
  const piece = pieceKib * 1024;
  using file = Deno.openSync(path, { create: true, write: true });
  for (let i = 0; i < sizeMib; i++) {
    block.writeUInt32LE(i, 0);
    for (let at = 0; at < block.length;) at += file.writeSync(block.subarray(at, at + piece));
  }
  file.syncSync();
}

/** Writes back what is dirty of a file, if there is one. */
export function sync(path: string): void {
  try {
    using file = Deno.openSync(path);
    file.syncSync();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Reads a file from its beginning to its end: into the page cache, where it is not. */
export function readOnce(path: string): void {
  using file = Deno.openSync(path);
  const buffer = new Uint8Array(2 ** 20);
  while (file.readSync(buffer) !== null);
}
