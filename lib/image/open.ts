/** Opening the file, or the image, that a command is about. */
import { BlockError, CommandError, IoVec } from "../base/mod.ts";
import {
  type BlockBackend,
  BlockGraph,
  driverRegistry,
  type InternalSnapshots,
  Perm,
  PROBE_LENGTH,
  probeFormat,
} from "../block/mod.ts";
import { drivers } from "../block/drivers/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Context } from "../sys/mod.ts";

/** How a command uses an image. */
export interface Use {
  /** For messages: what is done. */
  readonly describe: string;
  readonly image: string;
  readonly writes: boolean;
  /** Others' locks do not matter. */
  readonly forceShare: boolean;
}

/** Where words go. */
export interface Output {
  out(text: string): void;
  /** A line on standard error. */
  err(line: string): void;
}

/** A command's own block graph. */
export function imageGraph(context: Context): BlockGraph {
  return new BlockGraph({
    context,
    drivers: driverRegistry(drivers),
    events: { emit: () => {} },
  });
}

/** `error` as what is said of an image that cannot be opened. */
export function unopened(image: string, error: CommandError | BlockError): CommandError {
  if (error.message.startsWith("Failed to load snapshot: ")) {
    return new CommandError(error.message);
  }
  const hints = error instanceof CommandError ? error.hints : [];
  return new CommandError(`Could not open '${image}': ${error.message}`, "GenericError", hints);
}

/** Runs `task`; what is refused is refused as an image that cannot be opened. */
async function opening<T>(image: string, task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (error) {
    if (error instanceof CommandError || error instanceof BlockError) throw unopened(image, error);
    throw error;
  }
}

function backendOf(graph: BlockGraph, node: string, use: Use): Promise<BlockBackend> {
  const writes = Perm.write | Perm.resize;
  return graph.backend(node, {
    describe: use.describe,
    needed: Perm.consistentRead | (use.writes ? writes : 0),
    shared: use.forceShare ? Perm.all : Perm.all & ~writes,
  });
}

/** The image's file, locked as somebody who reads it, or who writes to it, wants it; node `file`. */
export function openFile(context: Context, graph: BlockGraph, use: Use): Promise<BlockBackend> {
  const stat = context.sys.stat(use.image);
  const isBlockDevice = typeof stat === "object" && stat.kind === "block";
  const options: BlockdevOptionsValue = {
    driver: isBlockDevice ? "host_device" : "file",
    "node-name": "file",
    filename: use.image.replace(/^file:/, ""),
    "read-only": !use.writes,
    "force-share": use.forceShare,
  };
  return opening(use.image, async () => {
    await graph.add(options, { monitorOwned: true });
    return await backendOf(graph, "file", use);
  });
}

/** The format that the first bytes of `file` tell. */
export async function probe(context: Context, file: BlockBackend, image: string): Promise<string> {
  const { buffers } = context;
  const length = Math.min(PROBE_LENGTH, file.size);
  if (length === 0) return probeFormat(new Uint8Array(), image);
  const buffer = buffers.acquire(length);
  try {
    await file.read(0, IoVec.of(buffer.address, length));
    return probeFormat(buffer.bytes.subarray(0, length), image);
  } finally {
    buffers.release(buffer);
  }
}

/** An opened image. */
export interface OpenImage {
  readonly format: string;
  readonly backend: BlockBackend;
  /** Absent: the format has no such thing. */
  readonly snapshots: InternalSnapshots | undefined;
}

/** The image with its backing files; node `image`. `options` are those of its format's driver. */
export async function openImage(
  context: Context,
  graph: BlockGraph,
  use: Use & { readonly format?: string | undefined },
  options: Readonly<Record<string, unknown>> = {},
): Promise<OpenImage> {
  const file = await openFile(context, graph, use);
  try {
    const format = use.format ?? await opening(use.image, () => probe(context, file, use.image));
    if (!drivers.some(({ name, kind }) => name === format && kind === "format")) {
      throw unopened(use.image, new CommandError(`Unknown driver '${format}'`));
    }
    const all = {
      ...options,
      driver: format,
      "node-name": "image",
      file: "file",
      "read-only": !use.writes,
      "force-share": use.forceShare,
      discard: "unmap",
    } as BlockdevOptionsValue;
    // From now on the format says what is needed of its file.
    await file.setPermissions(Perm.none, Perm.all);
    await opening(use.image, () => graph.add(all, { monitorOwned: true }));
    const backend = await opening(use.image, () => backendOf(graph, "image", use));
    return { format, backend, snapshots: graph.find("image")?.instance.snapshots };
  } finally {
    await file.detach();
  }
}
