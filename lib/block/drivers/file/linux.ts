/** Numbers of the Linux ABI that only this driver needs. The same on x86-64 and arm64 unless said. */
import type { Sys } from "../../../sys/mod.ts";

/** CDROM_DRIVE_STATUS: asks about the slot that is selected. */
export const CDSL_CURRENT = 0x7fffffff;
/** CDROM_DRIVE_STATUS: a disc is there. */
export const CDS_DISC_OK = 4;

/** posix_fadvise(2): read ahead. */
export const POSIX_FADV_WILLNEED = 3;
/** posix_fadvise(2): drop pages. */
export const POSIX_FADV_DONTNEED = 4;

/** posix_fadvise(2), on the thread pool. Advice: what the call returns changes nothing. */
export async function advise(
  sys: Sys,
  fd: number,
  offset: number,
  length: number,
  advice: number,
): Promise<void> {
  const fadvise64 = sys.arch === "aarch64" ? 223 : 221;
  await sys.pool.raw(fadvise64, fd, offset, length, advice);
}
