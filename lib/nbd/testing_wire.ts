/** For tests: what a client sends while it negotiates. */
import { viewOf } from "../base/mod.ts";
import { OPTION_MAGIC, OPTION_SIZE } from "./wire.ts";

const encoder = new TextEncoder();

/** One option. */
export function optionMessage(option: number, data: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = new Uint8Array(OPTION_SIZE + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, OPTION_MAGIC[0]);
  view.setUint32(4, OPTION_MAGIC[1]);
  view.setUint32(8, option);
  view.setUint32(12, data.length);
  bytes.set(data, OPTION_SIZE);
  return bytes;
}

/** Data of INFO/GO. */
export function infoRequestData(name: string, kinds: readonly number[] = []): Uint8Array {
  const bytes = encoder.encode(name);
  const data = new Uint8Array(6 + bytes.length + 2 * kinds.length);
  const view = viewOf(data);
  view.setUint32(0, bytes.length);
  data.set(bytes, 4);
  view.setUint16(4 + bytes.length, kinds.length);
  kinds.forEach((kind, i) => view.setUint16(6 + bytes.length + 2 * i, kind));
  return data;
}

/** Data of LIST/SET_META_CONTEXT. */
export function metaRequestData(name: string, queries: readonly string[]): Uint8Array {
  const parts = [encoder.encode(name), ...queries.map((query) => encoder.encode(query))];
  const data = new Uint8Array(4 + parts.reduce((sum, part) => sum + 4 + part.length, 0));
  const view = viewOf(data);
  let at = 0;
  parts.forEach((part, i) => {
    view.setUint32(at, part.length);
    data.set(part, at + 4);
    at += 4 + part.length;
    if (i === 0) {
      view.setUint32(at, queries.length);
      at += 4;
    }
  });
  return data;
}
