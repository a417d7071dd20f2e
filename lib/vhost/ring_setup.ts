/** Makes a queue's ring from what a front-end has said, in whichever context the queue runs. */
import type { Sys } from "../sys/mod.ts";
import type { DirtyLog } from "./dirty.ts";
import type { InflightRegion } from "./inflight.ts";
import type { GuestMemory } from "./memory.ts";
import { PackedRing, packedSizes } from "./packed.ts";
import type { QueueSettings } from "./session_queue.ts";
import type { Ring, RingParts } from "./ring.ts";
import { SplitRing, splitSizes } from "./split.ts";
import { Feature, has, ProtocolError, VRING_F_LOG } from "./wire.ts";

/** What rings are made among. */
export interface RingSurroundings {
  readonly sys: Sys;
  readonly memory: GuestMemory;
  readonly features: bigint;
  /** The queue's region of the in-flight log. */
  readonly inflight: InflightRegion | undefined;
  readonly log: DirtyLog | undefined;
}

/** Makes the ring of a queue. Throws RingError or ProtocolError when something is wrong with it. */
export function makeRing(around: RingSurroundings, queue: QueueSettings): Ring {
  const { memory, features, log } = around;
  const { index, size, addresses } = queue;
  if (addresses === undefined) throw new ProtocolError("a ring without addresses");
  const packed = has(features, Feature.ringPacked);
  const lengths = packed ? packedSizes(size) : splitSizes(size);
  const map = (user: number, length: number, align: number, what: string) => {
    const at = memory.userAddress(user, length);
    if (at < 0) throw new ProtocolError(`the ${what} of queue ${index} is not mapped`);
    if (at % align !== 0) throw new ProtocolError(`the ${what} of queue ${index} is not aligned`);
    return at;
  };
  const logged = log !== undefined && has(features, Feature.logAll) &&
    (addresses.flags & VRING_F_LOG) !== 0;
  const parts: RingParts = {
    sys: around.sys,
    memory,
    size,
    descriptor: map(addresses.descriptor, lengths.descriptor, 16, "descriptor table"),
    available: map(addresses.available, lengths.available, packed ? 4 : 2, "available ring"),
    used: map(addresses.used, lengths.used, 4, "used ring"),
    eventIdx: has(features, Feature.eventIdx),
    indirect: has(features, Feature.indirectDesc),
    inflight: around.inflight,
    log: logged ? log : undefined,
    logGuest: packed ? memory.guestAddress(addresses.descriptor) : addresses.log,
  };
  return packed ? new PackedRing(parts, queue.base) : new SplitRing(parts, queue.base);
}
