/** What O_DIRECT asks of offsets, lengths and addresses on an open file. */
import { BLK, type Context, Errno } from "../../../sys/mod.ts";
import { CommandError } from "../../../base/mod.ts";

/** Bytes. */
export interface DirectAlignment {
  readonly request: number;
  readonly memory: number;
}

// statx(2) with STATX_DIOALIGN (Linux 6.1): where the kernel says it itself.
const AT_EMPTY_PATH = 0x1000;
const STATX_DIOALIGN = 0x2000;
const STATX_BYTES = 256;
const STX_MASK = 0;
const STX_DIO_MEM_ALIGN = 152;
const STX_DIO_OFFSET_ALIGN = 156;
const SYS_STATX = { x86_64: 332, aarch64: 291 } as const;

/** Alignments that disks and file systems have, smallest first. */
const CANDIDATES = [512, 1024, 2048, 4096] as const;

/** Bytes in a sector of a block device; 512 where it does not say. */
export function sectorSize(context: Context, fd: number): number {
  const buffer = context.buffers.acquire(8);
  try {
    const rc = context.sys.ioctl(fd, BLK.BLKSSZGET, buffer.address);
    const sector = rc < 0 ? 0 : buffer.view.getInt32(0, true);
    return sector > 0 ? sector : 512;
  } finally {
    context.buffers.release(buffer);
  }
}

/** Asks the device, then the kernel, then tries reads. Throws CommandError if nothing works. */
export function probeDirectAlignment(
  context: Context,
  fd: number,
  kind: "file" | "device" | "character",
  size: number,
): DirectAlignment {
  const buffer = context.buffers.acquire(2 * 4096);
  try {
    if (kind === "device") {
      const sector = sectorSize(context, fd);
      return { request: sector, memory: sector };
    }
    return askStatx(context, fd, buffer.address, buffer.view) ??
      tryReads(context, fd, buffer.address, size);
  } finally {
    context.buffers.release(buffer);
  }
}

function askStatx(
  context: Context,
  fd: number,
  address: number,
  view: DataView,
): DirectAlignment | undefined {
  const { sys } = context;
  sys.fill(address, 0, STATX_BYTES + 1);
  const number = SYS_STATX[sys.arch];
  // The empty path is the byte behind the result.
  const path = address + STATX_BYTES;
  if (sys.raw(number, fd, path, AT_EMPTY_PATH, STATX_DIOALIGN, address) < 0) return undefined;
  if ((view.getUint32(STX_MASK, true) & STATX_DIOALIGN) === 0) return undefined;
  const memory = view.getUint32(STX_DIO_MEM_ALIGN, true);
  const request = view.getUint32(STX_DIO_OFFSET_ALIGN, true);
  return memory > 0 && request > 0 ? { request, memory } : undefined;
}

function tryReads(context: Context, fd: number, address: number, size: number): DirectAlignment {
  // A read at the end of a file succeeds whatever its alignment: that proves nothing.
  if (size < CANDIDATES[CANDIDATES.length - 1]! * 2) return { request: 4096, memory: 4096 };
  for (const request of CANDIDATES) {
    const rc = context.sys.pread(fd, address, request, request);
    if (rc === -Errno.EINVAL) continue;
    return { request, memory: request };
  }
  throw new CommandError("Could not find working O_DIRECT alignment", "GenericError", [
    "Try cache.direct=off",
  ]);
}
