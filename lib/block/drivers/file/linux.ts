/** Numbers of the Linux ABI that only this driver needs. The same on x86-64 and arm64 unless said. */

/** CDROM_DRIVE_STATUS: asks about the slot that is selected. */
export const CDSL_CURRENT = 0x7fffffff;
/** CDROM_DRIVE_STATUS: a disc is there. */
export const CDS_DISC_OK = 4;

/** posix_fadvise(2): read ahead. */
export const POSIX_FADV_WILLNEED = 3;
/** posix_fadvise(2): drop pages. */
export const POSIX_FADV_DONTNEED = 4;

/** System call number of fadvise64. */
export function sysFadvise64(arch: "x86_64" | "aarch64"): number {
  return arch === "aarch64" ? 223 : 221;
}
