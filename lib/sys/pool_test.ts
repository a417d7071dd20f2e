import assert from "node:assert/strict";
import { syscallNumbers } from "./constants.ts";
import { Errno } from "./errno.ts";
import { LinuxSys } from "./linux.ts";

Deno.test("the pool makes no more calls at once than it may, in their order, and a new limit counts at once", async () => {
  const sys = new LinuxSys();
  /** read(2). */
  const read = sys.arch === "x86_64" ? 0 : 63;
  const numbers = syscallNumbers(sys.arch);
  const pipe = sys.pipe2(0);
  assert.ok(typeof pipe === "object");
  const memory = sys.allocate(8);
  try {
    sys.pool.configure(2, 1);
    const order: string[] = [];
    const note = (name: string) => (rc: number) => void order.push(`${name} ${rc}`);
    // Waits until something is written to the pipe.
    const first = sys.pool.raw(read, pipe[0], memory.address, 1).then(note("read"));
    const second = sys.pool.fdatasync(-1).then(note("second"));
    const third = sys.pool.raw(numbers.fdatasync, -1).then(note("third"));
    await new Promise((go) => setTimeout(go, 10)); // both would fail at once if they were made
    assert.deepEqual(order, [], "the others wait for the first");
    sys.pool.configure(0, 2);
    await Promise.all([second, third]);
    assert.deepEqual(order, [`second ${-Errno.EBADF}`, `third ${-Errno.EBADF}`]);
    sys.write(pipe[1], memory.address, 1);
    await first;
    assert.equal(order.at(-1), "read 1");
    assert.equal(sys.pool.inFlight, 0);
  } finally {
    // Whoever still reads is let go.
    sys.write(pipe[1], memory.address, 1);
    memory.unmap();
    sys.close(pipe[0]);
    sys.close(pipe[1]);
    sys.dispose();
  }
});

Deno.test("as many threads as are asked for are started", async () => {
  const threads = () =>
    [...Deno.readDirSync("/proc/self/task")].filter(({ name }) => {
      const comm = Deno.readTextFileSync(`/proc/self/task/${name}/comm`);
      return comm.startsWith("tokio");
    }).length;
  const sys = new LinuxSys();
  const wanted = threads() + 20;
  sys.pool.configure(wanted, wanted);
  await sys.pool.warmed();
  assert.ok(threads() >= wanted, `${threads()} of ${wanted}`);
  assert.equal(sys.pool.inFlight, 0);
  sys.dispose();
});
