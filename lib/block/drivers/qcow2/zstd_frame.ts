/**
 * The outer structure of zstd frames (RFC 8878, 3.1): where a frame ends, since a compressed cluster is stored in
 * whole sectors and what follows is not part of it; and how much memory its decoder takes, since a frame may ask
 * for a window of gigabytes.
 */

const MAGIC = 0xfd2fb528;
/** Skippable frames: 0x184d2a50 to 0x184d2a5f. */
const SKIPPABLE = 0x184d2a50;
/** Bytes of the dictionary id and of the content size, by their flags. */
const DICTIONARY_BYTES = [0, 1, 2, 4];
const CONTENT_BYTES = [0, 2, 4, 8];
/** Smallest window log. */
const MIN_WINDOW_LOG = 10;

/** A frame in front of some bytes. */
export interface ZstdFrame {
  /** Bytes that it takes. */
  readonly length: number;
  /** To be passed over: it holds nothing of the stream. */
  readonly skippable: boolean;
}

/**
 * Finds the end of the frame that begins at `from` and lies before `end`; undefined when there is none, or not all of
 * it. The window that it asks for is cut to what a content of `limit` bytes can refer to: the decoder takes no more
 * memory. A frame that announces more content than `limit` counts as none.
 */
export function takeZstdFrame(
  view: DataView,
  from: number,
  end: number,
  limit: number,
): ZstdFrame | undefined {
  if (end - from < 8) return undefined;
  const magic = view.getUint32(from, true);
  if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE) {
    const length = 8 + view.getUint32(from + 4, true);
    return length <= end - from ? { length, skippable: true } : undefined;
  }
  if (magic !== MAGIC) return undefined;
  const body = frameBody(view, from, end, limit);
  if (body === undefined) return undefined;
  const checksum = (view.getUint8(from + 4) & 4) !== 0 ? 4 : 0;
  const last = blocksEnd(view, body, end);
  if (last === undefined || last + checksum > end) return undefined;
  return { length: last + checksum - from, skippable: false };
}

/** Where the first block begins, after a check of the header; bounds the window. */
function frameBody(view: DataView, from: number, end: number, limit: number): number | undefined {
  const descriptor = view.getUint8(from + 4);
  const single = (descriptor & 0x20) !== 0;
  let at = from + 5;
  if (!single) {
    const wanted = Math.max(MIN_WINDOW_LOG, Math.ceil(Math.log2(limit)));
    const window = view.getUint8(at);
    if ((window >> 3) + MIN_WINDOW_LOG >= wanted) {
      view.setUint8(at, (wanted - MIN_WINDOW_LOG) << 3);
    }
    at++;
  }
  at += DICTIONARY_BYTES[descriptor & 3]!;
  const flag = descriptor >> 6;
  const contentBytes = flag === 0 && single ? 1 : CONTENT_BYTES[flag]!;
  if (at + contentBytes > end) return undefined;
  if (contentSize(view, at, contentBytes) > limit) return undefined;
  return at + contentBytes;
}

function contentSize(view: DataView, at: number, bytes: number): number {
  switch (bytes) {
    case 1:
      return view.getUint8(at);
    case 2:
      return view.getUint16(at, true) + 256;
    case 4:
      return view.getUint32(at, true);
    case 8:
      return Number(view.getBigUint64(at, true));
    default:
      return 0;
  }
}

/** Where the last block ends. Blocks of one byte repeated (type 1) store that byte only; type 3 is reserved. */
function blocksEnd(view: DataView, first: number, end: number): number | undefined {
  let at = first;
  while (at + 3 <= end) {
    const header = view.getUint16(at, true) | view.getUint8(at + 2) << 16;
    const type = (header >> 1) & 3;
    if (type === 3) return undefined;
    at += 3 + (type === 1 ? 1 : header >> 3);
    if ((header & 1) !== 0) return at;
  }
  return undefined;
}
