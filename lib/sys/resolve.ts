/** Host names by getaddrinfo on the thread pool: /etc/hosts, DNS and whatever nsswitch.conf says. */
import { type Libc, nativeBuffer } from "./ffi.ts";
import { getSockaddr } from "./inet.ts";
import { getU64 } from "./layout.ts";
import { cstring, hasNul } from "./memory.ts";
import type { Memory, SocketAddress } from "./types.ts";

const RESULT_AT = 2048;
const HINTS_AT = 1024;
const ADDRINFO_SIZE = 48;
const EAI_NONAME = -2;

/** A name could not be resolved. The message is the resolver's own text, as "Name or service not known". */
export class ResolveError extends Error {
  override readonly name = "ResolveError";

  /** `code`: EAI_*, negative. */
  constructor(readonly host: string, readonly code: number, text: string) {
    super(text);
  }
}

/** Addresses of `host` for stream sockets, in the resolver's order. Throws ResolveError. */
export async function resolveHost(
  memory: { allocate(length: number): Memory },
  libc: Libc,
  host: string,
  port: number,
): Promise<SocketAddress[]> {
  const name = cstring(host);
  if (hasNul(host) || name.length > HINTS_AT) throw failure(libc, host, EAI_NONAME);
  const scratch = memory.allocate(4096);
  try {
    scratch.bytes.set(name);
    scratch.view.setInt32(HINTS_AT + 8, 1, true); // ai_socktype = SOCK_STREAM
    const { address } = scratch;
    const rc = await libc.pooled.getaddrinfo(address, 0, address + HINTS_AT, address + RESULT_AT);
    if (rc !== 0) throw failure(libc, host, rc);
    const first = getU64(scratch.view, RESULT_AT);
    try {
      return readList(first, port);
    } finally {
      libc.rare.freeaddrinfo(BigInt(first));
    }
  } finally {
    scratch.unmap();
  }
}

/** Walks struct addrinfo: ai_addrlen u32 at 16, ai_addr at 24, ai_next at 40. */
function readList(first: number, port: number): SocketAddress[] {
  const out: SocketAddress[] = [];
  for (let at = first; at !== 0;) {
    const info = new DataView(nativeBuffer(at, ADDRINFO_SIZE));
    const length = info.getUint32(16, true);
    const found = getSockaddr(new Uint8Array(nativeBuffer(getU64(info, 24), length)), length);
    if (found !== undefined && (found.family === "inet" || found.family === "inet6")) {
      out.push({ ...found, port });
    }
    at = getU64(info, 40);
  }
  return out;
}

function failure(libc: Libc, host: string, code: number): ResolveError {
  const text = libc.rare.gai_strerror(code);
  const message = text === null ? `error ${code}` : Deno.UnsafePointerView.getCString(text);
  return new ResolveError(host, code, message);
}
