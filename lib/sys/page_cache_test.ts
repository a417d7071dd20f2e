/** What sends from the page cache, asks about it, and tells whether a call waited. */
import assert from "node:assert/strict";
import { FALLOC, O, SHUT } from "./constants.ts";
import { check, Errno } from "./errno.ts";
import { LinuxSys } from "./linux.ts";

const PAGE = 4096;

/** Runs `body` with a machine and an open file of `pages` pages, each filled with its number. */
function withFile(
  pages: number,
  body: (sys: LinuxSys, fd: number, path: string) => void,
): void {
  const sys = new LinuxSys();
  const path = Deno.makeTempFileSync();
  Deno.writeFileSync(path, new Uint8Array(pages * PAGE).map((_, i) => i / PAGE));
  const fd = check(sys.open(path, O.RDWR), "open");
  try {
    body(sys, fd, path);
  } finally {
    sys.close(fd);
    sys.dispose();
    Deno.removeSync(path);
  }
}

function pair(sys: LinuxSys): readonly [number, number] {
  const both = sys.socketpair();
  assert(typeof both !== "number");
  return both;
}

/** Receives until nothing more is there. */
function drain(sys: LinuxSys, fd: number): Uint8Array {
  const memory = sys.allocate(1 << 20);
  let filled = 0;
  for (;;) {
    const got = sys.recv(fd, memory.address + filled, memory.length - filled, 0);
    if (got <= 0) break;
    filled += got;
  }
  const bytes = memory.bytes.slice(0, filled);
  memory.unmap();
  return bytes;
}

Deno.test("sendfile sends what lies at an offset, to the end of the file, and moves no position", () =>
  withFile(4, (sys, fd) => {
    const [a, b] = pair(sys);
    assert.equal(sys.sendfile(a, fd, PAGE - 2, 6), 6);
    assert.deepEqual([...drain(sys, b)], [0, 0, 1, 1, 1, 1]);
    assert.equal(sys.lseek(fd, 0, 1), 0, "SEEK_CUR");
    assert.equal(sys.sendfile(a, fd, 4 * PAGE - 3, 100), 3);
    assert.equal(sys.sendfile(a, fd, 4 * PAGE, 100), 0);
    assert.deepEqual([...drain(sys, b)], [3, 3, 3]);
    sys.close(a);
    sys.close(b);
  }));

Deno.test("sendfile takes what the socket has room for, then says EAGAIN; a peer that is gone is EPIPE", () =>
  withFile(256, (sys, fd) => {
    const [a, b] = pair(sys);
    let sent = 0;
    for (;;) {
      const rc = sys.sendfile(a, fd, sent, 256 * PAGE - sent);
      if (rc === -Errno.EAGAIN) break;
      assert(rc > 0, `${rc}`);
      sent += rc;
      assert(sent < 256 * PAGE, "a socket holds less");
    }
    const bytes = drain(sys, b);
    assert.equal(bytes.length, sent);
    assert(bytes.every((byte, i) => byte === Math.floor(i / PAGE)));
    sys.shutdown(b, SHUT.RDWR);
    sys.close(b);
    assert.equal(sys.sendfile(a, fd, 0, PAGE), -Errno.EPIPE);
    assert.equal(sys.sendfile(a, -1, 0, PAGE), -Errno.EBADF);
    sys.close(a);
  }));

Deno.test("splice takes a socket's data through a pipe to an offset of a file, and no more than asked for", () =>
  withFile(4, (sys, fd) => {
    const [a, b] = pair(sys);
    const pipe = sys.pipe2(O.CLOEXEC | O.NONBLOCK);
    assert(typeof pipe !== "number");
    const memory = sys.allocate(PAGE);
    memory.bytes.fill(7, 0, 100);
    assert.equal(sys.unread(b), 0);
    assert.equal(sys.splice(b, pipe[1], PAGE), -Errno.EAGAIN);
    assert.equal(sys.send(a, memory.address, 100, 0), 100);
    assert.equal(sys.unread(b), 100);
    assert.equal(sys.splice(b, pipe[1], 60), 60);
    assert.equal(sys.unread(b), 40);
    assert.equal(sys.unread(pipe[0]), 60);
    assert.equal(sys.splice(pipe[0], fd, 60, PAGE - 30), 60);
    assert.equal(sys.splice(pipe[0], fd, 60, 0), -Errno.EAGAIN, "an empty pipe is not waited for");
    assert.equal(sys.pread(fd, memory.address, PAGE, PAGE - 64), PAGE);
    const bytes = [...memory.bytes.subarray(32, 96)];
    assert.deepEqual(bytes, [0, 0, ...new Array(60).fill(7), 1, 1]);
    assert.equal(sys.lseek(fd, 0, 1), 0, "SEEK_CUR");
    sys.shutdown(a, SHUT.RDWR);
    assert.equal(sys.splice(b, pipe[1], 100), 40);
    assert.equal(sys.splice(b, pipe[1], 100), 0, "the end of the stream");
    assert.equal(sys.splice(pipe[0], -1, 40, 0), -Errno.EBADF);
    assert.equal(sys.unread(-1), -Errno.EBADF);
    memory.unmap();
    for (const end of [a, b, ...pipe]) sys.close(end);
  }));

Deno.test("cachedPages counts the pages of a range that are in memory", () =>
  withFile(8, (sys, fd) => {
    const cached = sys.cachedPages(fd, 0, 8 * PAGE);
    if (cached === -Errno.ENOSYS) return; // before Linux 6.5
    assert.equal(cached, 8);
    assert.equal(sys.cachedPages(fd, PAGE, 2 * PAGE), 2);
    assert.equal(sys.cachedPages(fd, 100, PAGE), 2, "pages that the range touches");
    check(sys.fallocate(fd, FALLOC.KEEP_SIZE | FALLOC.PUNCH_HOLE, 2 * PAGE, 3 * PAGE), "fallocate");
    assert.equal(sys.cachedPages(fd, 0, 8 * PAGE), 5);
    assert.equal(sys.cachedPages(fd, 8 * PAGE, PAGE), 0, "behind the end");
    assert.equal(sys.cachedPages(-1, 0, PAGE), -Errno.EBADF);
  }));

Deno.test("waits counts what this thread has slept for, and not what it has computed", () =>
  withFile(1, (sys) => {
    const epfd = check(sys.epollCreate(), "epoll_create1");
    const ready = sys.epollEvents(1);
    const before = sys.waits();
    for (let i = 0; i < 3; i++) sys.epollWait(epfd, ready, 1);
    assert.equal(sys.waits(), before + 3);
    const memory = sys.allocate(1 << 20);
    for (let i = 0; i < 100; i++) sys.fill(memory.address, i, memory.length);
    assert.equal(sys.waits(), before + 3);
    memory.unmap();
    sys.close(epfd);
  }));
