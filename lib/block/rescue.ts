/** Trying another way when a driver says that it cannot do something. */
import { isNotSupported, isPromise, type MaybePromise } from "../base/mod.ts";

/** Calls `act`, which is but advice: it is no failure that the driver cannot do it. */
export function asAdvice(act: () => MaybePromise<void>): MaybePromise<void> {
  return rescue(act, (error) => {
    if (!isNotSupported(error)) throw error;
  });
}

/** Calls `act`, and `otherwise` if it throws or rejects. */
export function rescue(
  act: () => MaybePromise<void>,
  otherwise: (error: unknown) => MaybePromise<void>,
): MaybePromise<void> {
  let result: MaybePromise<void>;
  try {
    result = act();
  } catch (error) {
    return otherwise(error);
  }
  return isPromise(result) ? result.catch(otherwise) : undefined;
}
