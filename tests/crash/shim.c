/*
 * Makes system calls on one file fail, from outside: LD_PRELOAD=shim.so.
 * FAIL_FILE: the end of the file's path. FAIL_RULE: a file with lines "CALL ERRNO FROM TO" (byte
 * offsets; sync and fallocate are matched by name alone); read again at each call, so that a test can
 * switch faults on and off. CALL is read, write (splice to the file, too), splice, sync or fallocate.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int is_ours(int fd) {
    char link[64], path[PATH_MAX];
    const char *want = getenv("FAIL_FILE");
    if (!want) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    size_t have = strlen(path), need = strlen(want);
    return have >= need && strcmp(path + have - need, want) == 0;
}

static int fault(const char *call, int fd, off_t offset, size_t length) {
    int saved = errno, result = 0;
    const char *rules = getenv("FAIL_RULE");
    if (!rules || !is_ours(fd)) { errno = saved; return 0; }
    FILE *file = fopen(rules, "r");
    if (file) {
        char name[32]; int code; long long from, to;
        while (fscanf(file, "%31s %d %lld %lld", name, &code, &from, &to) == 4) {
            if (strcmp(name, call)) continue;
            if (offset >= 0 && (offset >= to || offset + (off_t)length <= from)) continue;
            result = code;
        }
        fclose(file);
    }
    errno = saved;
    return result;
}

static size_t total(const struct iovec *iov, int count) {
    size_t sum = 0;
    for (int at = 0; at < count; at++) sum += iov[at].iov_len;
    return sum;
}

/* The real dlsym: ours below takes its name, since FFI looks the calls up by dlsym on libc's own handle. */
static void *find(void *handle, const char *name) {
    static void *(*real)(void *, const char *);
    static const char *const versions[] = { "GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5" };
    for (size_t at = 0; !real && at < sizeof versions / sizeof *versions; at++)
        real = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", versions[at]);
    return real ? real(handle, name) : NULL;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))find(RTLD_NEXT, #name)
#define FAULT(call, offset, length) do { int e = fault(call, fd, offset, length); if (e) { errno = e; return -1; } } while (0)

ssize_t pread(int fd, void *b, size_t n, off_t o) { REAL(pread); FAULT("read", o, n); return real(fd, b, n, o); }
ssize_t pread64(int fd, void *b, size_t n, off64_t o) { REAL(pread64); FAULT("read", o, n); return real(fd, b, n, o); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { REAL(pwrite); FAULT("write", o, n); return real(fd, b, n, o); }
ssize_t pwrite64(int fd, const void *b, size_t n, off64_t o) { REAL(pwrite64); FAULT("write", o, n); return real(fd, b, n, o); }
ssize_t preadv(int fd, const struct iovec *v, int c, off_t o) { REAL(preadv); FAULT("read", o, total(v, c)); return real(fd, v, c, o); }
ssize_t preadv64(int fd, const struct iovec *v, int c, off64_t o) { REAL(preadv64); FAULT("read", o, total(v, c)); return real(fd, v, c, o); }
ssize_t pwritev(int fd, const struct iovec *v, int c, off_t o) { REAL(pwritev); FAULT("write", o, total(v, c)); return real(fd, v, c, o); }
ssize_t pwritev64(int fd, const struct iovec *v, int c, off64_t o) { REAL(pwritev64); FAULT("write", o, total(v, c)); return real(fd, v, c, o); }
ssize_t preadv2(int fd, const struct iovec *v, int c, off_t o, int f) { REAL(preadv2); FAULT("read", o, total(v, c)); return real(fd, v, c, o, f); }
ssize_t preadv64v2(int fd, const struct iovec *v, int c, off64_t o, int f) { REAL(preadv64v2); FAULT("read", o, total(v, c)); return real(fd, v, c, o, f); }
ssize_t pwritev2(int fd, const struct iovec *v, int c, off_t o, int f) { REAL(pwritev2); FAULT("write", o, total(v, c)); return real(fd, v, c, o, f); }
ssize_t pwritev64v2(int fd, const struct iovec *v, int c, off64_t o, int f) { REAL(pwritev64v2); FAULT("write", o, total(v, c)); return real(fd, v, c, o, f); }
ssize_t splice(int from, off64_t *f, int fd, off64_t *o, size_t n, unsigned flags) {
    REAL(splice);
    if (o) { FAULT("write", *o, n); FAULT("splice", *o, n); }
    return real(from, f, fd, o, n, flags);
}
int fdatasync(int fd) { REAL(fdatasync); FAULT("sync", -1, 0); return real(fd); }
int fsync(int fd) { REAL(fsync); FAULT("sync", -1, 0); return real(fd); }
int fallocate(int fd, int m, off_t o, off_t n) { REAL(fallocate); FAULT("fallocate", -1, 0); return real(fd, m, o, n); }
int fallocate64(int fd, int m, off64_t o, off64_t n) { REAL(fallocate64); FAULT("fallocate", -1, 0); return real(fd, m, o, n); }

/* Calls by number: the same rules. preadv2 and pwritev2 pass their offset in the fourth place. */
long syscall(long n, ...) {
    va_list list;
    long a[6];
    va_start(list, n);
    for (int at = 0; at < 6; at++) a[at] = va_arg(list, long);
    va_end(list);
    int fd = (int)a[0];
    switch (n) {
    case SYS_pread64: FAULT("read", a[3], (size_t)a[2]); break;
    case SYS_pwrite64: FAULT("write", a[3], (size_t)a[2]); break;
    case SYS_preadv: case SYS_preadv2: FAULT("read", a[3], total((void *)a[1], (int)a[2])); break;
    case SYS_pwritev: case SYS_pwritev2: FAULT("write", a[3], total((void *)a[1], (int)a[2])); break;
    case SYS_fsync: case SYS_fdatasync: FAULT("sync", -1, 0); break;
    case SYS_fallocate: FAULT("fallocate", -1, 0); break;
    }
    static long (*real)(long, long, long, long, long, long, long);
    if (!real) real = (long (*)(long, long, long, long, long, long, long))find(RTLD_NEXT, "syscall");
    return real(n, a[0], a[1], a[2], a[3], a[4], a[5]);
}

#define OURS(name) if (!strcmp(wanted, #name)) return (void *)name
void *dlsym(void *handle, const char *wanted) {
    OURS(pread); OURS(pread64); OURS(pwrite); OURS(pwrite64);
    OURS(preadv); OURS(preadv64); OURS(pwritev); OURS(pwritev64);
    OURS(preadv2); OURS(preadv64v2); OURS(pwritev2); OURS(pwritev64v2);
    OURS(syscall); OURS(splice); OURS(fdatasync); OURS(fsync); OURS(fallocate); OURS(fallocate64);
    return find(handle, wanted);
}
