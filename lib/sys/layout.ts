/**
 * Struct layouts of the Linux ABI (little-endian, 64-bit; both architectures unless said otherwise), as
 * small functions over a DataView. Nothing here makes a system call.
 */
import { S } from "./constants.ts";
import type { FileStat } from "./types.ts";

/** Bytes of one struct iovec: address u64, length u64. */
export const IOVEC_SIZE = 16;
/** Most segments that the kernel takes in one call (UIO_MAXIOV). */
export const IOV_MAX = 1024;
/** Bytes of struct statx. */
export const STATX_SIZE = 256;
/** Bytes of struct msghdr. */
export const MSGHDR_SIZE = 56;
/** Bytes of struct cmsghdr; the data follows. */
export const CMSGHDR_SIZE = 16;
/** Most descriptors in one SCM_RIGHTS message (SCM_MAX_FD). */
export const SCM_MAX_FD = 253;

/** Writes `value` (below 2^53) as u64. */
export function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

/** Reads a u64; exact below 2^53. */
export function getU64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
}

/** Reads an i64; exact within 2^53. */
export function getI64(view: DataView, at: number): number {
  return view.getInt32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
}

/**
 * Writes segments [from, from+count) of an iovec list into `words` (u32), from word 0 on. Addresses are
 * below 2^47, lengths below 2^53.
 */
export function putIovecs(
  words: Uint32Array,
  addresses: readonly number[],
  lengths: readonly number[],
  from: number,
  count: number,
): void {
  for (let i = 0, w = 0; i < count; i++, w += 4) {
    const address = addresses[from + i]!;
    const length = lengths[from + i]!;
    words[w] = address; // typed arrays keep the value modulo 2^32
    words[w + 1] = address / 0x1_0000_0000;
    words[w + 2] = length;
    words[w + 3] = length / 0x1_0000_0000;
  }
}

/** Device number as glibc's makedev(); exact for majors below 4096. */
export function makedev(major: number, minor: number): number {
  const low = ((major & 0xfff) << 8) | (minor & 0xff);
  return Math.floor(major / 0x1000) * 2 ** 44 + Math.floor(minor / 0x100) * 2 ** 20 + low;
}

function kindOfMode(mode: number): FileStat["kind"] {
  switch (mode & S.IFMT) {
    case S.IFREG:
      return "file";
    case S.IFDIR:
      return "directory";
    case S.IFBLK:
      return "block";
    case S.IFCHR:
      return "character";
    case S.IFIFO:
      return "fifo";
    case S.IFSOCK:
      return "socket";
    default:
      return "other";
  }
}

/** Decodes struct statx (linux/stat.h). */
export function getStatx(view: DataView): FileStat {
  const mode = view.getUint16(28, true);
  return {
    kind: kindOfMode(mode),
    size: getU64(view, 40),
    allocated: getU64(view, 48) * 512,
    blockSize: view.getUint32(4, true),
    device: makedev(view.getUint32(136, true), view.getUint32(140, true)),
    inode: getU64(view, 32),
    mode,
    rdev: makedev(view.getUint32(128, true), view.getUint32(132, true)),
  };
}

/** Writes struct flock: l_type i16, l_whence i16, l_start i64 at 8, l_len i64 at 16, l_pid i32 at 24. */
export function putFlock(view: DataView, type: number, start: number, length: number): void {
  view.setInt16(0, type, true);
  view.setInt16(2, 0, true);
  view.setInt32(4, 0, true);
  putU64(view, 8, start);
  putU64(view, 16, length);
  view.setInt32(24, 0, true);
  view.setInt32(28, 0, true);
}

/** l_type of struct flock. */
export function getFlockType(view: DataView): number {
  return view.getInt16(0, true);
}

/** The parts of a struct msghdr; addresses and lengths in bytes, `segments` a count. */
export interface MessageHeader {
  iov: number;
  segments: number;
  control: number;
  controlLength: number;
}

/** Writes struct msghdr without a name. */
export function putMsghdr(view: DataView, header: MessageHeader): void {
  putU64(view, 0, 0);
  putU64(view, 8, 0);
  putU64(view, 16, header.iov);
  putU64(view, 24, header.segments);
  putU64(view, 32, header.control);
  putU64(view, 40, header.controlLength);
  putU64(view, 48, 0);
}

/** msg_controllen after recvmsg. */
export function getMsgControlLength(view: DataView): number {
  return getU64(view, 40);
}

/** Writes one SCM_RIGHTS message at 0; returns its length (CMSG_LEN, without trailing padding). */
export function putRights(view: DataView, fds: readonly number[]): number {
  const length = CMSGHDR_SIZE + 4 * fds.length;
  putU64(view, 0, length);
  view.setInt32(8, 1, true); // SOL_SOCKET
  view.setInt32(12, 1, true); // SCM_RIGHTS
  fds.forEach((fd, i) => view.setInt32(CMSGHDR_SIZE + 4 * i, fd, true));
  return length;
}

/** Appends the descriptors of all SCM_RIGHTS messages in the first `length` bytes to `fds`. */
export function getRights(view: DataView, length: number, fds: number[]): void {
  let at = 0;
  while (at + CMSGHDR_SIZE <= length) {
    const size = getU64(view, at);
    if (size < CMSGHDR_SIZE || at + size > length) return;
    if (view.getInt32(at + 8, true) === 1 && view.getInt32(at + 12, true) === 1) {
      for (let p = at + CMSGHDR_SIZE; p + 4 <= at + size; p += 4) fds.push(view.getInt32(p, true));
    }
    at += (size + 7) & ~7;
  }
}
