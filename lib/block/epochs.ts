/**
 * Generations of requests: for drivers that must know when everything that was in flight at some moment has
 * ended, without holding anything back. A format that uses space again needs it: whoever located that space
 * before it was given up may still be reading or writing there.
 */
import { isPromise, type MaybePromise } from "../base/mod.ts";

/** Requests that began in the same generation. */
class Epoch {
  count = 0;
  /** Set when a later generation has begun and somebody waits for this one. */
  ended: (() => void) | undefined;
}

/** The requests of one node that are in flight, by generation. */
export class RequestEpochs {
  #current = new Epoch();
  /** Resolves when all earlier generations have ended; undefined: they have. */
  #earlier: Promise<void> | undefined;

  /** Counts a request until `result` settles; what is done already is not counted. */
  track(result: MaybePromise<void>): MaybePromise<void> {
    if (!isPromise(result)) return result;
    const epoch = this.#current;
    epoch.count++;
    const leave = () => {
      if (--epoch.count === 0) epoch.ended?.();
    };
    return result.then(leave, (error) => {
      leave();
      throw error;
    });
  }

  /** Waits for all requests that are in flight now; later ones do not matter. Undefined: there are none. */
  settled(): Promise<void> | undefined {
    const epoch = this.#current;
    if (epoch.count === 0) return this.#earlier;
    this.#current = new Epoch();
    const own = new Promise<void>((resolve) => epoch.ended = resolve);
    const all: Promise<void> = Promise.all([this.#earlier, own]).then(() => {
      if (this.#earlier === all) this.#earlier = undefined;
    });
    this.#earlier = all;
    return all;
  }
}
