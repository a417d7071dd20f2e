import assert from "node:assert/strict";
import { createContext } from "./context.ts";
import { Errno } from "./errno.ts";
import { LinuxSys } from "./linux.ts";

Deno.test("what a handler throws is logged with its stack, and the loop goes on", async () => {
  const messages: string[] = [];
  const error = (message: string) => void messages.push(message);
  const log = { error, warn: error, info: error };
  const context = createContext({ name: "test", log });
  function clumsy(): never {
    throw new TypeError("our mistake");
  }
  context.loop.defer(clumsy);
  context.loop.defer(() => {
    // deno-lint-ignore no-throw-literal
    throw "not even an Error";
  });
  await new Promise<void>((resolve) => context.loop.defer(resolve));
  assert.equal(messages.length, 2);
  assert.match(messages[0]!, /^TypeError: our mistake\n +at clumsy /);
  assert.equal(messages[1], "not even an Error");
  await context.close();
});

Deno.test("a machine that was handed in outlives the context", async () => {
  const sys = new LinuxSys();
  const context = createContext({ name: "test", sys });
  assert.equal(context.sys, sys);
  await context.close();
  await context.close();
  assert.equal(sys.close(-1), -Errno.EBADF);
  sys.dispose();
});

Deno.test("a context that is closed at once waits for the pool threads that were asked for", async () => {
  const context = createContext({ name: "test" });
  context.configure({
    "poll-max-ns": 32768,
    "poll-grow": 0,
    "poll-shrink": 0,
    "aio-max-batch": 0,
    "thread-pool-min": 64,
    "thread-pool-max": 64,
  });
  await context.close();
});
