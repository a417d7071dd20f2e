/** Terminal settings of serial lines and pseudo terminals (termios(3), asm-generic/termbits.h). */
import { BLK, type Sys } from "../sys/mod.ts";

/** struct termios of the kernel: four words of flags, then c_line and c_cc. */
const TERMIOS_BYTES = 64;
const IFLAG = 0;
const OFLAG = 4;
const CFLAG = 8;
const LFLAG = 12;
/** IGNBRK BRKINT PARMRK ISTRIP INLCR IGNCR ICRNL IXON. */
const INPUT_OFF = 0o1 | 0o2 | 0o10 | 0o40 | 0o100 | 0o200 | 0o400 | 0o2000;
const OPOST = 0o1;
const CSIZE_PARENB = 0o60 | 0o400;
const CS8 = 0o60;
/** ISIG ICANON ECHO ECHONL IEXTEN. */
const LOCAL_OFF = 0o1 | 0o2 | 0o10 | 0o100 | 0o100000;
/** CBAUD with CBAUDEX; CSTOPB; CREAD CLOCAL. */
const CBAUD = 0o10017;
const B115200 = 0o10002;
const CSTOPB = 0o100;
const CREAD_CLOCAL = 0o200 | 0o4000;
const TCSBRK = 0x5409;

/**
 * Bytes pass through `fd` as they are (cfmakeraw); `line`: also the speed and frame of a serial line. Result: 0,
 * or -errno (where it is no terminal: nothing is changed).
 */
export function setRaw(sys: Sys, fd: number, { line }: { line: boolean }): number {
  const scratch = sys.allocate(TERMIOS_BYTES);
  const { view, address } = scratch;
  const change = (at: number, off: number, on = 0) =>
    view.setUint32(at, ((view.getUint32(at, true) & ~off) | on) >>> 0, true);
  let rc = sys.ioctl(fd, BLK.TCGETS, address);
  if (rc >= 0) {
    change(IFLAG, INPUT_OFF);
    change(OFLAG, OPOST);
    change(LFLAG, LOCAL_OFF);
    change(CFLAG, CSIZE_PARENB, CS8);
    if (line) change(CFLAG, CBAUD | CSTOPB, B115200 | CREAD_CLOCAL);
    rc = sys.ioctl(fd, BLK.TCSETS, address);
  }
  scratch.unmap();
  return Math.min(rc, 0);
}

/** A break of about a third of a second on the line `fd`; nothing where there is none. */
export async function sendBreak(sys: Sys, fd: number): Promise<void> {
  await sys.pool.ioctl(fd, TCSBRK, 0);
}
