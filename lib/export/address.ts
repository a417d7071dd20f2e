/** Socket addresses in words. */
import type { SocketAddress } from "../sys/mod.ts";

/** As `unix:PATH`, `unix:@NAME`, `HOST:PORT`; undefined for an error in the address's place. */
export function addressText(address: SocketAddress | number): string | undefined {
  if (typeof address === "number") return undefined;
  switch (address.family) {
    case "unix":
      return `unix:${address.path.replace(/^\0/, "@")}`;
    case "inet":
      return `${address.host}:${address.port}`;
    case "inet6":
      return `[${address.host}]:${address.port}`;
    default:
      return `vsock:${address.cid}:${address.port}`;
  }
}
