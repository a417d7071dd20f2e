/** Synchronous when it can be, asynchronous when it must be. */

/** A result that is there already, or will be. */
export type MaybePromise<T> = T | Promise<T>;

/** Whether `value` still has to be awaited. */
export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return value instanceof Promise;
}

/** Calls `next` with the value: at once when it is there, later when it is not. */
export function chain<T, U>(
  value: MaybePromise<T>,
  next: (value: T) => MaybePromise<U>,
): MaybePromise<U> {
  return value instanceof Promise ? value.then(next) : next(value);
}
