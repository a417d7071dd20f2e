import assert from "node:assert/strict";
import { Bounded, MAX_PIECES } from "./bounded.ts";

Deno.test("no more than MAX_PIECES run at once, and all of them run", async () => {
  const bounded = new Bounded();
  const gates: (() => void)[] = [];
  let running = 0;
  let most = 0;
  const step = () =>
    new Promise<void>((resolve) => {
      most = Math.max(most, ++running);
      gates.push(() => {
        running--;
        resolve();
      });
    });
  const all = (async () => {
    for (let i = 0; i < 3 * MAX_PIECES; i++) await bounded.run(step);
    await bounded.finish();
  })();
  for (let done = 0; done < 3 * MAX_PIECES; done++) {
    while (gates.length === 0) await new Promise<void>((resolve) => setTimeout(resolve, 0));
    gates.shift()!();
  }
  await all;
  assert.equal(most, MAX_PIECES);
});

Deno.test("what completes at once needs no promise", () => {
  const bounded = new Bounded();
  assert.equal(bounded.run(() => undefined), undefined);
  assert.equal(bounded.finish(), undefined);
});

Deno.test("the failure noticed first is thrown, once everything has ended", async () => {
  const bounded = new Bounded();
  const slow = Promise.withResolvers<void>();
  let ended = false;
  bounded.run(() => slow.promise.finally(() => ended = true));
  bounded.run(() => Promise.reject(new Error("first")));
  bounded.run(() => {
    throw new Error("second");
  });
  assert.ok(bounded.failed);
  const outcome = assert.rejects(async () => await bounded.finish(), { message: "second" });
  slow.resolve();
  await outcome;
  assert.ok(ended);
});
