/** Views of bytes. */

/** Numbers in `bytes`, all of them and nothing beside them. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
