import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import {
  AF,
  archConstants,
  BLK,
  F,
  FALLOC,
  O,
  RWF,
  SEEK,
  SHUT,
  SO,
  SOCK,
  SOL,
} from "./constants.ts";
import { check, Errno, errnoName } from "./errno.ts";
import { LinuxSys } from "./linux.ts";
import { ResolveError } from "./resolve.ts";
import type { FileStat, SocketAddress } from "./types.ts";

/** Runs `body` with a machine and a directory of its own; both are gone afterwards. */
async function withSys(
  body: (sys: LinuxSys, directory: string) => void | Promise<void>,
  options: { withoutStub?: boolean } = {},
): Promise<void> {
  const sys = new LinuxSys(options);
  const directory = await Deno.makeTempDir();
  try {
    await body(sys, directory);
  } finally {
    sys.dispose();
    await Deno.remove(directory, { recursive: true });
  }
}

function descriptors(): string[] {
  return [...Deno.readDirSync("/proc/self/fd")].map((entry) => entry.name).sort();
}

Deno.test("what pwritev writes preadv reads, in other segments, past 4 GiB", () =>
  withSys((sys, directory) => {
    const fd = check(sys.open(`${directory}/f`, O.RDWR | O.CREAT | O.CLOEXEC, 0o600), "open");
    const memory = sys.allocate(8192);
    for (let i = 0; i < 300; i++) memory.bytes[i] = i & 255;
    const at = 5 * 2 ** 30 + 7;
    const source = new IoVec().add(memory.address, 100).add(memory.address + 100, 200);
    assert.equal(sys.pwritev(fd, source, at, 0), 300);
    const target = new IoVec().add(memory.address + 4096, 1).add(memory.address + 5000, 299);
    assert.equal(sys.preadv(fd, target, at, 0), 300);
    assert.equal(memory.bytes[4096], 0);
    assert.deepEqual(memory.bytes.slice(5000, 5299), memory.bytes.slice(1, 300));
    assert.equal(sys.pread(fd, memory.address + 4096, 10, at + 290), 10);
    assert.deepEqual(memory.bytes.slice(4096, 4106), memory.bytes.slice(290, 300));
    assert.equal(sys.pwrite(fd, memory.address, 4, 0), 4);
    assert.equal((sys.fstat(fd) as FileStat).size, at + 300);
    assert.equal(sys.lseek(fd, 0, SEEK.END), at + 300);
    assert.equal(sys.fsync(fd), 0);
    assert.equal(sys.fdatasync(fd), 0);
    assert.equal(sys.ftruncate(fd, 5), 0);
    assert.equal((sys.stat(`${directory}/f`) as FileStat).size, 5);
    memory.unmap();
    sys.close(fd);
  }));

Deno.test("thousands of segments go through in one call, inline and on the pool", () =>
  withSys(async (sys, directory) => {
    const fd = check(sys.open(`${directory}/f`, O.RDWR | O.CREAT, 0o600), "open");
    const memory = sys.allocate(65536);
    const iov = new IoVec();
    for (let i = 0; i < 3000; i++) {
      memory.bytes[2 * i] = i & 255;
      iov.add(memory.address + 2 * i, 1);
    }
    assert.equal(sys.pwritev(fd, iov, 10, 0), 3000);
    const back = IoVec.of(memory.address + 8192, 3000);
    assert.equal(await sys.pool.preadv(fd, back, 10, 0), 3000);
    for (let i = 0; i < 3000; i++) assert.equal(memory.bytes[8192 + i], i & 255);
    assert.equal(await sys.pool.pwritev(fd, iov, 20_000, 0), 3000);
    assert.equal(sys.preadv(fd, iov, 20_001, 0), 2999, "short at the end of the file");
    memory.unmap();
    sys.close(fd);
  }));

for (const withoutStub of [false, true]) {
  const way = withoutStub ? "through libc" : "by the stub";
  Deno.test(`pool calls do what inline calls do (${way})`, () =>
    withSys(async (sys, directory) => {
      const { pool } = sys;
      const fd = await pool.open(`${directory}/ä`, O.RDWR | O.CREAT, 0o640);
      assert(fd >= 0);
      assert.equal((sys.stat(`${directory}/ä`) as FileStat).mode & 0o777, 0o640);
      const memory = sys.allocate(4096);
      memory.bytes.fill(7);
      const far = 6 * 2 ** 30;
      assert.equal(await pool.pwrite(fd, memory.address, 4096, far), 4096);
      assert.equal(await pool.fdatasync(fd), 0);
      assert.equal(await pool.fsync(fd), 0);
      assert.equal(await pool.pread(fd, memory.address, 4096, far), 4096);
      assert.equal(await pool.pread(fd, memory.address, 4096, far + 4096), 0);
      assert.equal(await pool.ftruncate(fd, far), 0);
      assert.equal(await pool.fallocate(fd, 0, 0, 8192), 0);
      assert.equal((sys.fstat(fd) as FileStat).size, far);
      const many = await Promise.all(
        Array.from({ length: 40 }, (_, i) =>
          pool.preadv(fd, IoVec.of(memory.address + i * 8, 8), i * 8, 0)),
      );
      assert(many.every((rc) =>
        rc === 8
      ));
      const wrong = (errno: number) => pool.exactErrno ? -errno : -Errno.EIO;
      assert.equal(await pool.fsync(-1), wrong(Errno.EBADF));
      assert.equal(await pool.open(`${directory}/no`, O.RDONLY), wrong(Errno.ENOENT));
      assert.equal(await pool.ioctl(fd, BLK.BLKGETSIZE64, memory.address), wrong(Errno.ENOTTY));
      assert.equal(pool.exactErrno, !withoutStub);
      memory.unmap();
      sys.close(fd);
    }, { withoutStub }));
}

Deno.test("errors come as -errno, with the number the kernel gave", () =>
  withSys((sys, directory) => {
    assert.equal(sys.open(`${directory}/no`, O.RDONLY), -Errno.ENOENT);
    assert.equal(sys.open(`${directory}/a\0b`, O.RDONLY), -Errno.EINVAL);
    assert.equal(sys.symlink("target", `${directory}/a\0b`), -Errno.EINVAL);
    assert.equal(sys.symlink("target\0", `${directory}/link`), -Errno.EINVAL);
    assert.equal(sys.open(directory, O.RDWR), -Errno.EISDIR);
    assert.equal(sys.close(-1), -Errno.EBADF);
    assert.equal(sys.stat(`${directory}/no`), -Errno.ENOENT);
    assert.equal(sys.lseek(99999, 0, SEEK.SET), -Errno.EBADF);
    assert.equal(sys.raw(-1), -Errno.ENOSYS);
    assert.equal(sys.chdir(`${directory}/no`), -Errno.ENOENT);
    assert.equal(sys.kill(2 ** 22 + 1, 0), -3);
    assert.throws(() => check(sys.open("/no", 0), "open", "/no"), {
      name: "SysError",
      message: "open /no: No such file or directory",
      code: "ENOENT",
    });
  }));

Deno.test("holes are found with SEEK_DATA and SEEK_HOLE, and punched with fallocate", () =>
  withSys((sys, directory) => {
    const fd = check(sys.open(`${directory}/f`, O.RDWR | O.CREAT, 0o600), "open");
    const memory = sys.allocate(65536);
    memory.bytes.fill(1);
    const MiB = 1 << 20;
    assert.equal(sys.ftruncate(fd, 4 * MiB), 0);
    assert.equal(sys.pwrite(fd, memory.address, 65536, MiB), 65536);
    assert.equal(sys.lseek(fd, 0, SEEK.DATA), MiB);
    assert.equal(sys.lseek(fd, MiB, SEEK.HOLE), MiB + 65536);
    assert.equal(sys.lseek(fd, 2 * MiB, SEEK.DATA), -Errno.ENXIO);
    assert((sys.fstat(fd) as FileStat).allocated >= 65536);
    const rc = sys.fallocate(fd, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, MiB, 65536);
    assert.equal(rc, 0);
    assert.equal(sys.lseek(fd, 0, SEEK.DATA), -Errno.ENXIO);
    memory.unmap();
    sys.close(fd);
  }));

Deno.test("open-file-description locks conflict between two opens, in one process", () =>
  withSys((sys, directory) => {
    const path = `${directory}/f`;
    const a = check(sys.open(path, O.RDWR | O.CREAT, 0o600), "open");
    const b = check(sys.open(path, O.RDWR), "open");
    assert.equal(sys.ofdSetLock(a, F.RDLCK, 100, 1), 0);
    assert.equal(sys.ofdTestLock(b, F.RDLCK, 100, 1), F.UNLCK);
    assert.equal(sys.ofdTestLock(b, F.WRLCK, 100, 1), F.RDLCK);
    assert.equal(sys.ofdSetLock(b, F.WRLCK, 100, 1), -Errno.EAGAIN);
    assert.equal(sys.ofdSetLock(b, F.WRLCK, 101, 1), 0);
    assert.equal(sys.ofdTestLock(a, F.RDLCK, 101, 1), F.WRLCK);
    assert.equal(sys.ofdSetLock(a, F.UNLCK, 100, 1), 0);
    assert.equal(sys.ofdSetLock(b, F.WRLCK, 100, 1), 0);
    assert.equal(sys.posixSetLock(a, F.WRLCK, 200, 0), 0);
    sys.close(a);
    sys.close(b);
  }));

Deno.test("facts of files are right", () =>
  withSys((sys, directory) => {
    assert.equal((sys.stat(directory) as FileStat).kind, "directory");
    const zero = sys.stat("/dev/null") as FileStat;
    assert.equal(zero.kind, "character");
    assert.equal(zero.rdev, Deno.statSync("/dev/null").rdev);
    const path = `${directory}/f`;
    Deno.writeFileSync(path, new Uint8Array(5000));
    const stat = sys.stat(path) as FileStat;
    const real = Deno.statSync(path);
    assert.equal(stat.kind, "file");
    assert.equal(stat.size, 5000);
    assert.equal(stat.inode, real.ino);
    assert.equal(stat.device, real.dev);
    assert.equal(stat.mode, real.mode);
    assert.equal(stat.allocated, real.blocks! * 512);
    assert.equal(stat.blockSize, real.blksize);
  }));

Deno.test("names: rename, unlink, chmod, links, pipes and descriptors", () =>
  withSys((sys, directory) => {
    const path = `${directory}/f`;
    Deno.writeTextFileSync(path, "hello");
    Deno.symlinkSync("f", `${directory}/link`);
    assert.equal(sys.readlink(`${directory}/link`), "f");
    assert.equal(sys.symlink("to", `${directory}/made`), 0);
    assert.equal(sys.readlink(`${directory}/made`), "to");
    assert.equal(sys.symlink("to", `${directory}/made`), -Errno.EEXIST);
    assert.equal(sys.realpath(`${directory}/link`), Deno.realPathSync(path));
    assert.equal(sys.realpath(`${directory}/no`), -Errno.ENOENT);
    assert.equal(sys.chmod(path, 0o400), 0);
    assert.equal((sys.stat(path) as FileStat).mode & 0o777, 0o400);
    assert.equal(sys.rename(path, `${directory}/g`), 0);
    assert.equal(sys.unlink(`${directory}/g`), 0);
    assert.equal(sys.unlink(`${directory}/g`), -Errno.ENOENT);
    const pipe = sys.pipe2(O.CLOEXEC);
    assert(typeof pipe !== "number");
    const memory = sys.allocate(64);
    memory.bytes.set([1, 2, 3]);
    const copy = sys.dup(pipe[1]);
    assert.equal(sys.fcntl(copy, F.GETFD, 0), F.FD_CLOEXEC);
    assert.equal(sys.write(copy, memory.address, 3), 3);
    assert.equal(sys.read(pipe[0], memory.address + 32, 32), 3);
    assert.deepEqual([...memory.bytes.slice(32, 35)], [1, 2, 3]);
    assert.equal(sys.dup2(pipe[0], copy), copy);
    for (const fd of [...pipe, copy]) assert.equal(sys.close(fd), 0);
    memory.unmap();
  }));

Deno.test("memory: zeroed, copied, filled, compared; a memfd is shared by its mappings", () =>
  withSys((sys) => {
    const memory = sys.allocate(300_000);
    assert.equal(memory.address % 4096, 0);
    assert.equal(memory.length % 4096, 0);
    assert(sys.isZero(memory.address, 300_000));
    for (const at of [0, 511, 512, 65535, 66047, 66048, 299_999]) {
      memory.bytes[at] = 1;
      assert(!sys.isZero(memory.address, 300_000), `byte ${at}`);
      memory.bytes[at] = 0;
    }
    assert(sys.isZero(memory.address + 1, 1));
    sys.fill(memory.address, 9, 100);
    sys.copy(memory.address + 1000, memory.address, 100);
    assert.deepEqual(sys.viewAt(memory.address + 1000, 100), new Uint8Array(100).fill(9));
    assert.equal(sys.madvise(memory.address, 4096, 4), 0);
    assert.equal(memory.bytes[0], 0, "MADV_DONTNEED drops private pages");
    const fd = check(sys.memfd("test"), "memfd_create");
    assert.equal(sys.ftruncate(fd, 8192), 0);
    const one = sys.map(fd, 0, 8192, true);
    const two = sys.map(fd, 4096, 4096, false);
    assert(typeof one !== "number" && typeof two !== "number");
    one.bytes[4100] = 42;
    assert.equal(two.bytes[4], 42);
    assert.equal(sys.map(-1, 0, 4096, true), -Errno.EBADF);
    one.unmap();
    two.unmap();
    memory.unmap();
    assert.throws(() => memory.unmap(), /twice/);
    assert.throws(() => memory.bytes, /after unmap/);
    sys.close(fd);
  }));

Deno.test("RWF_NOWAIT is passed on: data in the page cache, or an errno that says why not", () =>
  withSys((sys, directory) => {
    Deno.writeFileSync(`${directory}/f`, new Uint8Array(8192).fill(3));
    const fd = check(sys.open(`${directory}/f`, O.RDONLY), "open");
    const memory = sys.allocate(8192);
    const rc = sys.preadv(fd, IoVec.of(memory.address, 8192), 0, RWF.NOWAIT);
    assert(rc === 8192 || rc === -Errno.EOPNOTSUPP || rc === -Errno.EAGAIN, String(rc));
    assert.equal(sys.preadv(fd, IoVec.of(memory.address, 1), 0, 1 << 30), -Errno.EOPNOTSUPP);
    memory.unmap();
    sys.close(fd);
  }));

Deno.test("descriptors travel over a socket both ways and work at the other end", () =>
  withSys((sys, directory) => {
    const pair = sys.socketpair();
    assert(typeof pair !== "number");
    const [a, b] = pair;
    const before = descriptors();
    const memory = sys.allocate(4096);
    Deno.writeTextFileSync(`${directory}/f`, "passed");
    const fd = check(sys.open(`${directory}/f`, O.RDONLY), "open");
    for (const [from, to] of [[a, b], [b, a]] as const) {
      assert.equal(sys.sendmsg(from, IoVec.of(memory.address, 3), 0, [fd, fd, fd]), 3);
      const fds: number[] = [];
      assert.equal(sys.recvmsg(to, IoVec.of(memory.address, 100), 0, fds, 8), 3);
      assert.equal(fds.length, 3);
      assert.equal(sys.fcntl(fds[0]!, F.GETFD, 0), F.FD_CLOEXEC);
      assert.equal(sys.pread(fds[2]!, memory.address, 100, 0), 6);
      assert.equal(new TextDecoder().decode(memory.bytes.slice(0, 6)), "passed");
      for (const received of fds) sys.close(received);
    }
    // More than we take: the kernel closes the rest; none at all where none is wanted.
    for (const wanted of [0, 1]) {
      assert.equal(sys.sendmsg(a, IoVec.of(memory.address, 1), 0, [fd, fd]), 1);
      const fds: number[] = [];
      assert.equal(sys.recvmsg(b, IoVec.of(memory.address, 100), 0, fds, wanted), 1);
      assert.equal(fds.length, wanted);
      for (const received of fds) sys.close(received);
    }
    assert.equal(sys.sendmsg(a, IoVec.of(memory.address, 1), 0, new Array(254).fill(fd)), -22);
    sys.close(fd);
    assert.deepEqual(descriptors(), before);
    sys.close(a);
    sys.close(b);
    memory.unmap();
  }));

const noIPv6 = (() => {
  const sys = new LinuxSys();
  const fd = sys.socket(AF.INET6, SOCK.STREAM);
  const rc = fd < 0 ? fd : sys.bind(fd, { family: "inet6", host: "::1", port: 0 });
  if (fd >= 0) sys.close(fd);
  sys.dispose();
  return rc < 0 ? `skipped: no IPv6 on this machine: ${errnoName(-rc)}` : undefined;
})();

for (const kind of ["unix", "abstract", "IPv4", "IPv6"] as const) {
  const skipped = kind === "IPv6" ? noIPv6 : undefined;
  const name = `stream sockets: ${kind}${skipped === undefined ? "" : ` (${skipped})`}`;
  Deno.test(name, { ignore: skipped !== undefined }, () =>
    withSys((sys, directory) => {
      const memory = sys.allocate(4096);
      const family = { unix: AF.UNIX, abstract: AF.UNIX, IPv4: AF.INET, IPv6: AF.INET6 }[kind];
      const address: SocketAddress = {
        unix: { family: "unix", path: `${directory}/s` } as const,
        abstract: { family: "unix", path: `\0qsd-test-${sys.pid}` } as const,
        IPv4: { family: "inet", host: "127.0.0.1", port: 0 } as const,
        IPv6: { family: "inet6", host: "::1", port: 0 } as const,
      }[kind];
      const listener = check(sys.socket(family, SOCK.STREAM), "socket");
      assert.equal(sys.bind(listener, address), 0);
      assert.equal(sys.listen(listener, 5), 0);
      const name = sys.getsockname(listener);
      assert(typeof name !== "number");
      assert.equal(sys.accept(listener), -Errno.EAGAIN, "non-blocking");
      const client = check(sys.socket(family, SOCK.STREAM), "socket");
      const rc = sys.connect(client, name);
      assert(rc === 0 || rc === -Errno.EINPROGRESS, String(rc));
      const server = check(sys.accept(listener), "accept");
      assert.equal(sys.getsockopt(client, SOL.SOCKET, SO.ERROR), 0);
      assert.deepEqual(sys.getpeername(client), name);
      assert.equal(sys.send(client, memory.address, 10, 0), 10);
      assert.equal(sys.recv(server, memory.address, 4096, 0), 10);
      assert.equal(sys.recv(server, memory.address, 4096, 0), -Errno.EAGAIN);
      assert.equal(sys.shutdown(client, SHUT.WR), 0);
      assert.equal(sys.recv(server, memory.address, 4096, 0), 0);
      sys.close(client);
      // Nobody reads any more: EPIPE, not a signal.
      sys.send(server, memory.address, 10, 0);
      assert.equal(sys.send(server, memory.address, 10, 0), -Errno.EPIPE);
      sys.close(server);
      sys.close(listener);
      memory.unmap();
    }));
}

Deno.test("socket addresses that cannot be are refused", () =>
  withSys((sys) => {
    const fd = check(sys.socket(AF.UNIX, SOCK.STREAM), "socket");
    assert.equal(sys.bind(fd, { family: "unix", path: "x".repeat(108) }), -Errno.ENAMETOOLONG);
    assert.equal(sys.connect(fd, { family: "inet", host: "localhost", port: 1 }), -Errno.EINVAL);
    assert.equal(sys.connect(fd, { family: "inet", host: "1.2.3.4", port: 65536 }), -Errno.EINVAL);
    assert.equal(sys.setsockopt(fd, SOL.SOCKET, SO.SNDBUF, 65536), 0);
    assert(sys.getsockopt(fd, SOL.SOCKET, SO.SNDBUF) >= 65536);
    sys.close(fd);
  }));

Deno.test("names are resolved; those that are none say so", () =>
  withSys(async (sys) => {
    assert.deepEqual(await sys.resolve("10.0.0.1", 7), [{
      family: "inet",
      host: "10.0.0.1",
      port: 7,
    }]);
    assert.deepEqual(await sys.resolve("::1", 7), [{ family: "inet6", host: "::1", port: 7 }]);
    const found = await sys.resolve("localhost", 80);
    assert(found.length > 0);
    for (const address of found) {
      assert(address.family === "inet" || address.family === "inet6");
      assert.equal(address.port, 80);
      assert(["127.0.0.1", "::1"].includes(address.host), address.host);
    }
    await assert.rejects(sys.resolve("no such host", 1), ResolveError);
    await assert.rejects(sys.resolve("a\0b", 1), ResolveError);
    await assert.rejects(sys.service("no-such-service", SOCK.STREAM), ResolveError);
    await assert.rejects(sys.service("a\0b", SOCK.STREAM), ResolveError);
  }));

Deno.test("clocks run forwards and chance is given", () =>
  withSys((sys) => {
    const a = sys.monotonicNs();
    assert(sys.monotonicNs() >= a);
    assert(Math.abs(sys.realtimeUs() / 1000 - Date.now()) < 1000);
    assert.equal(sys.randomBytes(100_000).length, 100_000);
    assert.notDeepEqual(sys.randomBytes(16), sys.randomBytes(16));
    const old = sys.umask(0o077);
    assert.equal(sys.umask(old), 0o077);
    assert.equal(archConstants(sys.arch).arch, sys.arch);
  }));

Deno.test("epoll events carry what was asked for", () =>
  withSys((sys) => {
    const epfd = check(sys.epollCreate(), "epoll_create1");
    const event = check(sys.eventfd(1), "eventfd");
    const ready = sys.epollEvents(4);
    assert.equal(sys.epollCtl(epfd, 1, event, 1, 0xfffffffe), 0);
    assert.equal(sys.epollWait(epfd, ready, 0), 1);
    assert.equal(ready.events(0), 1);
    assert.equal(ready.data(0), 0xfffffffe);
    sys.close(event);
    sys.close(epfd);
  }));
