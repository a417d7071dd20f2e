/** Numeric IPv4 and IPv6 addresses as text, and struct sockaddr_* as bytes. Pure. */
import { viewOf } from "../base/mod.ts";
import type { SocketAddress } from "./types.ts";
import { AF } from "./constants.ts";

/** Bytes of the largest sockaddr that qsd uses (sockaddr_un), rounded up. */
export const SOCKADDR_SIZE = 128;
/** Bytes of sun_path. */
const UNIX_PATH_MAX = 108;

/** "a.b.c.d" (four decimal parts, no leading zeros) to four bytes, or undefined. */
export function parseIPv4(text: string): Uint8Array | undefined {
  const parts = text.split(".");
  if (parts.length !== 4) return undefined;
  const out = new Uint8Array(4);
  for (let i = 0; i < 4; i++) {
    const part = parts[i]!;
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part) || Number(part) > 255) return undefined;
    out[i] = Number(part);
  }
  return out;
}

/** RFC 4291 text (with "::" and a trailing IPv4 part) to sixteen bytes, or undefined. No "%scope". */
export function parseIPv6(text: string): Uint8Array | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const front = parseGroups(halves[0]!, halves.length === 1);
  const back = halves.length === 2 ? parseGroups(halves[1]!, true) : [];
  if (front === undefined || back === undefined) return undefined;
  const have = front.length + back.length;
  if (halves.length === 1 ? have !== 8 : have > 7) return undefined;
  const groups = [...front, ...new Array<number>(8 - have).fill(0), ...back];
  const out = new Uint8Array(16);
  groups.forEach((group, i) => {
    out[2 * i] = group >> 8;
    out[2 * i + 1] = group & 255;
  });
  return out;
}

function parseGroups(text: string, last: boolean): number[] | undefined {
  if (text === "") return [];
  const groups: number[] = [];
  const parts = text.split(":");
  for (let i = 0; i < parts.length; i++) {
    const part = parts[i]!;
    if (last && i === parts.length - 1 && part.includes(".")) {
      const four = parseIPv4(part);
      if (four === undefined) return undefined;
      groups.push(four[0]! * 256 + four[1]!, four[2]! * 256 + four[3]!);
    } else if (/^[0-9a-fA-F]{1,4}$/.test(part)) {
      groups.push(parseInt(part, 16));
    } else {
      return undefined;
    }
  }
  return groups;
}

/** Four bytes as "a.b.c.d". */
export function formatIPv4(bytes: Uint8Array): string {
  return bytes.subarray(0, 4).join(".");
}

/** Sixteen bytes as RFC 5952 text: lower case, the longest run of zero groups as "::". */
export function formatIPv6(bytes: Uint8Array): string {
  const mapped = bytes.subarray(0, 10).every((b) => b === 0) && bytes[10] === 255 &&
    bytes[11] === 255;
  if (mapped) return `::ffff:${formatIPv4(bytes.subarray(12))}`;
  const groups: number[] = [];
  for (let i = 0; i < 8; i++) groups.push(bytes[2 * i]! * 256 + bytes[2 * i + 1]!);
  let best = -1;
  let bestLength = 1; // a single zero group is not shortened
  for (let i = 0; i < 8; i++) {
    let end = i;
    while (end < 8 && groups[end] === 0) end++;
    if (end - i > bestLength) {
      best = i;
      bestLength = end - i;
    }
  }
  const hex = (part: number[]) => part.map((group) => group.toString(16)).join(":");
  if (best < 0) return hex(groups);
  return `${hex(groups.slice(0, best))}::${hex(groups.slice(best + bestLength))}`;
}

/** Whether `text` is a numeric address that needs no resolver. */
export function isNumericAddress(text: string): boolean {
  return parseIPv4(text) !== undefined || parseIPv6(text) !== undefined;
}

/**
 * Writes `address` as a sockaddr at 0 of `bytes` (SOCKADDR_SIZE). Returns its length in bytes, or undefined
 * when it cannot be written: a path that is too long, a host that is not numeric, a bad port.
 */
export function putSockaddr(bytes: Uint8Array, address: SocketAddress): number | undefined {
  const view = viewOf(bytes);
  bytes.fill(0, 0, SOCKADDR_SIZE);
  switch (address.family) {
    case "unix": {
      const path = new TextEncoder().encode(address.path);
      const abstract = path[0] === 0;
      // A path needs its NUL, an abstract name may fill the field.
      if (path.length > UNIX_PATH_MAX - (abstract ? 0 : 1)) return undefined;
      if (!abstract && path.includes(0)) return undefined;
      view.setUint16(0, AF.UNIX, true);
      bytes.set(path, 2);
      if (path.length === 0) return 2;
      return 2 + path.length + (abstract ? 0 : 1);
    }
    case "inet": {
      const host = parseIPv4(address.host);
      if (host === undefined || !validPort(address.port)) return undefined;
      view.setUint16(0, AF.INET, true);
      view.setUint16(2, address.port, false);
      bytes.set(host, 4);
      return 16;
    }
    case "inet6": {
      const host = parseIPv6(address.host);
      if (host === undefined || !validPort(address.port)) return undefined;
      view.setUint16(0, AF.INET6, true);
      view.setUint16(2, address.port, false);
      bytes.set(host, 8);
      view.setUint32(24, address.scope ?? 0, true);
      return 28;
    }
    case "vsock":
      view.setUint16(0, AF.VSOCK, true);
      view.setUint32(4, address.port, true);
      view.setUint32(8, address.cid, true);
      return 16;
  }
}

function validPort(port: number): boolean {
  return Number.isInteger(port) && port >= 0 && port <= 65535;
}

/** Reads a sockaddr of `length` bytes; undefined for a family that qsd does not know. */
export function getSockaddr(bytes: Uint8Array, length: number): SocketAddress | undefined {
  const view = viewOf(bytes);
  if (length < 2) return { family: "unix", path: "" };
  switch (view.getUint16(0, true)) {
    case AF.UNIX: {
      const raw = bytes.slice(2, Math.min(length, 2 + UNIX_PATH_MAX));
      // An abstract name is exactly as long as the address says; a path ends at its NUL.
      const end = raw[0] === 0 ? raw.length : raw.indexOf(0);
      return {
        family: "unix",
        path: new TextDecoder().decode(end < 0 ? raw : raw.subarray(0, end)),
      };
    }
    case AF.INET:
      return {
        family: "inet",
        host: formatIPv4(bytes.slice(4, 8)),
        port: view.getUint16(2, false),
      };
    case AF.INET6: {
      const scope = view.getUint32(24, true);
      const host = formatIPv6(bytes.slice(8, 24));
      const port = view.getUint16(2, false);
      return scope === 0 ? { family: "inet6", host, port } : { family: "inet6", host, port, scope };
    }
    case AF.VSOCK:
      return { family: "vsock", port: view.getUint32(4, true), cid: view.getUint32(8, true) };
    default:
      return undefined;
  }
}
