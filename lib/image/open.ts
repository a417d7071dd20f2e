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
import { type ImageOpts, parseImageOpts } from "./image_opts.ts";
import type { ImageAccess } from "./words.ts";

/** How a command uses an image. */
export interface Use {
  /** For messages: what is done. */
  readonly describe: string;
  readonly image: string;
  readonly writes: boolean;
  /** Others' locks do not matter. */
  readonly forceShare: boolean;
  /** `image`, where it is options. */
  readonly opts?: ImageOpts | undefined;
}

/** `use` of an image that is given by its name, or as options. Throws CommandError. */
export function useOf(
  context: Context,
  use: Pick<Use, "describe" | "image" | "writes">,
  { imageOpts, forceShare }: ImageAccess,
): Use {
  if (!imageOpts) return { ...use, forceShare };
  try {
    const opts = parseImageOpts(context, use.image);
    if (use.writes && opts.readOnly) throw new CommandError("Block node is read-only");
    return { ...use, opts, forceShare: forceShare || opts.forceShare };
  } catch (error) {
    if (error instanceof CommandError) throw unopened(use.image, error);
    throw error;
  }
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
  const options = {
    "node-name": "file",
    "read-only": !use.writes,
    "force-share": use.forceShare,
    ...(use.opts?.file ?? fileOptions(context, use.image)),
  } as BlockdevOptionsValue;
  return opening(use.image, async () => {
    await graph.add(options, { monitorOwned: true });
    return await backendOf(graph, options["node-name"]!, use);
  });
}

function fileOptions(context: Context, image: string): BlockdevOptionsValue {
  const stat = context.sys.stat(image);
  const isBlockDevice = typeof stat === "object" && stat.kind === "block";
  return {
    driver: isBlockDevice ? "host_device" : "file",
    filename: image.replace(/^file:/, ""),
  };
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
  const { opts } = use;
  if (opts?.isProtocol) return { format: opts.driver!, backend: file, snapshots: undefined };
  try {
    const format = use.format ?? opts?.driver ??
      await opening(use.image, () => probe(context, file, use.image));
    if (!drivers.some(({ name, kind }) => name === format && kind === "format")) {
      throw unopened(use.image, new CommandError(`Unknown driver '${format}'`));
    }
    const all = {
      "node-name": "image",
      "read-only": !use.writes,
      "force-share": use.forceShare,
      discard: "unmap",
      ...await opening(use.image, () => Promise.resolve(opts?.typed(format))),
      ...options,
      driver: format,
      file: file.node.name,
    } as BlockdevOptionsValue;
    // From now on the format says what is needed of its file.
    await file.setPermissions(Perm.none, Perm.all);
    await opening(use.image, () => graph.add(all, { monitorOwned: true }));
    const name = all["node-name"]!;
    const backend = await opening(use.image, () => backendOf(graph, name, use));
    return { format, backend, snapshots: graph.find(name)?.instance.snapshots };
  } finally {
    await file.detach();
  }
}
