/** How much room an image will take (qemu-img measure). Pure. All sizes in bytes. */
import { alignUp } from "../../../base/mod.ts";
import type { Measurement } from "../measures.ts";

/** What an image is to be like. */
export interface MeasuredImage {
  /** Length of the virtual disk. */
  readonly size: number;
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly extendedL2: boolean;
  /** Bytes of guest data in whole clusters; with preallocation the whole disk. */
  readonly data: number;
}

/**
 * Measures an image that is to be made. Metadata is counted for the whole disk in both figures: header, L1 and L2
 * tables, refcount table and blocks, the latter for data, metadata and themselves.
 */
export function measure(image: MeasuredImage): Measurement {
  const { clusterSize, size } = image;
  const guest = alignUp(size, clusterSize);
  const metadata = metadataSize(image, guest);
  return { required: metadata + image.data, fullyAllocated: metadata + guest };
}

/** Bytes of all metadata of an image with `guest` bytes of data. */
function metadataSize(
  image: Pick<MeasuredImage, "clusterSize" | "refcountBits" | "extendedL2">,
  guest: number,
): number {
  const { clusterSize, refcountBits, extendedL2 } = image;
  const entry = extendedL2 ? 16 : 8;
  const l2Entries = alignUp(guest / clusterSize, clusterSize / entry);
  const l2 = l2Entries * entry;
  const l1 = alignUp(l2 / clusterSize, clusterSize / 8) * 8;
  const header = clusterSize;
  return header + l1 + l2 + refcountSize(guest + header + l1 + l2, clusterSize, refcountBits);
}

/** Bytes of refcount table and blocks for `bytes` of everything else, and for themselves. */
function refcountSize(bytes: number, clusterSize: number, refcountBits: number): number {
  const clusters = bytes / clusterSize;
  const perBlock = (clusterSize * 8) / refcountBits;
  const perTable = clusterSize / 8;
  let blocks = 0;
  let tables = 0;
  for (;;) {
    const wantedBlocks = Math.ceil((clusters + blocks + tables) / perBlock);
    const wantedTables = Math.ceil(wantedBlocks / perTable);
    if (wantedBlocks === blocks && wantedTables === tables) break;
    blocks = wantedBlocks;
    tables = wantedTables;
  }
  return (blocks + tables) * clusterSize;
}
