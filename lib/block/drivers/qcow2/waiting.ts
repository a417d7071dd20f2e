/** Results that are there, or a promise after which to ask again: how the parts of an image work without waiting. */

/** Whether there is something to wait for first. */
export function mustWait<T>(value: T | Promise<void>): value is Promise<void> {
  return value instanceof Promise;
}
