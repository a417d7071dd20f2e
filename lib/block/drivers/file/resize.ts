/** Changes the length of a file; devices keep theirs. */
import { type Context, Errno, errnoName, errnoText } from "../../../sys/mod.ts";
import { BlockError } from "../../../base/mod.ts";
import type { TruncateOptions } from "../../mod.ts";
import type { OpenedFile } from "./open.ts";

/** Zeroes are written in pieces of this many bytes. */
const PIECE = 1024 * 1024;

/** Makes `file` `size` bytes long. BlockError; the length may then lie in between. */
export async function resizeFile(
  context: Context,
  file: OpenedFile,
  node: string,
  size: number,
  options: TruncateOptions,
): Promise<void> {
  const fail = (errno: string, message: string) =>
    new BlockError(errno, message, { node, op: "truncate" });
  const { preallocation } = options;
  if (file.kind !== "file") {
    if (preallocation !== "off") {
      const mode = `Preallocation mode '${preallocation}'`;
      throw fail("ENOTSUP", `${mode} unsupported for this non-regular file`);
    }
    if (size !== file.size && options.exact) throw fail("ENOTSUP", "Cannot resize device files");
    if (size > file.size) throw fail("EINVAL", "Cannot grow device files");
    return;
  }
  if (preallocation === "metadata") {
    throw fail("ENOTSUP", `Unsupported preallocation mode '${preallocation}'`);
  }
  if (preallocation !== "off" && size < file.size) {
    throw fail("ENOTSUP", "Preallocation can't be used for shrinking files");
  }
  const call = async (what: string, run: () => Promise<number>): Promise<void> => {
    let rc: number;
    do rc = await run(); while (rc === -Errno.EINTR);
    if (rc < 0) throw fail(errnoName(-rc), `${what}: ${errnoText(-rc)}`);
  };
  const { sys } = context;
  if (preallocation === "falloc") {
    if (size === file.size) return;
    const grow = () => sys.pool.fallocate(file.fd, 0, file.size, size - file.size);
    return await call("Could not preallocate data for the new file", grow);
  }
  await call("Could not resize file", () => sys.pool.ftruncate(file.fd, size));
  if (preallocation === "full") await fill(context, file, size, call, options.goOn);
}

/** Writes zeroes from the old end to the new one, so that all of it is allocated, and flushes them. */
async function fill(
  context: Context,
  file: OpenedFile,
  size: number,
  call: (what: string, run: () => Promise<number>) => Promise<void>,
  goOn: TruncateOptions["goOn"],
): Promise<void> {
  const { sys, buffers } = context;
  const buffer = buffers.acquire(PIECE);
  try {
    sys.fill(buffer.address, 0, PIECE);
    for (let at = file.size; at < size;) {
      goOn?.();
      await call("Could not write zeros for preallocation", async () => {
        const rc = await sys.pool.pwrite(file.fd, buffer.address, Math.min(PIECE, size - at), at);
        at += Math.max(rc, 0);
        return rc;
      });
    }
    await call("Could not flush file to disk", () => sys.pool.fsync(file.fd));
  } catch (error) {
    await sys.pool.ftruncate(file.fd, file.size);
    throw error;
  } finally {
    buffers.release(buffer);
  }
}
