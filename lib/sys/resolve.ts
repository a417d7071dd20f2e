/** Names of hosts and services by getaddrinfo on the thread pool: /etc, DNS and whatever nsswitch.conf says. */
import { type Libc, nativeBuffer } from "./ffi.ts";
import { getSockaddr } from "./inet.ts";
import { getU64 } from "./layout.ts";
import { cstring, hasNul } from "./memory.ts";
import { SOCK } from "./constants.ts";
import type { Memory, SocketAddress } from "./types.ts";

const HINTS_AT = 1024;
const RESULT_AT = 2048;
const MAX_NAME = 1024;
const ADDRINFO_SIZE = 48;
const EAI_NONAME = -2;

/** A name could not be resolved. The message is the resolver's own text, as "Name or service not known". */
export class ResolveError extends Error {
  override readonly name = "ResolveError";

  /** `code`: EAI_*, negative. */
  constructor(readonly subject: string, readonly code: number, text: string) {
    super(text);
  }
}

/** What native memory comes from. */
type Allocator = { allocate(length: number): Memory };

/** Addresses of `host` for stream sockets, in the resolver's order. Throws ResolveError. */
export async function resolveHost(
  memory: Allocator,
  libc: Libc,
  host: string,
  port: number,
): Promise<SocketAddress[]> {
  const found = await lookUp(memory, libc, host, "host", SOCK.STREAM);
  return found.map((address) => ({ ...address, port }));
}

/** The port of a service, as "nbd" in /etc/services, for sockets of type `socktype`. Throws ResolveError. */
export async function resolveService(
  memory: Allocator,
  libc: Libc,
  service: string,
  socktype: number,
): Promise<number> {
  const [first] = await lookUp(memory, libc, service, "service", socktype);
  if (first === undefined) throw failure(libc, service, EAI_NONAME);
  return first.port;
}

type InetAddress = Extract<SocketAddress, { port: number; host: string }>;

async function lookUp(
  memory: Allocator,
  libc: Libc,
  text: string,
  what: "host" | "service",
  socktype: number,
): Promise<InetAddress[]> {
  const name = cstring(text);
  if (hasNul(text) || name.length > MAX_NAME) throw failure(libc, text, EAI_NONAME);
  const scratch = memory.allocate(4096);
  try {
    scratch.bytes.set(name);
    scratch.view.setInt32(HINTS_AT + 8, socktype, true); // ai_socktype
    const { address } = scratch;
    const [node, service] = what === "host" ? [address, 0] : [0, address];
    const rc = await libc.pooled.getaddrinfo(
      node,
      service,
      address + HINTS_AT,
      address + RESULT_AT,
    );
    if (rc !== 0) throw failure(libc, text, rc);
    const first = getU64(scratch.view, RESULT_AT);
    try {
      return readList(first);
    } finally {
      libc.rare.freeaddrinfo(BigInt(first));
    }
  } finally {
    scratch.unmap();
  }
}

/** Walks struct addrinfo: ai_addrlen u32 at 16, ai_addr at 24, ai_next at 40. */
function readList(first: number): InetAddress[] {
  const out: InetAddress[] = [];
  for (let at = first; at !== 0;) {
    const info = new DataView(nativeBuffer(at, ADDRINFO_SIZE));
    const length = info.getUint32(16, true);
    const found = getSockaddr(new Uint8Array(nativeBuffer(getU64(info, 24), length)), length);
    if (found !== undefined && (found.family === "inet" || found.family === "inet6")) {
      out.push(found);
    }
    at = getU64(info, 40);
  }
  return out;
}

function failure(libc: Libc, name: string, code: number): ResolveError {
  const text = libc.rare.gai_strerror(code);
  const message = text === null ? `error ${code}` : Deno.UnsafePointerView.getCString(text);
  return new ResolveError(name, code, message);
}
