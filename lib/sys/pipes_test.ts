import assert from "node:assert/strict";
import { O } from "./constants.ts";
import { Errno } from "./errno.ts";
import { Pipes } from "./pipes.ts";
import type { Sys } from "./types.ts";

/** Pipes whose calls are noted. `room`: what a pipe has; `grows`: whether it can be given more. */
function scripted() {
  const state = { pipes: 0, open: new Set<number>(), full: false, grows: true, room: 65_536 };
  const sys = {
    pipe2(flags: number) {
      assert.equal(flags, O.CLOEXEC | O.NONBLOCK);
      state.pipes++;
      if (state.full) return -Errno.EMFILE;
      const ends = [state.pipes * 10, state.pipes * 10 + 1] as const;
      for (const end of ends) state.open.add(end);
      return ends;
    },
    fcntl: (_fd: number, command: number) =>
      command === 1032 ? state.room : state.grows ? 262_144 : -Errno.EPERM, // F_GETPIPE_SZ
    close: (fd: number) => assert.ok(state.open.delete(fd)),
  } as unknown as Sys;
  return { state, pool: new Pipes(sys) };
}

Deno.test("a pipe that is given back empty is lent again; one that may hold something is not", () => {
  const { state, pool } = scripted();
  assert.equal(pool.available, true);
  const first = pool.borrow()!;
  pool.giveBack(first);
  assert.equal(pool.borrow(), first);
  pool.discard(first);
  assert.equal(state.open.size, 0);
  const [second, third] = [pool.borrow()!, pool.borrow()!];
  assert.notEqual(second.from, third.from);
  pool.giveBack(second);
  pool.giveBack(third);
  assert.equal(state.open.size, 2, "one is kept");
  const last = pool.borrow()!;
  pool.close();
  assert.equal(pool.available, false);
  pool.giveBack(last);
  assert.equal(state.open.size, 0);
});

Deno.test("a pipe without room for 64 KiB is of no use, and none is asked for again for a while", () => {
  const { state, pool } = scripted();
  state.grows = false;
  state.room = 8192;
  assert.equal(pool.borrow(), undefined);
  assert.equal(state.open.size, 0);
  state.room = 65_536;
  let asked = 0;
  while (!pool.available) asked++;
  assert.ok(asked > 100 && asked < 1000);
  assert.equal(state.pipes, 2);
  assert.ok(pool.borrow() !== undefined);
  pool.close();
});

Deno.test("while descriptors are short there is no pipe", () => {
  const { state, pool } = scripted();
  state.full = true;
  assert.equal(pool.borrow(), undefined);
  assert.equal(pool.available, false);
  assert.equal(state.pipes, 1);
});
