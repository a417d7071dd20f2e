import assert from "node:assert/strict";
import { O } from "./constants.ts";
import { check, Errno, errnoName } from "./errno.ts";
import { LinuxSys } from "./linux.ts";
import { type ChildEnd, isTerminal, rawTerminal, reapChild, spawn } from "./process.ts";

/** Runs a shell script with `fd` as its descriptor 7; gives its end and what it wrote there. */
async function shell(
  sys: LinuxSys,
  script: string,
  options: { setsid?: boolean; argument?: Uint8Array; variable?: Uint8Array } = {},
): Promise<{ pid: number; end: ChildEnd; output: string }> {
  const pipe = sys.pipe2(O.CLOEXEC);
  assert(typeof pipe !== "number");
  const pid = spawn(sys, {
    path: "/bin/sh",
    argv: ["sh", "-c", script, "name", options.argument ?? "two words"],
    env: ["GREETING=hi there", ...(options.variable ? [options.variable] : [])],
    fds: [[pipe[1], 7]],
    setsid: options.setsid ?? false,
  });
  assert(pid > 0);
  sys.close(pipe[1]);
  const memory = sys.allocate(4096);
  let length = 0;
  for (let rc = 1; rc > 0; length += rc) {
    rc = check(sys.read(pipe[0], memory.address + length, 4096 - length), "read");
  }
  const output = new TextDecoder().decode(memory.bytes.slice(0, length));
  memory.unmap();
  sys.close(pipe[0]);
  for (;;) {
    const end = reapChild(sys, pid);
    assert(typeof end !== "number", `waitpid: ${String(end)}`);
    if (end !== undefined) return { pid, end, output };
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

Deno.test("spawn gives arguments, environment and descriptors, and nothing else", async () => {
  const sys = new LinuxSys();
  const secret = check(sys.open("/dev/null", O.RDONLY | O.CLOEXEC), "open");
  const { end, output } = await shell(
    sys,
    `echo "$0|$1|$GREETING|\${HOME-unset}" >&7; test -e /proc/$$/fd/${secret} && echo leak >&7; exit 3`,
  );
  assert.equal(output, "name|two words|hi there|unset\n");
  assert.deepEqual(end, { status: 3 });
  sys.close(secret);
  sys.dispose();
});

Deno.test("spawn gives bytes as they are, also where they are not UTF-8", async () => {
  const sys = new LinuxSys();
  const odd = Uint8Array.of(0x78, 0xff, 0xfe, 0xc3);
  const variable = Uint8Array.of(0x56, 0x3d, 0x80);
  const script = `printf '%s|%s' "$1" "$V" | od -An -tx1 >&7`;
  const { output } = await shell(sys, script, { argument: odd, variable });
  assert.equal(output, " 78 ff fe c3 7c 80\n");
  sys.dispose();
});

Deno.test("spawn can begin a session; a signal that kills is told", async () => {
  const sys = new LinuxSys();
  const script = `cut -d' ' -f6 /proc/$$/stat >&7; kill -TERM $$; sleep 100`;
  const { pid, end, output } = await shell(sys, script, { setsid: true });
  assert.equal(Number(output), pid, "leader of its own session");
  assert.deepEqual(end, { signal: 15 });
  sys.dispose();
});

Deno.test("spawn says why it could not", () => {
  const sys = new LinuxSys();
  assert.equal(spawn(sys, { path: "/no/such", argv: ["x"], env: [] }), -Errno.ENOENT);
  assert.equal(spawn(sys, { path: "/bin/sh", argv: ["a\0b"], env: [] }), -Errno.EINVAL);
  const within = Uint8Array.of(0x61, 0, 0x62);
  assert.equal(spawn(sys, { path: "/bin/sh", argv: ["a"], env: [within] }), -Errno.EINVAL);
  assert.equal(reapChild(sys, sys.pid), -10);
  sys.dispose();
});

const terminals = (() => {
  const sys = new LinuxSys();
  const rc = sys.open("/dev/ptmx", O.RDWR | O.NOCTTY);
  if (rc >= 0) sys.close(rc);
  sys.dispose();
  return rc < 0 ? `skipped: /dev/ptmx cannot be opened: ${errnoName(-rc)}` : undefined;
})();

Deno.test(`a terminal goes raw and comes back${terminals ? ` (${terminals})` : ""}`, {
  ignore: terminals !== undefined,
}, () => {
  const sys = new LinuxSys();
  const master = check(sys.open("/dev/ptmx", O.RDWR | O.NOCTTY), "open");
  const memory = sys.allocate(64);
  const TIOCGPTN = 0x80045430, TIOCSPTLCK = 0x40045431;
  check(sys.ioctl(master, TIOCSPTLCK, memory.address), "ioctl");
  check(sys.ioctl(master, TIOCGPTN, memory.address), "ioctl");
  const path = `/dev/pts/${memory.view.getUint32(0, true)}`;
  const fd = check(sys.open(path, O.RDWR | O.NOCTTY), "open", path);
  assert(isTerminal(sys, fd));
  const modes = () => {
    check(sys.ioctl(fd, 0x5401, memory.address), "ioctl");
    return [...memory.bytes.slice(0, 36)];
  };
  const before = modes();
  const raw = rawTerminal(sys, fd, { signals: true });
  assert(typeof raw !== "number");
  modes();
  const lflag = memory.view.getUint32(12, true);
  assert.equal(lflag & 0o12, 0, "neither canonical nor echoing");
  assert.equal(lflag & 1, 1, "signals kept");
  assert.equal(raw.restore(), 0);
  assert.deepEqual(modes(), before);
  sys.close(fd);
  sys.close(master);
  memory.unmap();
  sys.dispose();
});

Deno.test("what is no terminal is told to be none", () => {
  const sys = new LinuxSys();
  const pipe = sys.pipe2(0);
  assert(typeof pipe !== "number");
  assert(!isTerminal(sys, pipe[0]));
  assert.equal(rawTerminal(sys, pipe[0], { signals: false }), -Errno.ENOTTY);
  pipe.forEach((fd) => sys.close(fd));
  sys.dispose();
});
