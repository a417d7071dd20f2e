import assert from "node:assert/strict";
import { SlowGuard } from "./guard.ts";

const MS = 1_000_000;

/** A clock that is set by hand, of a thread that waits when it is told to. */
class Clock {
  now = 1;
  readings = 0;
  waited = 0;
  monotonicNs(): number {
    this.readings++;
    return this.now;
  }
  waits(): number {
    return this.waited;
  }
}

/** A call that takes `ns`; if that is long, the kernel makes it wait. */
function call(guard: SlowGuard, clock: Clock, ns: number, length = 4096): void {
  guard.begin();
  clock.now += ns;
  if (ns > MS) clock.waited++;
  guard.end(length);
}

/** A call on the pool while `queued` bytes, its own among them, are asked for. */
function pooled(guard: SlowGuard, ns: number, queued = 4096): void {
  const before = guard.enter(queued - 4096);
  const under = guard.enter(4096);
  guard.leave(4096);
  guard.leave(queued - 4096);
  assert.equal(before + 4096, under);
  guard.pooled(under, ns);
}

/** A guard that has seen enough quick calls to trust them. */
function trusting(clock: Clock): SlowGuard {
  const guard = new SlowGuard(clock);
  for (let i = 0; i < 128; i++) call(guard, clock, 2000);
  clock.readings = 0;
  return guard;
}

Deno.test("under load one clock reading serves eight calls", () => {
  const clock = new Clock();
  const guard = trusting(clock);
  for (let i = 0; i < 800; i++) call(guard, clock, 2000);
  assert.equal(clock.readings, 100);
  assert.equal(guard.slow, false);
});

Deno.test("calls move to the pool when one in 32 is held up, as dirty throttling does", () => {
  const clock = new Clock();
  const guard = trusting(clock);
  let slowCalls = 0;
  for (let i = 0; i < 320 && !guard.slow; i++) {
    if (i % 32 === 31) slowCalls++;
    call(guard, clock, i % 32 === 31 ? 50 * MS : 2000);
  }
  assert.equal(guard.slow, true);
  assert.equal(guard.switches, 1);
  assert.equal(slowCalls, 2, "the first might have been a pause, the second was timed");
});

Deno.test("pauses between quick calls are not taken for slow calls", () => {
  const clock = new Clock();
  const guard = trusting(clock);
  for (let i = 0; i < 1000; i++) {
    clock.now += 100 * MS;
    call(guard, clock, 2000);
  }
  assert.equal(guard.slow, false);
});

Deno.test("large calls may take the time that copying takes", () => {
  const clock = new Clock();
  const guard = new SlowGuard(clock);
  for (let i = 0; i < 3; i++) call(guard, clock, 9 * MS, 8 * MS);
  assert.equal(guard.slow, false);
});

Deno.test("calls that lost the CPU, and waited for nothing, stay inline", () => {
  const clock = new Clock();
  const guard = trusting(clock);
  for (let i = 0; i < 1000; i++) {
    clock.waited++; // between calls the thread does wait
    guard.begin();
    clock.now += i % 3 === 0 ? 20 * MS : 2000;
    guard.end(4096);
  }
  assert.equal(guard.slow, false);
});

Deno.test("calls come back when a run of them was quick on the pool", () => {
  const clock = new Clock();
  const guard = new SlowGuard(clock);
  call(guard, clock, 50 * MS);
  assert.equal(guard.slow, true);
  for (let i = 0; i < 255; i++) pooled(guard, 40_000);
  pooled(guard, 100 * MS);
  for (let i = 0; i < 255; i++) pooled(guard, 40_000);
  assert.equal(guard.slow, true, "a slow one starts the run again");
  pooled(guard, 40_000);
  assert.equal(guard.slow, false);
});

Deno.test("calls come back under a load that queues on the pool: what waits there is not slow", () => {
  const clock = new Clock();
  const guard = new SlowGuard(clock);
  call(guard, clock, 50 * MS);
  for (let i = 0; i < 256; i++) pooled(guard, 20 * MS, 16 << 20);
  assert.equal(guard.slow, false);
});
