/** virtio-blk's configuration space (virtio 1.2, 5.2.4) and feature bits (5.2.3). */

/** Feature bits of virtio-blk. */
export const BlkFeature = {
  sizeMax: 1,
  segMax: 2,
  ro: 5,
  blkSize: 6,
  flush: 9,
  topology: 10,
  configWce: 11,
  mq: 12,
  discard: 13,
  writeZeroes: 14,
} as const;

/** Bytes of the fields that are used; what follows reads as zeroes. */
export const CONFIG_SIZE = 60;
/** Where the only writable field lies. */
export const WCE_AT = 32;

/**
 * Longest segment in bytes that drivers are to make. Not 0, as in the original, which Linux takes for a page; and
 * not too large: SeaBIOS (1.16) counts the blocks of SEG_MAX such segments in 16 bits, and hangs if that wraps.
 */
export const SIZE_MAX = 256 * 1024;
/** Most segments of a request: a ring of 128 holds the largest request. */
export const SEG_MAX = 126;
/** Largest range of one discard or write-zeroes segment, in sectors: 1 GiB. */
export const MAX_RANGE_SECTORS = 2 ** 21;
/** Ranges of one discard or write-zeroes request. */
export const MAX_RANGES = 16;

/** What the configuration space shows. Sizes in bytes. */
export interface BlkShape {
  readonly size: number;
  readonly blockSize: number;
  readonly queues: number;
  readonly writeCache: boolean;
}

/** The configuration space. */
export function configSpace(shape: BlkShape): Uint8Array {
  const bytes = new Uint8Array(CONFIG_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(Math.floor(shape.size / 512)), true);
  view.setUint32(8, SIZE_MAX, true);
  view.setUint32(12, SEG_MAX, true);
  view.setUint32(20, shape.blockSize, true);
  view.setUint16(26, 1, true); // min_io_size and opt_io_size, in blocks
  view.setUint32(28, 1, true);
  view.setUint8(WCE_AT, shape.writeCache ? 1 : 0);
  view.setUint16(34, shape.queues, true);
  view.setUint32(36, MAX_RANGE_SECTORS, true);
  view.setUint32(40, MAX_RANGES, true);
  view.setUint32(44, shape.blockSize / 512, true);
  view.setUint32(48, MAX_RANGE_SECTORS, true);
  view.setUint32(52, MAX_RANGES, true);
  view.setUint8(56, 1); // write_zeroes_may_unmap
  return bytes;
}
