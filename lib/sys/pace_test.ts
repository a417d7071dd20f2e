import assert from "node:assert/strict";
import { Pace } from "./pace.ts";
import type { Context } from "./types.ts";

/** A loop and a clock that go on when they are told to. */
function standing() {
  const counters = { turns: 7, parks: 0, wakes: 0 };
  const clock = { ns: 1e9 };
  const tasks: (() => void)[] = [];
  const context = {
    loop: { counters, defer: (task: () => void) => void tasks.push(task) },
    sys: { monotonicNs: () => clock.ns },
  } as unknown as Context;
  const turn = () => {
    counters.turns++;
    for (const task of tasks.splice(0)) task();
  };
  return { context, clock, turn };
}

Deno.test("long work rests when it has had half a millisecond of a turn, and goes on in the next for as long", async () => {
  const { context, clock, turn } = standing();
  const pace = new Pace(context);
  for (const _ of [1, 2]) {
    assert.equal(pace.tired, false);
    clock.ns += 500_000;
    assert.equal(pace.tired, false);
    clock.ns += 1;
    assert.equal(pace.tired, true);
    const rested = pace.rest();
    turn();
    await rested;
  }
});

Deno.test("work that goes on in another turn by itself, after waiting for something, need not rest", () => {
  const { context, clock, turn } = standing();
  const pace = new Pace(context);
  assert.equal(pace.tired, false);
  clock.ns += 20e6;
  turn();
  assert.equal(pace.tired, false);
});

Deno.test("tasks that share a pace share what each turn has for them", () => {
  const { context, clock } = standing();
  const pace = new Pace(context);
  assert.equal(pace.tired, false); // the first of them
  clock.ns += 500_001;
  assert.equal(pace.tired, true); // another
});

Deno.test("a pace has what it is told of each turn", () => {
  const { context, clock, turn } = standing();
  const pace = new Pace(context, 1_000_000);
  assert.equal(pace.tired, false);
  clock.ns += 1_000_000;
  assert.equal(pace.tired, false);
  clock.ns += 1;
  assert.equal(pace.tired, true);
  turn();
  assert.equal(pace.tired, false);
});
