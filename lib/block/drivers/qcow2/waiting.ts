/** Results that are there, or a promise after which to ask again: how the parts of an image work without waiting. */

/**
 * Asks until the answer is there, and acts on it in the same turn: after an await, be it of a promise that has
 * resolved, a slice may have lost its place to another.
 */
export async function whenThere<T, R>(
  ask: () => T | Promise<void>,
  act: (answer: T) => R,
): Promise<R> {
  for (;;) {
    const answer = ask();
    if (!mustWait(answer)) return act(answer);
    await answer;
  }
}

/** Whether there is something to wait for first. */
export function mustWait<T>(value: T | Promise<void>): value is Promise<void> {
  return value instanceof Promise;
}
