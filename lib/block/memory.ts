/** Moving bytes between IoVecs and native buffers. */
import type { IoVec } from "../base/mod.ts";
import type { Sys } from "../sys/mod.ts";

/** Zeroes the bytes [start, total) of `iov`. */
export function zeroFill(sys: Sys, iov: IoVec, start = 0): void {
  let skip = start;
  for (let i = 0; i < iov.count; i++) {
    const length = iov.lengths[i]!;
    if (skip < length) sys.fill(iov.addresses[i]! + skip, 0, length - skip);
    skip = Math.max(0, skip - length);
  }
}

/** Copies `length` bytes at `start` of `iov` to `address`. */
export function gather(
  sys: Sys,
  iov: IoVec,
  start: number,
  length: number,
  address: number,
): void {
  each(iov, start, length, (at, size, done) => sys.copy(address + done, at, size));
}

/** Copies `length` bytes at `address` to `start` of `iov`. */
export function scatter(
  sys: Sys,
  address: number,
  iov: IoVec,
  start: number,
  length: number,
): void {
  each(iov, start, length, (at, size, done) => sys.copy(at, address + done, size));
}

function each(
  iov: IoVec,
  start: number,
  length: number,
  act: (address: number, length: number, done: number) => void,
): void {
  let skip = start;
  let done = 0;
  for (let i = 0; i < iov.count && done < length; i++) {
    const size = iov.lengths[i]!;
    if (skip >= size) {
      skip -= size;
      continue;
    }
    const take = Math.min(size - skip, length - done);
    act(iov.addresses[i]! + skip, take, done);
    done += take;
    skip = 0;
  }
}

/** Whether all bytes of `iov` are zero. */
export function isAllZero(sys: Sys, iov: IoVec): boolean {
  for (let i = 0; i < iov.count; i++) {
    if (!sys.isZero(iov.addresses[i]!, iov.lengths[i]!)) return false;
  }
  return true;
}

/** Whether every segment's address and length is a multiple of `alignment` (a power of two). */
export function isMemoryAligned(iov: IoVec, alignment: number): boolean {
  if (alignment <= 1) return true;
  for (let i = 0; i < iov.count; i++) {
    if (iov.addresses[i]! % alignment !== 0 || iov.lengths[i]! % alignment !== 0) return false;
  }
  return true;
}
