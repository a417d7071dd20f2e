/** The trace points of io_uring and of the thread pool, and points for those who are not given any. */
import type { TracePoint } from "./types.ts";

/** Finds a trace point by its name. */
type Trace = (name: string) => TracePoint;

/** What happens to calls on the thread pool. */
export interface PoolTraces {
  readonly submit: TracePoint;
  readonly complete: TracePoint;
}

/** The points of a context's pool. */
export function poolTraces(trace: Trace): PoolTraces {
  return { submit: trace("thread_pool_submit"), complete: trace("thread_pool_complete") };
}

/** What happens to an io_uring. */
export interface UringTraces {
  readonly init: TracePoint;
  readonly cleanup: TracePoint;
  /** A request is laid out. */
  readonly request: TracePoint;
  /** The kernel was given some. */
  readonly submitted: TracePoint;
  readonly completion: TracePoint;
}

/** The points of one io_uring. */
export function uringTraces(trace: Trace): UringTraces {
  return {
    init: trace("luring_init_state"),
    cleanup: trace("luring_cleanup_state"),
    request: trace("luring_co_submit"),
    submitted: trace("luring_do_submit_done"),
    completion: trace("luring_process_completion"),
  };
}

/** Points that are off. */
export function silentPoints(): Trace {
  const points = new Map<string, TracePoint>();
  return (name) => {
    let found = points.get(name);
    if (found === undefined) points.set(name, found = { name, enabled: false, emit() {} });
    return found;
  };
}
