/**
 * blockdev-create for `file`. The file is opened (and made) first, then locked as somebody who resizes it, so that
 * an image in use is left alone; what can be refused without the file is refused before it is touched.
 */
import { BLK, type Context, Errno, errnoText, O } from "../../../sys/mod.ts";
import { CommandError } from "../../../base/mod.ts";
import type { BlockdevCreateOptionsFileValue } from "../../../qmp/schema/job.ts";
import { type CreateContext, Perm } from "../../mod.ts";
import { ImageLocks } from "./locking.ts";
import { sizeOf } from "./open.ts";
import { resizeFile } from "./resize.ts";

/** Mode of new files, before the umask. */
const NEW_FILE = 0o644;
/** What XFS is asked to allocate at once, in bytes, so that the image does not fall to pieces. */
const DEFAULT_EXTENT_SIZE_HINT = 1 << 20;
/** The first block is allocated, so that the alignment for O_DIRECT can be found out later. */
const FIRST_BLOCK = 4096;
/** fsxattr: the hint counts. */
const FS_XFLAG_EXTSIZE = 0x800;

/** Makes an image file, or empties an old one. Throws CommandError or BlockError. */
export async function createFile(
  { context, goOn }: CreateContext,
  options: BlockdevCreateOptionsFileValue,
): Promise<void> {
  const { filename, size, preallocation = "off" } = options;
  const hint = options["extent-size-hint"] ?? DEFAULT_EXTENT_SIZE_HINT;
  if (preallocation === "metadata") {
    throw new CommandError(`Unsupported preallocation mode: ${preallocation}`);
  }
  if (hint > 0xffffffff) throw new CommandError("Extent size hint is too large");
  const { sys } = context;
  const fd = filename.includes("\0")
    ? -Errno.EINVAL
    : await sys.pool.open(filename, O.RDWR | O.CREAT | O.CLOEXEC, NEW_FILE);
  if (fd < 0) {
    const shown = filename.replaceAll("\0", "\\0");
    throw new CommandError(`Could not create '${shown}': ${errnoText(-fd)}`);
  }
  try {
    const needed = Perm.write | Perm.resize;
    new ImageLocks(sys, filename).prepare(fd, needed, Perm.all & ~Perm.resize);
    const rc = await sys.pool.ftruncate(fd, 0);
    if (rc < 0) throw new CommandError(`Could not resize file: ${errnoText(-rc)}`);
    const file = { fd, kind: "file", size: sizeOf(context, fd, "file") } as const;
    if (options.nocow === true) forbidCopyOnWrite(context, fd);
    hintExtentSize(context, fd, Number(hint));
    await resizeFile(context, file, "", size, { exact: true, preallocation, goOn });
    if (preallocation !== "full") await allocateFirstBlock(context, fd, size);
  } finally {
    // The locks go with the descriptor.
    sys.close(fd);
  }
}

/** btrfs: no copy on write for this file. Other file systems refuse, which does no harm. */
function forbidCopyOnWrite({ sys, buffers }: Context, fd: number): void {
  const buffer = buffers.acquire(8);
  try {
    if (sys.ioctl(fd, BLK.FS_IOC_GETFLAGS, buffer.address) < 0) return;
    buffer.view.setUint32(0, buffer.view.getUint32(0, true) | BLK.FS_NOCOW_FL, true);
    sys.ioctl(fd, BLK.FS_IOC_SETFLAGS, buffer.address);
  } finally {
    buffers.release(buffer);
  }
}

/** XFS: how much to allocate at once (struct fsxattr: xflags, extsize, ...). Others ignore or refuse it. */
function hintExtentSize({ sys, buffers }: Context, fd: number, hint: number): void {
  const buffer = buffers.acquire(28);
  try {
    if (sys.ioctl(fd, BLK.FS_IOC_FSGETXATTR, buffer.address) < 0) return;
    buffer.view.setUint32(0, buffer.view.getUint32(0, true) | FS_XFLAG_EXTSIZE, true);
    buffer.view.setUint32(4, hint, true);
    sys.ioctl(fd, BLK.FS_IOC_FSSETXATTR, buffer.address);
  } finally {
    buffers.release(buffer);
  }
}

async function allocateFirstBlock(
  { sys, buffers }: Context,
  fd: number,
  size: number,
): Promise<void> {
  const length = Math.min(FIRST_BLOCK, size);
  if (length === 0) return;
  const buffer = buffers.acquire(length);
  try {
    sys.fill(buffer.address, 0, length);
    // If it cannot be written now the first writer will be told.
    await sys.pool.pwrite(fd, buffer.address, length, 0);
  } finally {
    buffers.release(buffer);
  }
}
