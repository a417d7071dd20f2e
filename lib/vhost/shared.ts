/**
 * What a session gives to queues that run in other threads: plain data that can be posted. Memory is mapped once, by
 * the session, for the whole process; others use its addresses, and the session unmaps it when they have let go.
 */
import type { InflightDescription } from "./wire.ts";

/** A region of guest memory. Bytes, and addresses: the guest's, the front-end's, ours. */
export interface SharedRegion {
  readonly guest: number;
  readonly user: number;
  readonly size: number;
  readonly address: number;
}

/** Memory that is mapped at `address`. */
export interface SharedMemory {
  readonly address: number;
  readonly size: number;
}

/** The in-flight log of all queues. */
export interface SharedInflight extends SharedMemory {
  readonly description: InflightDescription;
}

/** What the driver set the device to. */
export interface DeviceState {
  readonly features: bigint;
  readonly writeCache: boolean;
}

/** A session, as of now. */
export interface SharedSession extends DeviceState {
  readonly regions: readonly SharedRegion[];
  readonly inflight: SharedInflight | undefined;
  readonly log: SharedMemory | undefined;
}
