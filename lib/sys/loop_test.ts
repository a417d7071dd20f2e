import assert from "node:assert/strict";
import { EPOLL } from "./constants.ts";
import { createContext, type OwnedContext } from "./context.ts";
import { check } from "./errno.ts";
import { pair, until, withContext } from "./testing_loop.ts";
import { failPoller } from "./wakeup.ts";

/** Threads of this process. */
function threads(): number {
  return [...Deno.readDirSync("/proc/self/task")].length;
}

Deno.test("a handler is called while its descriptor is ready, and not after close", async () => {
  await withContext(async ({ sys, loop, buffers }) => {
    const [a, b] = pair({ sys, loop, buffers } as OwnedContext);
    const memory = buffers.acquire(16);
    let calls = 0;
    const { promise, resolve } = Promise.withResolvers<void>();
    const watch = loop.watch(b, EPOLL.IN, (events) => {
      assert.equal(events & EPOLL.IN, EPOLL.IN);
      // Level-triggered: not read at the first call, so it is called again.
      if (++calls < 3) return;
      watch.close();
      resolve();
    });
    assert.equal(sys.send(a, memory.address, 5, 0), 5);
    await promise;
    await loop.sleep(5e6); // no call comes any more
    assert.equal(calls, 3);
    buffers.release(memory);
    sys.close(a);
    sys.close(b);
  });
});

Deno.test("a parked loop is woken by data, by defer and by timers", async () => {
  await withContext(async (context) => {
    const { sys, loop, buffers } = context;
    const [a, b] = pair(context);
    const memory = buffers.acquire(16);
    for (let round = 1; round <= 5; round++) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const watch = loop.watch(b, EPOLL.IN, () => {
        sys.recv(b, memory.address, 16, 0);
        resolve();
      });
      const parks = loop.counters.parks;
      await until(() => loop.counters.parks > parks || round > 1);
      sys.send(a, memory.address, 1, 0);
      await promise;
      watch.close();
    }
    assert(loop.counters.wakes > 0);
    await new Promise<void>((resolve) => loop.defer(resolve));
    const begin = performance.now();
    await loop.sleep(20e6);
    assert(performance.now() - begin >= 20);
    buffers.release(memory);
    sys.close(a);
    sys.close(b);
  });
});

Deno.test("a loop that is parked takes no turns", async () => {
  await withContext(async ({ loop }) => {
    loop.defer(() => {});
    await until(() => loop.counters.parks > 0);
    await until(() => loop.counters.turns > 0);
    const { turns } = loop.counters;
    // That nothing happens takes some time to see: as long as some naps would take.
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(loop.counters.turns, turns);
  });
});

Deno.test("set changes the interest, 0 pauses", async () => {
  await withContext(async (context) => {
    const { sys, loop } = context;
    const [a, b] = pair(context);
    let writable = 0;
    const watch = loop.watch(a, 0, () => {
      writable++;
      watch.set(0);
    });
    await loop.sleep(3e6); // no call comes, here and below
    assert.equal(writable, 0);
    watch.set(EPOLL.OUT);
    await until(() => writable === 1);
    await loop.sleep(3e6);
    assert.equal(writable, 1);
    watch.close();
    sys.close(a);
    sys.close(b);
  });
});

Deno.test("late events of a closed watch do not reach the next owner of its slot", async () => {
  await withContext(async (context) => {
    const { sys, loop, buffers } = context;
    const [a, b] = pair(context);
    const [c, d] = pair(context);
    const memory = buffers.acquire(8);
    const seen: string[] = [];
    const second = { close() {} } as { close(): void };
    const { promise, resolve } = Promise.withResolvers<void>();
    // Both are ready in one batch; the first closes the second and reuses its slot.
    const one = loop.watch(b, EPOLL.IN, () => {
      seen.push("one");
      one.close();
      second.close();
      const fresh = loop.watch(a, EPOLL.IN, () => seen.push("fresh"));
      loop.timer(2e6, () => {
        fresh.close();
        resolve();
      });
    });
    const two = loop.watch(d, EPOLL.IN, () => {
      seen.push("two");
    });
    second.close = () => two.close();
    sys.send(a, memory.address, 1, 0);
    sys.send(c, memory.address, 1, 0);
    await promise;
    assert.deepEqual(seen.filter((name) => name === "fresh"), []);
    assert(seen.includes("one"));
    buffers.release(memory);
    for (const fd of [a, b, c, d]) sys.close(fd);
  });
});

Deno.test("timers run in the order of their deadlines, and not once cancelled", async () => {
  await withContext(async ({ loop }) => {
    const order: number[] = [];
    const dead = loop.timer(2e6, () => order.push(0));
    // So much later that it comes last even if this thread loses the CPU before the others are set.
    loop.timer(60e6, () => order.push(3));
    loop.timer(1e6, () => order.push(1));
    loop.timer(3e6, () => order.push(2));
    dead.cancel();
    await until(() => order.includes(3));
    assert.deepEqual(order, [1, 2, 3]);
  });
});

Deno.test("deferred tasks run once, and those that they defer in the next turn", async () => {
  await withContext(async ({ loop }) => {
    const seen: number[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    loop.defer(() => {
      const { turns } = loop.counters;
      seen.push(1);
      loop.defer(() => {
        assert.equal(loop.counters.turns, turns + 1);
        seen.push(2);
        resolve();
      });
    });
    await promise;
    assert.deepEqual(seen, [1, 2]);
  });
});

/** Keeps the thread busy for longer than a turn's budget. */
function overstay(): void {
  const until = performance.now() + 0.6;
  while (performance.now() < until);
}

Deno.test("deferred tasks that take too long make room for events and promises, and keep their order", async () => {
  await withContext(async (context) => {
    const { sys, loop, buffers } = context;
    const [a, b] = pair(context);
    const memory = buffers.acquire(8);
    const seen: string[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const watch = loop.watch(b, EPOLL.IN, () => {
      seen.push("event");
      sys.recv(b, memory.address, 8, 0);
    });
    const task = (name: string) => {
      seen.push(name);
      overstay();
    };
    loop.defer(() => {
      task("one");
      sys.send(a, memory.address, 1, 0);
      Promise.resolve().then(() => seen.push("promise"));
      loop.defer(() => {
        task("four");
        resolve();
      });
    });
    loop.defer(() => task("two"));
    loop.defer(() => task("three"));
    await promise;
    assert.deepEqual(seen, ["one", "promise", "event", "two", "three", "four"]);
    watch.close();
    buffers.release(memory);
    sys.close(a);
    sys.close(b);
  });
});

Deno.test("an urgent watch waits for two turns at most, however many others are ready and slow", async () => {
  await withContext(async (context) => {
    const { sys, loop, buffers } = context;
    const memory = buffers.acquire(8);
    const others = 100;
    const pairs = Array.from({ length: others }, () => pair(context));
    const [a, b] = pair(context);
    const waited: number[] = [];
    let asked = -1;
    const { promise, resolve } = Promise.withResolvers<void>();
    const ask = () => {
      asked = loop.counters.turns;
      sys.send(a, memory.address, 1, 0);
    };
    const served = new Set<number>();
    const watches = pairs.map(([, end], i) =>
      loop.watch(end, EPOLL.IN, () => {
        overstay();
        served.add(i);
        if (asked < 0) ask();
        if (served.size === others && waited.length >= 20) resolve();
      })
    );
    const urgent = loop.watch(b, EPOLL.IN, () => {
      sys.recv(b, memory.address, 8, 0);
      waited.push(loop.counters.turns - asked);
      asked = -1;
    }, true);
    for (const [end] of pairs) sys.send(end, memory.address, 1, 0);
    await promise;
    assert.ok(Math.max(...waited) <= 2, `waited for ${waited} turns`);
    for (const watch of [...watches, urgent]) watch.close();
    buffers.release(memory);
    for (const fd of [...pairs.flat(), a, b]) sys.close(fd);
  });
});

Deno.test("an urgent watch wakes a parked loop, and can be paused", async () => {
  await withContext(async (context) => {
    const { sys, loop, buffers } = context;
    const [a, b] = pair(context);
    const memory = buffers.acquire(8);
    let calls = 0;
    const watch = loop.watch(b, 0, () => {
      calls++;
      sys.recv(b, memory.address, 8, 0);
    }, true);
    await until(() => loop.counters.parks > 0);
    sys.send(a, memory.address, 1, 0);
    await loop.sleep(3e6);
    assert.equal(calls, 0);
    const { parks } = loop.counters;
    watch.set(EPOLL.IN);
    await until(() => calls === 1);
    await until(() => loop.counters.parks > parks);
    sys.send(a, memory.address, 1, 0);
    await until(() => calls === 2);
    watch.close();
    buffers.release(memory);
    sys.close(a);
    sys.close(b);
  });
});

Deno.test("a handler that throws is reported and the loop goes on", async () => {
  const errors: unknown[] = [];
  await withContext(async ({ loop }) => {
    loop.defer(() => {
      throw new Error("first");
    });
    loop.timer(1e6, () => {
      throw new Error("second");
    });
    await loop.sleep(3e6);
    // In either order: where the CPU is lost for a while, the timer comes first.
    const messages = errors.map((error) => (error as Error).message).sort();
    assert.deepEqual(messages, ["first", "second"]);
  }, (error) => errors.push(error));
});

Deno.test("stop leaves no thread, and contexts can share the poller", async () => {
  // The first Worker of a process also starts helpers of the runtime that stay.
  await withContext(async ({ loop }) => {
    loop.defer(() => {});
    await until(() => loop.counters.parks > 0);
  });
  const before = threads();
  await withContext(async (first) => {
    const second = createContext({ name: "second", poller: first.poller });
    second.loop.configure({ pollMaxNs: 0 });
    first.loop.defer(() => {});
    const [a, b] = pair(second);
    const memory = second.buffers.acquire(8);
    const { promise, resolve } = Promise.withResolvers<void>();
    const watch = second.loop.watch(b, EPOLL.IN, () => {
      watch.close();
      resolve();
    });
    await until(() => second.loop.counters.parks > 0 && first.loop.counters.parks > 0);
    check(second.sys.send(a, memory.address, 1, 0), "send");
    await promise;
    second.buffers.release(memory);
    second.sys.close(a);
    second.sys.close(b);
    await second.close();
  });
  await until(() => threads() <= before);
});

Deno.test("a loop stopped with a watch open says so and is stopped all the same", async () => {
  const context = createContext({ name: "test" });
  const [a, b] = pair(context);
  context.loop.watch(a, EPOLL.IN, () => {});
  context.sys.close(b);
  await assert.rejects(context.loop.stop(), /watches open/);
  context.sys.close(a);
  await context.close().catch(() => {});
});

Deno.test("a loop that sleeps uses no processor time", async () => {
  await withContext(async ({ loop }) => {
    loop.defer(() => {});
    await until(() => loop.counters.parks > 0);
    const { turns, wakes } = loop.counters;
    await loop.sleep(50e6); // five times the time in which it naps
    // The timer's own turns only; nothing woke it in between.
    assert(loop.counters.turns - turns < 20, `${loop.counters.turns - turns} turns`);
    assert.equal(loop.counters.wakes, wakes);
  });
});

Deno.test("idle buffers go back to the kernel", async () => {
  await withContext(async ({ loop, buffers }) => {
    buffers.release(buffers.acquire(1 << 20));
    assert.equal(buffers.kept, 1 << 20);
    loop.defer(() => {});
    await until(() => buffers.kept === 0);
  });
});

Deno.test("contexts come and go without leaving descriptors", async () => {
  const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
  const round = () =>
    withContext(async ({ loop, sys }) => {
      await loop.sleep(1e6);
      assert.equal(await sys.pool.fsync(-1), -9);
    });
  await round();
  const before = descriptors();
  // The runtime lets go of an ended Worker's own descriptors a little later: a leak of ours would be 20 at least.
  for (let i = 0; i < 20; i++) await round();
  await until(() => descriptors() < before + 10);
});

Deno.test("a poller thread that cannot run slows the loop down, and does not stop it", async () => {
  const owner = createContext({ name: "owner" }); // never parks: its thread is not started
  const context = createContext({ name: "test", poller: owner.poller });
  const { sys, loop } = context;
  const [a, b] = pair(context);
  const memory = context.buffers.acquire(8);
  let calls = 0;
  const watch = loop.watch(b, EPOLL.IN, () => {
    calls++;
    sys.recv(b, memory.address, 8, 0);
  });
  await until(() => loop.counters.parks > 0);
  sys.send(a, memory.address, 1, 0);
  failPoller(owner.poller); // wakes those that sleep
  await until(() => calls === 1);
  const { parks } = loop.counters;
  await until(() => loop.counters.parks > parks);
  sys.send(a, memory.address, 1, 0);
  await until(() => calls === 2);
  watch.close();
  sys.close(a);
  sys.close(b);
  context.buffers.release(memory);
  await context.close();
  await owner.close();
});
