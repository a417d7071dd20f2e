/** Making folders. */
import { cstring, hasNul } from "./memory.ts";
import { Errno } from "./errno.ts";
import type { Sys } from "./types.ts";

/** Numbers of mkdirat(2). */
const MKDIRAT = { x86_64: 258, aarch64: 34 } as const;

/** Makes folder `path`, which is absolute, for its owner only. Result: 0 or -errno. */
export function makeFolder(sys: Sys, path: string): number {
  if (!path.startsWith("/") || hasNul(path)) return -Errno.EINVAL;
  const name = cstring(path);
  const memory = sys.allocate(name.length);
  memory.bytes.set(name);
  // The folder that the path is relative to does not matter: it is absolute.
  const rc = sys.raw(MKDIRAT[sys.arch], 0, memory.address, 0o700);
  memory.unmap();
  return rc;
}
