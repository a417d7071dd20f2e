/** The trace points of vhost-user-blk exports: messages of a session, requests of its queues. */
import type { Context, TracePoint } from "../sys/mod.ts";

/** The points of one socket. */
export interface SocketTraces {
  /** A message was received. */
  readonly read: TracePoint;
  /** One is sent. */
  readonly write: TracePoint;
}

/** The points of a session's socket in `context`. */
export function socketTraces(context: Context): SocketTraces {
  return { read: context.trace("vhost_user_read"), write: context.trace("vhost_user_write") };
}

/** The points of one device. */
export interface DeviceTraces {
  readonly read: TracePoint;
  readonly write: TracePoint;
}

/** The points of a device whose requests run in `context`. */
export function deviceTraces(context: Context): DeviceTraces {
  return {
    read: context.trace("virtio_blk_handle_read"),
    write: context.trace("virtio_blk_handle_write"),
  };
}
