/** Counters of requests: of one user of a node (a backend), and of all that a node has and had. */
import type { BackendStatistics, OperationStatistics } from "./backend_types.ts";

const none = (): OperationStatistics => ({ operations: 0, bytes: 0, failed: 0 });

/** Counters at zero. */
export function noStatistics(): BackendStatistics {
  return { read: none(), write: none(), flush: none(), discard: none() };
}

/** Adds `more` to `total`. */
export function addStatistics(total: BackendStatistics, more: BackendStatistics): void {
  for (const kind of ["read", "write", "flush", "discard"] as const) {
    total[kind].operations += more[kind].operations;
    total[kind].bytes += more[kind].bytes;
    total[kind].failed += more[kind].failed;
  }
}

/** Begins at zero again: what was counted is kept elsewhere. */
export function resetStatistics(statistics: BackendStatistics): void {
  Object.assign(statistics, noStatistics());
}

/** Somebody above a node; users that count have `statistics`. */
interface Parent {
  readonly name: string;
  readonly statistics?: BackendStatistics;
}

/** What the users of a node in this context have asked of it: those that it has, and those that have gone. */
export function usersStatistics(
  node: { readonly parents: readonly Parent[]; readonly counted: BackendStatistics },
): BackendStatistics {
  const total = noStatistics();
  addStatistics(total, node.counted);
  for (const { statistics } of node.parents) {
    if (statistics !== undefined) addStatistics(total, statistics);
  }
  return total;
}
