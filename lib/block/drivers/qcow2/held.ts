/**
 * Clusters that are free, and not used again yet, since clients may hold their pages (sent.ts). They are looked at again
 * when others are given back, the longer apart the longer nobody lets go of one.
 */
import type { Image } from "./image.ts";
import { AT_ONCE } from "./sent.ts";

/** Bytes of clusters with which data is no longer sent, but copied, until there are fewer. */
const MOST_BYTES = 64 * 1024 * 1024;
/** Clusters that are remembered; others are used again when the image is opened anew. */
const MOST_CLUSTERS = 65536;
/** How long they are left alone, in nanoseconds. */
const SOON = 50e6;
const LATE = 60e9;

/** What this needs of the image. */
type Owner = Pick<Image, "allocator" | "context" | "geometry" | "nodeName" | "sent">;

/** Those of one image. */
export class HeldClusters {
  readonly #clusters = new Set<number>();
  #next = 0;
  #pause = SOON;
  #told = false;

  constructor(private readonly image: Owner) {}

  /** Nobody uses the cluster, and somebody may hold its pages. */
  add(cluster: number): void {
    const { context, nodeName } = this.image;
    if (this.#clusters.size < MOST_CLUSTERS) this.#clusters.add(cluster);
    if (this.#told || !this.many) return;
    this.#told = true;
    context.log.warn(
      `node '${nodeName}': clients do not read what was sent to them; data is copied until they do, ` +
        "and many free clusters are not used",
    );
  }

  /** No more may be sent. */
  get many(): boolean {
    return this.#clusters.size * this.image.geometry.clusterSize >= MOST_BYTES ||
      this.#clusters.size >= MOST_CLUSTERS;
  }

  /** Whether it is time to look at them again. */
  get due(): boolean {
    return this.#clusters.size > 0 && this.image.context.sys.monotonicNs() >= this.#next;
  }

  /** Lets those be used again that nobody holds any more. */
  async lookAgain(): Promise<void> {
    const { sys } = this.image.context;
    this.#next = Infinity;
    const before = this.#clusters.size;
    try {
      const { clusterSize } = this.image.geometry;
      const most = AT_ONCE / clusterSize;
      const all = Float64Array.from(this.#clusters).sort();
      for (let at = 0; at < all.length;) {
        const from = at++;
        while (at < all.length && at - from < most && all[at] === all[at - 1]! + 1) at++;
        await this.#lookAt(all[from]!, at - from);
      }
    } finally {
      this.#pause = this.#clusters.size < before ? SOON : Math.min(2 * this.#pause, LATE);
      this.#next = sys.monotonicNs() + this.#pause;
    }
  }

  async #lookAt(first: number, count: number): Promise<void> {
    const { sent, allocator, geometry: { clusterSize } } = this.image;
    await sent.release(first * clusterSize, count * clusterSize, "contents");
    for (let cluster = first; cluster < first + count; cluster++) {
      if (sent.has(cluster)) continue;
      this.#clusters.delete(cluster);
      allocator.freed(cluster);
    }
  }
}
