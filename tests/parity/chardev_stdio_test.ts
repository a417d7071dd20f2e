/** A stdio device on a terminal: what it does to the keys, and that the terminal is as before afterwards. */
import assert from "node:assert/strict";
import { createContext, O, reapChild, SIG, spawn, type Sys } from "../../lib/sys/mod.ts";
import { lacksOriginal, ORIGINAL, subject } from "../harness/daemon.ts";
import { skip } from "../harness/skips.ts";
import { which } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";

const TIOCSPTLCK = 0x40045431;
const TIOCGPTN = 0x80045430;
const TCGETS = 0x5401;

/** What was seen of one run. Settings are the bytes of struct termios. */
interface Seen {
  readonly changed: string;
  readonly restored: boolean;
  readonly end: unknown;
}

const hex = (bytes: Uint8Array) => bytes.slice(0, 36).toHex();

async function observe(sys: Sys, program: string, signal: string): Promise<Seen> {
  const scratch = sys.allocate(65536);
  const master = sys.open("/dev/ptmx", O.RDWR | O.NOCTTY | O.CLOEXEC | O.NONBLOCK);
  scratch.view.setInt32(0, 0, true);
  assert.ok(sys.ioctl(master, TIOCSPTLCK, scratch.address) >= 0);
  assert.ok(sys.ioctl(master, TIOCGPTN, scratch.address) >= 0);
  const name = `/dev/pts/${scratch.view.getInt32(0, true)}`;
  const slave = sys.open(name, O.RDWR | O.NOCTTY | O.CLOEXEC);
  const settings = () => {
    assert.ok(sys.ioctl(slave, TCGETS, scratch.address) >= 0);
    return hex(scratch.bytes);
  };
  let output = "";
  const says = (words: string) =>
    until(() => {
      const got = sys.read(master, scratch.address, 65536);
      if (got > 0) output += new TextDecoder().decode(scratch.bytes.subarray(0, got));
      return output.includes(words);
    }, words);
  const before = settings();
  const pid = spawn(sys, {
    path: program,
    argv: [program, "--chardev", `stdio,id=c,signal=${signal}`, "--monitor", "c"],
    env: Object.entries(Deno.env.toObject()).map(([key, value]) => `${key}=${value}`),
    setsid: true,
    fds: [[slave, 0], [slave, 1], [2, 2]],
  });
  assert.ok(pid > 0);
  try {
    await says("QMP");
    const changed = settings();
    scratch.bytes.set(new TextEncoder().encode('{"execute":"qmp_capabilities"}\n'));
    sys.write(master, scratch.address, 31);
    await says('{"return": {}}');
    sys.kill(pid, SIG.TERM);
    let end: unknown;
    await until(() => (end = reapChild(sys, pid)) !== undefined, "the end");
    return { changed, restored: settings() === before, end };
  } finally {
    if (reapChild(sys, pid) === undefined) sys.kill(pid, SIG.KILL);
    sys.close(slave);
    sys.close(master);
    scratch.unmap();
  }
}

for (const signal of ["on", "off"]) {
  Deno.test({
    name: `stdio on a terminal with signal=${signal}: keys as the original has them, and restored`,
    ignore: lacksOriginal() && skip("stdio terminal", `not installed: ${ORIGINAL}`),
    async fn() {
      const note = () => {};
      const context = createContext({ name: "test", log: { error: note, warn: note, info: note } });
      try {
        const ours = subject().includes("/") ? subject() : which(subject())!;
        const seen = await observe(context.sys, ours, signal);
        assert.deepEqual(seen, await observe(context.sys, which(ORIGINAL)!, signal));
        assert.ok(seen.restored);
      } finally {
        await context.close();
      }
    },
  });
}
