/** What BLOCK_STATUS answers for what the block layer says. */
import assert from "node:assert/strict";
import type { BlockBackend, BlockStatus } from "../block/mod.ts";
import { collectExtents, Extents } from "./block_status.ts";

const KiB = 1024;
type Piece = readonly [length: number, state: Partial<BlockStatus>];
const DATA = { allocated: true, data: true };
/** Zeroes that have a place of their own, or none. */
const ZERO = { allocated: true, zero: true };
const HOLE = { zero: true };
const UNKNOWN = { allocated: true };

/** A node that is made of `pieces`; it tells all of a piece, whatever was asked for. */
function node(pieces: readonly Piece[], later: boolean): BlockBackend {
  const status = (offset: number, _length: number, _precise: boolean, out: BlockStatus) => {
    let start = 0;
    for (const [length, state] of pieces) {
      if (offset < start + length) {
        const told = { allocated: false, data: false, zero: false, ...state };
        Object.assign(out, told, { length: start + length - offset });
        break;
      }
      start += length;
    }
    return later ? Promise.resolve() : undefined;
  };
  return { status } as unknown as BlockBackend;
}

/** Lengths (in KiB) and flags of base:allocation. */
async function answer(
  pieces: readonly Piece[],
  offset: number,
  length: number,
  single = false,
): Promise<[number, number][]> {
  const answers: [number, number][][] = [];
  for (const later of [false, true]) {
    const context = { id: 0, name: "base:allocation", kind: "allocation" } as const;
    const extents = new Extents(context, offset * KiB, length * KiB, single);
    await collectExtents(node(pieces, later), extents);
    answers.push(extents.lengths.map((bytes, i) => [bytes / KiB, extents.flags[i]!]));
  }
  assert.deepEqual(answers[0], answers[1], "at once or later");
  return answers[0]!;
}

Deno.test("an extent is a hole where there is no data, and zero where zeroes are read", async () => {
  const pieces: Piece[] = [[4 * KiB, DATA], [4 * KiB, HOLE], [4 * KiB, DATA], [4 * KiB, UNKNOWN]];
  assert.deepEqual(await answer(pieces, 0, 16), [[4, 0], [4, 3], [4, 0], [4, 1]]);
  assert.deepEqual(await answer([[4 * KiB, ZERO], [4 * KiB, DATA]], 0, 8), [[4, 3], [4, 0]]);
});

Deno.test("neighbours are one extent where all of their flags are alike", async () => {
  const zeroData = { allocated: true, data: true, zero: true };
  const pieces: Piece[] = [
    [4 * KiB, DATA],
    [4 * KiB, DATA],
    [4 * KiB, zeroData],
    [4 * KiB, HOLE],
    [4 * KiB, ZERO],
    [4 * KiB, UNKNOWN],
  ];
  assert.deepEqual(await answer(pieces, 0, 24), [[8, 0], [4, 2], [8, 3], [4, 1]]);
});

Deno.test("extents cover no more than was asked for, and one is one", async () => {
  const pieces: Piece[] = [[16 * KiB, DATA], [16 * KiB, HOLE], [64 * KiB, DATA]];
  assert.deepEqual(await answer(pieces, 8, 16), [[8, 0], [8, 3]]);
  assert.deepEqual(await answer(pieces, 8, 16, true), [[8, 0]]);
  assert.deepEqual(await answer(pieces, 4, 4), [[4, 0]]);
});
