/** Socket addresses (QAPI sockets): flat for the command line, nested ("legacy") for older commands. */
import { bool, enumeration, type Infer, opt, str, struct, uint16, uint32, union } from "./core.ts";

/** Where an address lives. */
export const SocketAddressType = enumeration("SocketAddressType", ["inet", "unix", "vsock", "fd"]);

/** TCP. `port` is a number or a service name; `to`: the last of the ports to try. */
export const InetSocketAddress = struct("InetSocketAddress", {
  host: str,
  port: str,
  numeric: opt(bool),
  to: opt(uint16),
  ipv4: opt(bool),
  ipv6: opt(bool),
  "keep-alive": opt(bool),
  mptcp: opt(bool),
  // Of QEMU 10.1; the times in seconds.
  "keep-alive-count": opt(uint32),
  "keep-alive-idle": opt(uint32),
  "keep-alive-interval": opt(uint32),
});

/** A Unix socket. An empty path stands for one made up by the server. */
export const UnixSocketAddress = struct("UnixSocketAddress", {
  path: str,
  abstract: opt(bool),
  tight: opt(bool),
});

/** A socket between a host and its guests; both members are numbers. */
export const VsockSocketAddress = struct("VsockSocketAddress", { cid: str, port: str });

/** An inherited descriptor, by number. */
export const FdSocketAddress = struct("String", { str });

/** Flat: members beside the type. */
export const SocketAddress = union("SocketAddress", { type: SocketAddressType }, "type", {
  inet: InetSocketAddress,
  unix: UnixSocketAddress,
  vsock: VsockSocketAddress,
  fd: FdSocketAddress,
});
/** As SocketAddress's value. */
export type SocketAddressValue = Infer<typeof SocketAddress>;

/** Nested: members in `data`. */
export const SocketAddressLegacy = union(
  "SocketAddressLegacy",
  { type: SocketAddressType },
  "type",
  {
    inet: struct("InetSocketAddressWrapper", { data: InetSocketAddress }),
    unix: struct("UnixSocketAddressWrapper", { data: UnixSocketAddress }),
    vsock: struct("VsockSocketAddressWrapper", { data: VsockSocketAddress }),
    fd: struct("FdSocketAddressWrapper", { data: FdSocketAddress }),
  },
);
/** As SocketAddressLegacy's value. */
export type SocketAddressLegacyValue = Infer<typeof SocketAddressLegacy>;

/** The flat form of a nested address. */
export function flattenAddress(address: SocketAddressLegacyValue): SocketAddressValue {
  return { type: address.type, ...address.data } as SocketAddressValue;
}
