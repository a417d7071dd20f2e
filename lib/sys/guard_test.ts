/** Shared memory that is taken away. What would end the process is tried in a child of its own. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { createContext } from "./context.ts";
import { check } from "./errno.ts";
import type { Memory, Sys } from "./types.ts";

const PAGES = 16 * 4096;

/** Shared memory of PAGES bytes, each `value`, and its descriptor. */
function shared(sys: Sys, value: number): { fd: number; memory: Memory } {
  const fd = check(sys.memfd("guarded"), "memfd_create");
  check(sys.ftruncate(fd, PAGES), "ftruncate");
  const memory = sys.map(fd, 0, PAGES, true);
  assert.ok(typeof memory !== "number");
  memory.bytes.fill(value);
  return { fd, memory };
}

Deno.test("a guarded mapping that is cut off reads as zeroes, takes writes, and says that it is lost", async () => {
  const context = createContext({ name: "test" });
  const { sys } = context;
  const cut = shared(sys, 1);
  const whole = shared(sys, 2);
  const guards = [sys.guard(cut.memory), sys.guard(whole.memory)];
  assert.deepEqual(guards.map(({ lost }) => lost), [false, false]);
  check(sys.ftruncate(cut.fd, 4096), "ftruncate");
  assert.equal(cut.memory.bytes[100], 1, "what is still there");
  assert.deepEqual(guards.map(({ lost }) => lost), [false, false]);
  assert.equal(cut.memory.view.getUint32(3 * 4096), 0);
  assert.deepEqual(guards.map(({ lost }) => lost), [true, false]);
  // All of it is ours now: nothing that is written reaches the file.
  cut.memory.bytes.fill(9);
  const file = sys.map(cut.fd, 0, 4096, false) as Memory;
  assert.equal(file.bytes[0], 1);
  assert.ok(whole.memory.bytes.every((byte) => byte === 2), "others are as they were");
  for (const guard of guards) guard.release();
  for (const one of [cut, whole, { fd: -1, memory: file }]) {
    one.memory.unmap();
    if (one.fd >= 0) sys.close(one.fd);
  }
  await context.close();
});

Deno.test("stores, atomic operations and copies by libc survive, in either direction", async () => {
  const context = createContext({ name: "test" });
  const { sys } = context;
  const own = sys.allocate(PAGES);
  own.bytes.fill(7);
  const touches: ((there: Memory) => void)[] = [
    ({ bytes }) => bytes[PAGES - 1] = 1,
    ({ bytes }) => Atomics.or(bytes, 5000, 1),
    ({ bytes }) => Atomics.store(new Uint16Array(bytes.buffer), 4000, 1),
    ({ view }) => view.setBigUint64(8192, 1n),
    ({ address }) => sys.copy(address + 4096, own.address, 3 * 4096),
    ({ address }) => sys.copy(own.address, address, PAGES),
    ({ address }) => assert.ok(sys.isZero(address + 4096, 8192)),
  ];
  for (const touch of touches) {
    const { fd, memory } = shared(sys, 3);
    const guard = sys.guard(memory);
    check(sys.ftruncate(fd, 0), "ftruncate");
    touch(memory);
    assert.ok(guard.lost);
    guard.release();
    memory.unmap();
    sys.close(fd);
  }
  assert.ok(own.bytes.every((byte) => byte === 0));
  own.unmap();
  await context.close();
});

Deno.test("entries are used again, by all contexts of the process", async () => {
  const contexts = [createContext({ name: "a" }), createContext({ name: "b" })];
  // More than the table has.
  for (let round = 0; round < 3000; round++) {
    const { sys } = contexts[round % 2]!;
    const memory = sys.allocate(4096);
    const guard = sys.guard(memory);
    assert.equal(guard.lost, false);
    guard.release();
    memory.unmap();
  }
  for (const [i, { sys }] of contexts.entries()) {
    const { fd, memory } = shared(sys, 1);
    const guard = sys.guard(memory);
    const seen = contexts[1 - i]!.sys.guardAt(memory.address + PAGES - 1);
    assert.equal(seen.lost, false);
    check(sys.ftruncate(fd, 0), "ftruncate");
    assert.equal(memory.bytes[0], 0);
    assert.ok(guard.lost);
    assert.ok(seen.lost, "by the other context too");
    guard.release();
    assert.equal(sys.guardAt(memory.address).lost, false, "nobody guards it any more");
    memory.unmap();
    sys.close(fd);
  }
  for (const context of contexts) await context.close();
});

/** What a child does; it prints "alive" if it lives to the end. */
async function child(body: string): Promise<{ signal: string | null; alive: boolean }> {
  const from = (name: string) => JSON.stringify(fileURLToPath(new URL(name, import.meta.url)));
  const program = `
    import { LinuxSys } from ${from("./linux.ts")};
    const sys = new LinuxSys();
    const make = () => {
      const fd = sys.memfd("x");
      sys.ftruncate(fd, 65536);
      return { fd, memory: sys.map(fd, 0, 65536, true) };
    };
    ${body}
    console.log("alive");
    Deno.exit(0);
  `;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--ext=ts", program],
    stderr: "null",
  });
  const { signal, stdout } = await command.output();
  return { signal, alive: new TextDecoder().decode(stdout) === "alive\n" };
}

Deno.test("faults in memory that is not guarded, or no longer, end the process as ever", async () => {
  const guarded = "const kept = make(); sys.guard(kept.memory);";
  const touch =
    "other.memory.bytes.fill(0); sys.ftruncate(other.fd, 0); other.memory.bytes[5000] = 1;";
  assert.deepEqual(await child("const other = make(); sys.guard(other.memory); " + touch), {
    signal: null,
    alive: true,
  });
  const dead = { signal: "SIGBUS", alive: false };
  assert.deepEqual(await child(`${guarded} const other = make(); ${touch}`), dead);
  const released = "const other = make(); sys.guard(other.memory).release();";
  assert.deepEqual(await child(`${guarded} ${released} ${touch}`), dead);
});

Deno.test("threads guard their own memory, at the same time", async () => {
  const program = `
    import { LinuxSys } from ${JSON.stringify(new URL("./linux.ts", import.meta.url).href)};
    const sys = new LinuxSys();
    let sum = 0;
    for (let round = 0; round < 50; round++) {
      const fd = sys.memfd("x");
      sys.ftruncate(fd, 65536);
      const memory = sys.map(fd, 0, 65536, true);
      memory.bytes.fill(1);
      const guard = sys.guard(memory);
      sys.ftruncate(fd, 4096);
      sum += memory.bytes[0] + memory.bytes[60000] + (guard.lost ? 1 : 0);
      guard.release();
      memory.unmap();
      sys.close(fd);
    }
    postMessage(sum);
    close();
  `;
  const url = URL.createObjectURL(new Blob([program], { type: "text/javascript" }));
  const sums = await Promise.all(
    Array.from({ length: 3 }, () =>
      new Promise<number>((resolve, reject) => {
        const worker = new Worker(url, { type: "module" });
        worker.onmessage = ({ data }) => resolve(data);
        worker.onerror = reject;
      })),
  );
  URL.revokeObjectURL(url);
  assert.deepEqual(sums, [100, 100, 100]);
});
