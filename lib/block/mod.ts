/** The block core: graph, seam, data engine. Drivers live in drivers/. */
export * from "./types.ts";
export * from "./backend_types.ts";
export type * from "./pages_types.ts";
export * from "./graph_types.ts";
export { PlacementRecord, PlanRecord } from "./placement.ts";
export { resolveLimits } from "./limits.ts";
export { zeroFill } from "./memory.ts";
export { FactsRound } from "./facts.ts";
export { emptyStatus } from "./status.ts";
export { Bounded } from "./bounded.ts";
export { BlockGraph } from "./graph.ts";
export { type KnownDriver, laterDriver } from "./later.ts";
export { blockCommands } from "./commands.ts";
export { MESSAGE_SEGMENTS, type NodeChannel, NodeOp } from "./forward.ts";
export { ReplicaGraph } from "./replica.ts";
export type * from "./thread_types.ts";
export type { InternalSnapshot, InternalSnapshots, NewSnapshot } from "./snapshots.ts";
export { PROBE_LENGTH, probeFormat } from "./probe.ts";
