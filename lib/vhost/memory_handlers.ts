/** Requests about memory that is shared: the guest's, the log of what is written there, the area of requests in flight. */
import type { MaybePromise } from "../base/mod.ts";
import { DirtyLog } from "./dirty.ts";
import { changing, type SessionState, takeFd, wantFeature } from "./handling.ts";
import { InflightArea } from "./inflight_area.ts";
import { mapRegion, type Region } from "./memory.ts";
import type { Message } from "./socket.ts";
import {
  Feature,
  has,
  inflightReply,
  parseInflight,
  parseLog,
  parseMemoryTable,
  parseRegion,
  ProtocolError,
  ProtocolFeature,
  Request,
  u64Reply,
} from "./wire.ts";

/** SET_MEM_TABLE. */
export function setMemTable(session: SessionState, message: Message): Promise<undefined> {
  const descriptions = parseMemoryTable(message.payload);
  if (message.fds.length !== descriptions.length) {
    throw new ProtocolError(
      `${descriptions.length} memory regions with ${message.fds.length} descriptors`,
    );
  }
  const mapped: Region[] = [];
  const drop = () => mapped.forEach((region) => region.unmap());
  try {
    descriptions.forEach((description, i) => {
      mapped.push(mapRegion(session.context, message.fds[i]!, description));
    });
    checkDisjoint(mapped);
  } catch (error) {
    drop();
    throw error;
  }
  return session.quiesced(session.queues, () => {
    session.memory.clear();
    for (const region of mapped) session.memory.add(region);
    return undefined;
  });
}

function checkDisjoint(regions: readonly Region[]): void {
  regions.forEach((one, i) => {
    for (const other of regions.slice(i + 1)) {
      if (one.guest < other.guestEnd && other.guest < one.guestEnd) {
        throw new ProtocolError("memory regions overlap");
      }
    }
  });
}

/** ADD_MEM_REG. */
export function addMemReg(session: SessionState, message: Message): MaybePromise<undefined> {
  wantFeature(session, ProtocolFeature.configureMemSlots);
  const description = parseRegion(message.payload);
  const fd = takeFd(message);
  let region: Region;
  try {
    region = mapRegion(session.context, fd, description);
  } finally {
    session.context.sys.close(fd);
  }
  const add = () => {
    try {
      session.memory.add(region);
    } catch (error) {
      region.unmap();
      throw error;
    }
  };
  return changing(session, session.queues, add);
}

/** REM_MEM_REG. */
export function remMemReg(session: SessionState, message: Message): MaybePromise<undefined> {
  wantFeature(session, ProtocolFeature.configureMemSlots);
  const region = session.memory.find(parseRegion(message.payload));
  if (region === undefined) throw new ProtocolError("there is no such memory region");
  return session.quiesced(session.queues, () => {
    session.memory.remove(region);
    return undefined;
  });
}

/** SET_LOG_BASE. */
export function setLogBase(session: SessionState, message: Message): Promise<Uint8Array> {
  wantFeature(session, ProtocolFeature.logShmfd);
  const { size, offset } = parseLog(message.payload);
  const fd = takeFd(message);
  let log: DirtyLog;
  try {
    log = DirtyLog.map(session.context.sys, fd, size, offset);
  } finally {
    session.context.sys.close(fd);
  }
  return session.quiesced(session.queues, () => {
    session.log?.memory.unmap();
    session.log = log;
    return u64Reply(Request.setLogBase, 0n);
  });
}

/** GET_INFLIGHT_FD. */
export function getInflightFd(session: SessionState, message: Message): undefined {
  wantFeature(session, ProtocolFeature.inflightShmfd);
  const { queues, queueSize } = parseInflight(message.payload);
  if (queues > session.queues.length) {
    throw new ProtocolError(`an in-flight area for ${queues} queues`);
  }
  const packed = has(session.features, Feature.ringPacked);
  const { sys } = session.context;
  // It is used once it comes back with SET_INFLIGHT_FD.
  const { fd, description } = InflightArea.make(sys, queues, queueSize, packed);
  try {
    session.sendWith(inflightReply(description), fd);
  } finally {
    sys.close(fd);
  }
}

/** SET_INFLIGHT_FD. */
export function setInflightFd(session: SessionState, message: Message): Promise<undefined> {
  wantFeature(session, ProtocolFeature.inflightShmfd);
  const description = parseInflight(message.payload);
  const fd = takeFd(message);
  let area: InflightArea;
  try {
    area = InflightArea.map(session.context.sys, fd, description);
  } finally {
    session.context.sys.close(fd);
  }
  return session.quiesced(session.queues, () => {
    session.inflight?.memory.unmap();
    session.inflight = area;
    return undefined;
  });
}
