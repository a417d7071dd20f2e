/** What a loop does for rings in shared memory: Loop.addPoller. */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { until, withContext } from "./testing_loop.ts";

Deno.test("pollers are asked once in every turn", async () => {
  await withContext(async ({ loop }) => {
    let asked = 0;
    const { turns } = loop.counters;
    const { promise, resolve } = Promise.withResolvers<void>();
    const poller = loop.addPoller(() => {
      if (++asked < 10) return true;
      resolve();
      return false;
    });
    await promise;
    assert.equal(loop.counters.turns - turns, asked);
    poller.remove();
  });
});

Deno.test("a poller that always has more to do, and is done with it, leaves everybody else their turns", async () => {
  await withContext(async ({ loop }) => {
    const until = performance.now() + 2000; // without a bound the test fails then
    let asked = 0;
    let others = 0;
    const settled = () => true;
    const greedy = loop.addPoller(
      () => ++asked > 0 && performance.now() < until,
      undefined,
      settled,
    );
    const other = loop.addPoller(() => ++others < 0, undefined, settled);
    const { turns } = loop.counters;
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    await loop.sleep(1e6);
    assert.ok(performance.now() < until, "a turn has to end");
    const took = loop.counters.turns - turns;
    assert.ok(took >= 20, `${took} turns`);
    assert.ok(
      asked > 2 * took,
      `${asked} looks in ${took} turns: rings are looked at again at once`,
    );
    assert.ok(Math.abs(asked - others) <= 1, `${asked} looks at one, ${others} at the other`);
    greedy.remove();
    other.remove();
  });
});

Deno.test("pollers are asked again in a turn only while all of them are settled and nothing is deferred", async () => {
  await withContext(async ({ loop }) => {
    let asked = 0;
    let settled = true;
    let defer = false;
    const poll = () => {
      asked++;
      if (defer) loop.defer(() => {});
      return true;
    };
    const perTurn = async () => {
      await new Promise((resolve) => setImmediate(resolve));
      const before = { asked, turns: loop.counters.turns };
      for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
      return (asked - before.asked) / (loop.counters.turns - before.turns);
    };
    const poller = loop.addPoller(poll, undefined, () => settled);
    assert.ok(await perTurn() > 2);
    settled = false;
    assert.equal(await perTurn(), 1);
    settled = true;
    defer = true;
    assert.equal(await perTurn(), 1);
    defer = false;
    const unaware = loop.addPoller(() => false);
    assert.equal(await perTurn(), 1);
    unaware.remove();
    assert.ok(await perTurn() > 2);
    poller.remove();
  });
});

Deno.test("pollers are told before the loop sleeps, and work that they find keeps it awake", async () => {
  await withContext(async ({ loop }) => {
    let asked = 0;
    let told = 0;
    let work = 3;
    const { promise, resolve } = Promise.withResolvers<void>();
    const poller = loop.addPoller(
      () => {
        asked++;
        return false;
      },
      () => {
        told++;
        const any = work-- > 0;
        if (any) asked = 0;
        else resolve();
        return any;
      },
    );
    await promise;
    assert.equal(told, 4);
    assert.ok(asked > 0, "work that was found has to be polled for");
    poller.remove();
    const before = told;
    await loop.sleep(5e6);
    assert.equal(told, before);
  });
});

Deno.test("a poller that throws before the loop sleeps is reported, and the loop sleeps", async () => {
  const errors: unknown[] = [];
  await withContext(async ({ loop }) => {
    const poller = loop.addPoller(() => false, () => {
      throw new Error("sleepless");
    });
    await until(() => loop.counters.parks > 0);
    poller.remove();
    assert.equal((errors[0] as Error).message, "sleepless");
  }, (error) => errors.push(error));
});
