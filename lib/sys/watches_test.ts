import assert from "node:assert/strict";
import { EPOLL } from "./constants.ts";
import { LinuxSys } from "./linux.ts";
import { Watches } from "./watches.ts";

/** Runs `body` with the watches of no loop and a connected pair of sockets. */
function withPair(
  body: (sys: LinuxSys, watches: Watches, pair: readonly [number, number]) => void,
) {
  const sys = new LinuxSys();
  try {
    const watches = new Watches(sys, (error) => assert.fail(String(error)));
    const pair = sys.socketpair();
    assert(typeof pair !== "number");
    body(sys, watches, pair);
    assert.deepEqual(watches.close(), []);
  } finally {
    sys.dispose();
  }
}

for (const urgent of [false, true]) {
  const which = urgent ? "an urgent watch" : "a watch";
  Deno.test(`the peer's hang-up wakes nobody while ${which} is paused`, () => {
    withPair((sys, watches, [ours, theirs]) => {
      const seen: number[] = [];
      const watch = watches.add(ours, EPOLL.IN, (events) => seen.push(events), urgent);
      watch.set(0);
      sys.close(theirs);
      assert.equal(watches.wait(0), false, "or a loop would turn for nothing, without end");
      watch.set(EPOLL.IN);
      assert.equal(watches.dispatch(0), true);
      assert.equal(seen.length, 1);
      assert.equal(seen[0]! & EPOLL.HUP, EPOLL.HUP);
      watch.set(0);
      assert.equal(watches.wait(0), false);
      watch.close();
      sys.close(ours);
    });
  });

  Deno.test(`${which} that begins paused hears nothing until it is set`, () => {
    withPair((sys, watches, [ours, theirs]) => {
      sys.close(theirs);
      let heard = 0;
      const watch = watches.add(ours, 0, () => void heard++, urgent);
      assert.equal(watches.wait(0), false);
      watch.set(EPOLL.IN);
      assert.equal(watches.dispatch(0), true);
      assert.equal(heard, 1);
      watch.close();
      assert.equal(watches.wait(0), false);
      sys.close(ours);
    });
  });
}

Deno.test("what cannot be watched is refused at once, paused or not", () => {
  withPair((sys, watches, [ours, theirs]) => {
    const fd = sys.open("/proc/self/cmdline", 0);
    for (const events of [EPOLL.IN, 0]) {
      assert.throws(() => watches.add(fd, events, () => {}, false), { code: "EPERM" });
    }
    for (const one of [fd, ours, theirs]) sys.close(one);
  });
});
