/** Queues as their session uses them: what the front-end says of each, and what is done with them. */
import type { MaybePromise } from "../base/mod.ts";

/** Where the parts of a ring are, in the front-end's addresses. */
export interface QueueAddresses {
  readonly flags: number;
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  readonly log: number;
}

/** What a front-end says of a queue. */
export interface QueueSettings {
  readonly index: number;
  size: number;
  addresses: QueueAddresses | undefined;
  /** Where the ring begins, or where it ended. */
  base: number;
  enabled: boolean;
}

/** A queue as its session uses it; it runs in the session's context, or in a thread (remote_queue.ts). */
export interface SessionQueue extends QueueSettings {
  /** Requests in flight that the session's context knows of. */
  readonly inFlight: number;
  readonly running: boolean;
  /** Whether descriptors, memory and `enabled` can change while it runs; else it has to be detached. */
  readonly live: boolean;
  /** What it had in flight cannot be waited for: its thread has failed. */
  readonly lost: boolean;
  setKick(fd: number): void;
  setCall(fd: number): void;
  setErr(fd: number): void;
  refresh(): MaybePromise<void>;
  run(): boolean;
  sleeping(): boolean;
  hold(): void;
  unhold(): void;
  idle(): Promise<void>;
  detach(): void;
  stop(): void;
  close(): void;
  abandon(): void;
}

/** Tells all of them that the loop is about to sleep. Whether one has work. */
export function anySleeping(queues: readonly SessionQueue[]): boolean {
  let work = false;
  for (let i = 0; i < queues.length; i++) if (queues[i]!.sleeping()) work = true;
  return work;
}

/** Whether one of them has requests in flight. */
export function anyInFlight(queues: readonly SessionQueue[]): boolean {
  for (let i = 0; i < queues.length; i++) if (queues[i]!.inFlight > 0) return true;
  return false;
}

/** Forgets all of them, idle or not: what completes later is shown to nobody. */
export function closeAll(queues: readonly SessionQueue[]): void {
  for (const queue of queues) {
    queue.hold();
    queue.close();
  }
}
