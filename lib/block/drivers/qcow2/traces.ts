/** The trace points of a qcow2 node: what it looks up, allocates and writes back behind its requests. */
import type { Context, TracePoint } from "../../../sys/mod.ts";

/** The points of one image. */
export interface Qcow2Traces {
  /** Clusters were taken in the image file. */
  readonly allocate: TracePoint;
  /** Changed tables and counts are written. */
  readonly flush: TracePoint;
}

/** The points of an image in `context`. */
export function qcow2Traces(context: Context): Qcow2Traces {
  return {
    allocate: context.trace("qcow2_do_alloc_clusters_offset"),
    flush: context.trace("qcow2_cache_flush"),
  };
}

/** A slice of a table is read: the cache did not have it. */
export function cacheReadTrace(context: Context): TracePoint {
  return context.trace("qcow2_cache_get_read");
}
