/** Opening a file or device by name: flags, kinds, and QEMU's words for what can go wrong. */
import {
  archConstants,
  BLK,
  type Context,
  Errno,
  errnoText,
  F,
  O,
  SEEK,
} from "../../../sys/mod.ts";
import { CommandError } from "../../../base/mod.ts";

/** The drivers of this folder. */
export type DriverName = "file" | "host_device" | "host_cdrom";
/** What was opened: a regular file, a block device, a character device. */
export type FileKind = "file" | "device" | "character";

/** How a file is opened. */
export interface OpenMode {
  readonly writable: boolean;
  readonly direct: boolean;
}

/** An open descriptor and what it is. */
export interface OpenedFile {
  readonly fd: number;
  readonly kind: FileKind;
  /** Bytes; 0 for character devices. */
  readonly size: number;
}

const FD_SET = "/dev/fdset/";

function flagsOf(context: Context, mode: OpenMode): number {
  return (mode.writable ? O.RDWR : O.RDONLY) | O.CLOEXEC |
    (mode.direct ? archConstants(context.sys.arch).O_DIRECT : 0);
}

/** The CommandError for `rc` from opening `filename`. */
function cannotOpen(filename: string, rc: number, mode: OpenMode): CommandError {
  const why = rc === -Errno.EINVAL && mode.direct
    ? "filesystem does not support O_DIRECT"
    : errnoText(-rc);
  return new CommandError(`Could not open '${filename}': ${why}`);
}

/** Checks a name before anything is opened. */
function checkFilename(driver: DriverName, filename: string, mode: OpenMode): void {
  if (filename === "") {
    throw new CommandError(`The '${driver}' block driver requires a file name`);
  }
  if (filename.includes("\0")) {
    throw cannotOpen(filename.replaceAll("\0", "\\0"), -Errno.EINVAL, mode);
  }
  if (filename.startsWith(FD_SET)) {
    // Descriptor sets are filled with add-fd, which the storage daemon does not have.
    const flags = mode.writable ? O.RDWR : O.RDONLY;
    throw new CommandError(
      `Could not dup FD for ${filename} flags ${flags}: Function not implemented`,
    );
  }
}

/** Opens `filename` for `driver`; CommandError says why not. The caller owns the descriptor. */
export async function openFile(
  context: Context,
  driver: DriverName,
  filename: string,
  mode: OpenMode,
): Promise<OpenedFile> {
  checkFilename(driver, filename, mode);
  const { sys } = context;
  const flags = flagsOf(context, mode);
  // Without O.NONBLOCK a pipe would hold the open up until someone writes, and a drive until it has a medium.
  const fd = await sys.pool.open(filename, flags | O.NONBLOCK);
  if (fd < 0) throw cannotOpen(filename, fd, mode);
  try {
    const kind = kindOf(context, fd, driver, filename);
    if (kind === "device" && mode.writable) requireWritableDevice(context, fd);
    sys.fcntl(fd, F.SETFL, flags & ~(O.CLOEXEC | O.RDWR));
    return { fd, kind, size: sizeOf(context, fd, kind) };
  } catch (error) {
    sys.close(fd);
    throw error;
  }
}

function kindOf(context: Context, fd: number, driver: DriverName, filename: string): FileKind {
  const stat = context.sys.fstat(fd);
  if (typeof stat === "number") {
    throw new CommandError(`Could not stat file: ${errnoText(-stat)}`);
  }
  if (driver === "file") {
    if (stat.kind === "file") return "file";
    throw new CommandError(`'file' driver requires '${filename}' to be a regular file`);
  }
  if (stat.kind === "block") return "device";
  if (stat.kind === "character") return "character";
  throw new CommandError(
    `'${driver}' driver requires '${filename}' to be either a character or block device`,
  );
}

function requireWritableDevice(context: Context, fd: number): void {
  const buffer = context.buffers.acquire(8);
  try {
    buffer.view.setInt32(0, 0, true);
    const rc = context.sys.ioctl(fd, BLK.BLKROGET, buffer.address);
    if (rc >= 0 && buffer.view.getInt32(0, true) !== 0) {
      throw new CommandError(`The device is not writable: ${errnoText(Errno.EACCES)}`);
    }
  } finally {
    context.buffers.release(buffer);
  }
}

/** Bytes in an open file or device, now; 0 where it cannot be told. */
export function sizeOf(context: Context, fd: number, kind: FileKind): number {
  if (kind === "character") return 0;
  const stat = kind === "file" ? context.sys.fstat(fd) : 0;
  // Devices: the end that seeking finds is what BLKGETSIZE64 says.
  return typeof stat === "object" ? stat.size : Math.max(context.sys.lseek(fd, 0, SEEK.END), 0);
}

/**
 * Opens the file behind `fd` once more in another mode: that very file, even if the name now leads elsewhere.
 * Without /proc by name, and only if it is still the same file.
 */
export async function openAgain(
  context: Context,
  fd: number,
  filename: string,
  kind: FileKind,
  mode: OpenMode,
): Promise<number> {
  const { sys } = context;
  // The same device as before: what holds for one of its descriptors holds for the next.
  if (kind === "device" && mode.writable) requireWritableDevice(context, fd);
  const flags = flagsOf(context, mode);
  const again = await sys.pool.open(`/proc/self/fd/${fd}`, flags);
  if (again >= 0) return again;
  if (again !== -Errno.ENOENT) throw cannotOpen(filename, again, mode);
  const byName = await sys.pool.open(filename, flags | O.NONBLOCK);
  if (byName < 0) throw cannotOpen(filename, byName, mode);
  const [before, after] = [sys.fstat(fd), sys.fstat(byName)];
  if (
    typeof before === "number" || typeof after === "number" ||
    before.device !== after.device || before.inode !== after.inode
  ) {
    sys.close(byName);
    throw new CommandError(`Could not open '${filename}': it is another file than before`);
  }
  sys.fcntl(byName, F.SETFL, flags & ~(O.CLOEXEC | O.RDWR));
  return byName;
}
