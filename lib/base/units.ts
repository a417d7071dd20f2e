/** Sizes and alignment. All sizes and offsets are in bytes. */

/** Bytes in a kibibyte. */
export const KiB = 1024;
/** Bytes in a mebibyte. */
export const MiB = 1024 * KiB;
/** Bytes in a gibibyte. */
export const GiB = 1024 * MiB;

/** The largest offset or size that qsd handles: 2^53-1 bytes, where a number stops being exact. */
export const MAX_OFFSET = Number.MAX_SAFE_INTEGER;

/** QEMU shows images in sectors of this many bytes. */
export const SECTOR = 512;

/** Largest multiple of `unit` that is at most `value`. Any positive unit; exact to 2^53. */
export function alignDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** Smallest multiple of `unit` that is at least `value`. */
export function alignUp(value: number, unit: number): number {
  const over = value % unit;
  return over === 0 ? value : value + (unit - over);
}

/** Whether `value` is a positive power of two (up to 2^53). */
export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value));
}
