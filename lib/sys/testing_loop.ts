/** For tests of the loop: a context for each, and waiting for what it does. */
import assert from "node:assert/strict";
import { createContext, type OwnedContext } from "./context.ts";

/** Runs `body` with a context; whatever it throws, the context is closed. */
export async function withContext(
  body: (context: OwnedContext) => Promise<void>,
  onError?: (error: unknown) => void,
): Promise<void> {
  const context = createContext({ name: "test", ...(onError ? { onError } : {}) });
  try {
    await body(context);
  } finally {
    await context.close();
  }
}

/** A connected pair of sockets. */
export function pair(context: OwnedContext): readonly [number, number] {
  const pair = context.sys.socketpair();
  assert(typeof pair !== "number");
  return pair;
}

/** Resolves when `condition` holds, looking once per event-loop turn. */
export async function until(condition: () => boolean): Promise<void> {
  const limit = performance.now() + 20_000;
  while (!condition()) {
    assert(performance.now() < limit, "gave up waiting");
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}
