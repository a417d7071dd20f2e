import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { openAio, probeAio } from "./aio.ts";
import { archConstants, O, syscallNumbers } from "./constants.ts";
import { createContext } from "./context.ts";
import { check, Errno } from "./errno.ts";
import {
  type AsyncIo,
  type EngineRefused,
  KernelQueue,
  QUEUE_DEPTH,
  type QueueContext,
  type QueueOptions,
} from "./kernel_queue.ts";
import { LinuxSys } from "./linux.ts";
import { isRefused, openUring, probeUring } from "./uring.ts";
import type { Sys } from "./types.ts";

const probing = new LinuxSys();
const engines: {
  name: string;
  open(context: QueueContext, options?: QueueOptions): AsyncIo | EngineRefused;
  refused: EngineRefused | undefined;
}[] = [
  { name: "aio=native", open: openAio, refused: probeAio(probing) },
  { name: "aio=io_uring", open: openUring, refused: probeUring(probing) },
];
probing.dispose();

/** Runs `body` with an engine and a file opened with O_DIRECT where the file system has it. */
async function withEngine(
  open: (context: QueueContext) => AsyncIo | EngineRefused,
  body: (io: AsyncIo, fd: number, context: ReturnType<typeof createContext>) => Promise<void>,
): Promise<void> {
  const context = createContext({ name: "test" });
  const directory = await Deno.makeTempDir();
  const io = open(context);
  assert(!isRefused(io), isRefused(io) ? io.reason : "");
  const { O_DIRECT } = archConstants(context.sys.arch);
  let fd = context.sys.open(`${directory}/f`, O.RDWR | O.CREAT | O_DIRECT, 0o600);
  if (fd === -Errno.EINVAL) fd = context.sys.open(`${directory}/f`, O.RDWR | O.CREAT, 0o600);
  check(fd, "open");
  try {
    await body(io, fd, context);
  } finally {
    await io.close();
    context.sys.close(fd);
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

for (const { name, open, refused } of engines) {
  const title = refused === undefined ? name : `${name}, refused here: ${refused.reason}`;
  const ignore = refused !== undefined;

  Deno.test(
    `what is written is read back, many requests at once (${title})`,
    { ignore },
    () =>
      withEngine(open, async (io, fd, { sys }) => {
        const count = 3 * QUEUE_DEPTH;
        const memory = sys.allocate(2 * count * 4096);
        for (let i = 0; i < count; i++) memory.bytes.fill(i % 251 + 1, i * 4096, (i + 1) * 4096);
        const iov = new IoVec(); // one list for all: it may be reused at once
        const written = [];
        for (let i = 0; i < count; i++) {
          iov.single(memory.address + i * 4096, 4096);
          written.push(io.writev(fd, iov, i * 4096));
        }
        assert.equal(io.inFlight, count);
        assert((await Promise.all(written)).every((rc) => rc === 4096));
        assert.equal(await io.fdatasync(fd), 0);
        const base = memory.address + count * 4096;
        const read = [];
        for (let i = 0; i < count; i += 3) {
          iov.reset();
          for (let k = 2; k >= 0; k--) iov.add(base + (i + k) * 4096, 4096);
          read.push(io.readv(fd, iov, i * 4096));
        }
        assert((await Promise.all(read)).every((rc) => rc === 3 * 4096));
        assert.equal(io.inFlight, 0);
        for (let i = 0; i < count; i++) {
          const mirrored = i - i % 3 + (2 - i % 3); // the segments were given in reverse
          assert.equal(memory.bytes[(count + mirrored) * 4096 + 17], i % 251 + 1);
        }
        memory.unmap();
      }),
  );

  Deno.test(
    `failures come as -errno to their own request only (${title})`,
    { ignore },
    () =>
      withEngine(open, async (io, fd, { sys }) => {
        const memory = sys.allocate(4096);
        const one = IoVec.of(memory.address, 4096);
        assert.equal(await io.writev(fd, one, 0), 4096); // requests in flight have no order
        const results = await Promise.all([
          io.writev(fd, one, 0),
          io.readv(-1, one, 0),
          io.writev(fd, one, 4096),
          io.readv(fd, IoVec.of(4096, 4096), 0), // not mapped
          io.readv(fd, one, 1 << 20),
        ]);
        assert.deepEqual(results, [4096, -Errno.EBADF, 4096, -Errno.EFAULT, 0]);
        memory.unmap();
      }),
  );

  Deno.test(
    `hundreds of segments in one request (${title})`,
    { ignore },
    () =>
      withEngine(open, async (io, fd, { sys }) => {
        const memory = sys.allocate(700 * 512);
        const iov = new IoVec();
        for (let i = 0; i < 600; i++) {
          memory.bytes[i * 512] = i & 255;
          iov.add(memory.address + i * 512, 512);
        }
        assert.equal(await io.writev(fd, iov, 0), 600 * 512);
        memory.bytes.fill(0);
        assert.equal(await io.readv(fd, iov, 0), 600 * 512);
        for (let i = 0; i < 600; i++) assert.equal(memory.bytes[i * 512], i & 255);
        memory.unmap();
      }),
  );

  Deno.test(
    `a batch that is full is submitted at once (${title})`,
    { ignore },
    () =>
      withEngine((context) => open(context, { maxBatch: 4 }), async (io, fd, { sys }) => {
        assert(io instanceof KernelQueue);
        const memory = sys.allocate(4096);
        const all = [];
        for (let i = 0; i < 10; i++) {
          all.push(io.writev(fd, IoVec.of(memory.address, 4096), i * 4096));
          assert.equal(io.submissions, Math.floor((i + 1) / 4));
        }
        assert((await Promise.all(all)).every((rc) => rc === 4096));
        assert.equal(io.submissions, 3);
        memory.unmap();
      }),
  );

  Deno.test(
    `a submission that the kernel refuses is tried again while others are under way, else fails (${title})`,
    { ignore },
    () => {
      // What the next submissions answer instead of reaching the kernel.
      const answers: number[] = [];
      const scripted = (real: Sys): Sys => {
        const numbers = syscallNumbers(real.arch);
        const submitting = [numbers.io_submit, numbers.io_uring_enter];
        const raw = (number: number, ...args: number[]) => {
          const answer = submitting.includes(number) ? answers.shift() : undefined;
          return answer || real.raw(number, ...args);
        };
        return new Proxy(real, {
          get(_, key) {
            const value: unknown = Reflect.get(real, key, real);
            if (key === "raw") return raw;
            return typeof value === "function" ? value.bind(real) : value;
          },
        });
      };
      const openScripted = (context: QueueContext) =>
        open({ sys: scripted(context.sys), loop: context.loop }, { maxBatch: 2 });
      return withEngine(openScripted, async (io, fd, { sys }) => {
        const memory = sys.allocate(4096);
        const write = (i: number) => io.writev(fd, IoVec.of(memory.address, 4096), i * 4096);
        // The first pair goes out, the second must wait for the first.
        answers.push(0, -Errno.EAGAIN, -Errno.EINTR);
        assert.deepEqual(await Promise.all([0, 1, 2, 3].map(write)), [4096, 4096, 4096, 4096]);
        assert.equal(answers.length, 0);
        // Nothing is under way: waiting would be for ever.
        answers.push(-Errno.EAGAIN, -Errno.ENOMEM);
        assert.deepEqual(await Promise.all([0, 1].map(write)), [-Errno.EAGAIN, -Errno.ENOMEM]);
        assert.equal(await write(0), 4096);
        memory.unmap();
      });
    },
  );

  Deno.test(
    `a context's limit of a submission counts as the engine's own, and can be changed (${title})`,
    { ignore },
    () => {
      let submissions = 0;
      const tuning = { aioMaxBatch: 0 };
      const openCounted = (context: QueueContext) => {
        const real = context.sys;
        const numbers = syscallNumbers(real.arch);
        const submitting = [numbers.io_submit, numbers.io_uring_enter];
        const raw = (number: number, ...args: number[]) => {
          if (submitting.includes(number)) submissions++;
          return real.raw(number, ...args);
        };
        const sys = new Proxy(real, {
          get(_, key) {
            const value: unknown = Reflect.get(real, key, real);
            if (key === "raw") return raw;
            return typeof value === "function" ? value.bind(real) : value;
          },
        });
        return open({ sys, loop: context.loop, tuning }, { maxBatch: 4 });
      };
      return withEngine(openCounted, async (io, fd, { sys }) => {
        const memory = sys.allocate(4096);
        const eight = async () => {
          submissions = 0;
          const write = (i: number) => io.writev(fd, IoVec.of(memory.address, 4096), i * 4096);
          await Promise.all([0, 1, 2, 3, 4, 5, 6, 7].map(write));
          return submissions;
        };
        assert.equal(await eight(), 2);
        tuning.aioMaxBatch = 2;
        assert.equal(await eight(), 4);
        tuning.aioMaxBatch = 8;
        assert.equal(await eight(), 2);
        memory.unmap();
      });
    },
  );

  Deno.test(
    `completions wake a loop that sleeps (${title})`,
    { ignore },
    () =>
      withEngine(open, async (io, fd, { sys, loop }) => {
        loop.configure({ pollMaxNs: 0 });
        const memory = sys.allocate(4096);
        for (let i = 0; i < 20; i++) {
          assert.equal(await io.writev(fd, IoVec.of(memory.address, 4096), i * 4096), 4096);
          assert.equal(await io.fdatasync(fd), 0);
        }
        memory.unmap();
      }),
  );
}
