/** `cache-clean-interval`: slices and blocks that nobody has used for that long give their memory back. */
import type { Image } from "./image.ts";

/** That of one image, from `start` to `stop`. */
export class CacheCleaner {
  #timer: { cancel(): void } | undefined;

  constructor(private readonly image: Pick<Image, "context" | "map" | "options" | "refcounts">) {}

  start(): void {
    const { context, options } = this.image;
    const seconds = options.cacheCleanInterval;
    if (seconds === 0 || this.#timer !== undefined) return;
    this.#timer = context.loop.timer(seconds * 1e9, () => {
      const { map, refcounts } = this.image;
      map.cache.clean();
      refcounts.cache.clean();
      this.#timer = undefined;
      this.start();
    });
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}
