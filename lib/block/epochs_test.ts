import assert from "node:assert/strict";
import { RequestEpochs } from "./epochs.ts";

/** Whether `promise` has settled when all microtasks have run. */
async function isSettled(promise: Promise<void>): Promise<boolean> {
  let settled = false;
  promise.then(() => settled = true);
  await new Promise<void>((resolve) => setTimeout(resolve, 0));
  return settled;
}

Deno.test("requests that are done at once are not waited for", () => {
  const epochs = new RequestEpochs();
  assert.equal(epochs.track(undefined), undefined);
  assert.equal(epochs.settled(), undefined);
});

Deno.test("settled waits for what was in flight, and not for what came later", async () => {
  const epochs = new RequestEpochs();
  const first = Promise.withResolvers<void>();
  const second = Promise.withResolvers<void>();
  const one = epochs.track(first.promise);
  const before = epochs.settled()!;
  const two = epochs.track(second.promise);
  const after = epochs.settled()!;
  assert.equal(await isSettled(before), false);
  first.resolve();
  await one;
  assert.equal(await isSettled(before), true);
  assert.equal(await isSettled(after), false);
  second.resolve();
  await two;
  await after;
  assert.equal(epochs.settled(), undefined);
});

Deno.test("settled waits for earlier generations, too, and for failures", async () => {
  const epochs = new RequestEpochs();
  const first = Promise.withResolvers<void>();
  const one = epochs.track(first.promise) as Promise<void>;
  epochs.settled();
  const later = epochs.settled()!;
  assert.equal(await isSettled(later), false);
  first.reject(new Error("no"));
  await assert.rejects(one, /no/);
  await later;
});
