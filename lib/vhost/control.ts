/** The export type vhost-user-blk: what block-export-add does, in the main context or in an IOThread. */
import { CommandError } from "../base/mod.ts";
import { type BlockBackend, Perm } from "../block/mod.ts";
import type { ExportInstance, ExportSurroundings, ExportType } from "../export/mod.ts";
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";
import { type Context, listenOn } from "../sys/mod.ts";
import type { VhostOptions, VhostUserBlkExport } from "./export.ts";
import type { RemoteVhostExport } from "./thread_part.ts";
import type { ThreadsVhostExport } from "./threads_export.ts";

/** Bounds of logical-block-size in bytes. */
const MIN_BLOCK = 512;
const MAX_BLOCK = 2 * 1024 * 1024;

/** Bytes; 0 stands for the default, as in the original. */
function blockSize({ "logical-block-size": size }: VhostOptions): number {
  return size === undefined || size === 0 ? MIN_BLOCK : size;
}

/** Makes exports. Register it as an export type. */
export class VhostUserBlk implements ExportType {
  readonly type = "vhost-user-blk";
  readonly needs = Perm.none;
  readonly unshared = Perm.none;
  readonly divides = true;
  readonly #context: Context;
  readonly #exports = new Set<VhostUserBlkExport | RemoteVhostExport | ThreadsVhostExport>();

  constructor(context: Context) {
    this.#context = context;
  }

  precheck(options: BlockExportOptionsValue): void {
    if (options.type !== this.type) return;
    const size = blockSize(options);
    const property = `Property ${options.id}.logical-block-size doesn't take value`;
    if (size < MIN_BLOCK || size > MAX_BLOCK) {
      throw new CommandError(`${property} ${size} (minimum: ${MIN_BLOCK}, maximum: ${MAX_BLOCK})`);
    }
    if (!Number.isInteger(Math.log2(size))) {
      throw new CommandError(`${property} '${size}', it's not a power of 2`);
    }
    if (options["num-queues"] === 0) throw new CommandError("num-queues must be greater than 0");
    if (options.addr.type !== "unix" && options.addr.type !== "fd") {
      throw new CommandError("Only socket address types 'unix' and 'fd' are supported");
    }
  }

  async create(
    backend: BlockBackend,
    given: BlockExportOptionsValue,
    around: ExportSurroundings,
  ): Promise<ExportInstance> {
    const { BACKLOG, VhostUserBlkExport } = await import("./export.ts");
    const { RemoteVhostExport } = await import("./thread_part.ts");
    const { ThreadsVhostExport } = await import("./threads_export.ts");
    const asked = given as VhostOptions;
    const options: VhostOptions = { ...asked, "logical-block-size": blockSize(asked) };
    const listening = await listenOn(this.#context, options.addr, BACKLOG);
    // Those that no queue would run in are not needed.
    const threads = around.threads.slice(0, options["num-queues"] ?? 1);
    const thread = around.thread ?? around.placeOf();
    const made = threads.length > 1
      ? await ThreadsVhostExport.start({
        context: this.#context,
        backend,
        around,
        threads,
        options,
        listening,
      })
      : thread === undefined
      ? new VhostUserBlkExport(this.#context, backend, options, listening)
      : await RemoteVhostExport.start(this.#context, around, thread, {
        node: backend.node.name,
        options,
        listening,
      });
    this.#exports.add(made);
    made.onGone = () => this.#exports.delete(made);
    return made;
  }

  /** For an end without a stop: removes the socket files. */
  abandon(): void {
    for (const one of this.#exports) one.unlink();
  }
}
