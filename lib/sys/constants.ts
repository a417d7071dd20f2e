/** Numbers of the Linux ABI (uapi headers). Those that differ between architectures are in `archConstants`. */

/** Machine architectures that qsd knows. */
export type Arch = "x86_64" | "aarch64";

/** open(2) flags that are the same everywhere; O_DIRECT is in `archConstants`. */
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  CREAT: 0o100,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  CLOEXEC: 0o2000000,
} as const;

/** What differs between architectures. */
export interface ArchConstants {
  readonly O_DIRECT: number;
  /** Bytes of one struct epoll_event, and where its data lies: packed on x86-64 only. */
  readonly epollEventSize: number;
  readonly epollDataOffset: number;
  /** ELF/AUDIT_ARCH style name. */
  readonly arch: Arch;
}

const architectures: Readonly<Record<Arch, ArchConstants>> = {
  x86_64: {
    O_DIRECT: 0o40000,
    epollEventSize: 12,
    epollDataOffset: 4,
    arch: "x86_64",
  },
  aarch64: {
    O_DIRECT: 0o200000,
    epollEventSize: 16,
    epollDataOffset: 8,
    arch: "aarch64",
  },
};

/** Constants of `arch`. */
export function archConstants(arch: Arch): ArchConstants {
  return architectures[arch];
}

/** epoll events and operations. */
export const EPOLL = {
  IN: 0x001,
  OUT: 0x004,
  ERR: 0x008,
  HUP: 0x010,
  ONESHOT: 1 << 30,
  ET: 0x80000000,
  CTL_ADD: 1,
  CTL_DEL: 2,
  CTL_MOD: 3,
  CLOEXEC: 0o2000000,
} as const;

/** preadv2/pwritev2 flags. */
export const RWF = { NOWAIT: 8 } as const;

/** fallocate(2) modes. */
export const FALLOC = {
  KEEP_SIZE: 0x01,
  PUNCH_HOLE: 0x02,
  ZERO_RANGE: 0x10,
} as const;

/** Address families. */
export const AF = { UNIX: 1, INET: 2, INET6: 10, VSOCK: 40 } as const;

/** Socket types and their flags. */
export const SOCK = {
  STREAM: 1,
  DGRAM: 2,
  NONBLOCK: 0o4000,
  CLOEXEC: 0o2000000,
} as const;

/** Levels of socket options. */
export const SOL = { SOCKET: 1, TCP: 6, IPV6: 41 } as const;

/** SOL_SOCKET options. */
export const SO = {
  REUSEADDR: 2,
  ERROR: 4,
  SNDBUF: 7,
  KEEPALIVE: 9,
  PEERCRED: 17,
  PROTOCOL: 38,
} as const;

/** SOL_TCP options. */
export const TCP = {
  NODELAY: 1,
  KEEPIDLE: 4,
  KEEPINTVL: 5,
  KEEPCNT: 6,
} as const;

/** IPPROTO_IPV6 options. */
export const IPV6 = { V6ONLY: 26 } as const;

/** send/recv flags. */
export const MSG = {
  DONTWAIT: 0x40,
  NOSIGNAL: 0x4000,
  MORE: 0x8000,
  CMSG_CLOEXEC: 0x40000000,
} as const;

/** shutdown(2). */
export const SHUT = { WR: 1, RDWR: 2 } as const;

/** fcntl(2) commands and lock types. */
export const F = {
  GETFD: 1,
  SETFD: 2,
  GETFL: 3,
  SETFL: 4,
  SETLK: 6,
  OFD_GETLK: 36,
  OFD_SETLK: 37,
  DUPFD_CLOEXEC: 1030,
  SETPIPE_SZ: 1031,
  GETPIPE_SZ: 1032,
  RDLCK: 0,
  WRLCK: 1,
  UNLCK: 2,
  FD_CLOEXEC: 1,
} as const;

/** lseek(2). */
export const SEEK = { SET: 0, END: 2, DATA: 3, HOLE: 4 } as const;

/** ioctl requests of block devices, SCSI generic and CD-ROMs (linux/fs.h, scsi/sg.h, linux/cdrom.h). */
export const BLK = {
  BLKROGET: 0x125e,
  BLKSSZGET: 0x1268,
  BLKGETSIZE64: 0x80081272,
  BLKDISCARD: 0x1277,
  BLKZEROOUT: 0x127f,
  CDROM_DRIVE_STATUS: 0x5326,
  TCGETS: 0x5401,
  TCSETS: 0x5402,
  FS_IOC_GETFLAGS: 0x80086601,
  FS_IOC_SETFLAGS: 0x40086602,
  FS_NOCOW_FL: 0x00800000,
  FS_IOC_FSGETXATTR: 0x801c581f,
  FS_IOC_FSSETXATTR: 0x401c5820,
} as const;

/** madvise(2). */
export const MADV = { DONTDUMP: 16 } as const;

/** *at(2) calls. */
export const AT = { FDCWD: -100, EMPTY_PATH: 0x1000 } as const;

/** Signals; the same on both architectures. */
export const SIG = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  ABRT: 6,
  KILL: 9,
  USR1: 10,
  USR2: 12,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
  CHLD: 17,
  CONT: 18,
  STOP: 19,
  IO: 29,
} as const;

/** mmap(2). */
export const MAP = {
  SHARED: 1,
  PRIVATE: 2,
  ANONYMOUS: 0x20,
} as const;

/** Page protection. */
export const PROT = { READ: 1, WRITE: 2, EXEC: 4 } as const;

/** clock_gettime(2). */
export const CLOCK = { REALTIME: 0, MONOTONIC: 1 } as const;

/** file type bits of st_mode. */
export const S = {
  IFMT: 0o170000,
  IFSOCK: 0o140000,
  IFLNK: 0o120000,
  IFREG: 0o100000,
  IFBLK: 0o060000,
  IFDIR: 0o040000,
  IFCHR: 0o020000,
  IFIFO: 0o010000,
} as const;

/** System calls that qsd makes by number. */
export interface SyscallNumbers {
  readonly read: number;
  readonly write: number;
  readonly openat: number;
  readonly close: number;
  readonly ioctl: number;
  readonly pread64: number;
  readonly pwrite64: number;
  readonly preadv2: number;
  readonly pwritev2: number;
  readonly fsync: number;
  readonly fdatasync: number;
  readonly ftruncate: number;
  readonly fallocate: number;
  readonly io_setup: number;
  readonly io_destroy: number;
  readonly io_submit: number;
  readonly io_getevents: number;
  readonly io_uring_setup: number;
  readonly io_uring_enter: number;
  readonly io_uring_register: number;
  readonly cachestat: number;
  readonly gettid: number;
  readonly getrusage: number;
}

/** Numbers that came after the tables were unified are the same everywhere. */
const common = {
  io_uring_setup: 425,
  io_uring_enter: 426,
  io_uring_register: 427,
  cachestat: 451,
};

const syscalls: Readonly<Record<Arch, SyscallNumbers>> = {
  x86_64: {
    ...common,
    read: 0,
    write: 1,
    openat: 257,
    close: 3,
    ioctl: 16,
    pread64: 17,
    pwrite64: 18,
    preadv2: 327,
    pwritev2: 328,
    fsync: 74,
    fdatasync: 75,
    ftruncate: 77,
    fallocate: 285,
    io_setup: 206,
    io_destroy: 207,
    io_getevents: 208,
    io_submit: 209,
    gettid: 186,
    getrusage: 98,
  },
  aarch64: {
    ...common,
    read: 63,
    write: 64,
    openat: 56,
    close: 57,
    ioctl: 29,
    pread64: 67,
    pwrite64: 68,
    preadv2: 286,
    pwritev2: 287,
    fsync: 82,
    fdatasync: 83,
    ftruncate: 46,
    fallocate: 47,
    io_setup: 0,
    io_destroy: 1,
    io_submit: 2,
    io_getevents: 4,
    gettid: 178,
    getrusage: 165,
  },
};

/** System call numbers of `arch`. */
export function syscallNumbers(arch: Arch): SyscallNumbers {
  return syscalls[arch];
}
