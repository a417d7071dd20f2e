/**
 * Chooses who carries out requests that may block, as the aio option asks and the machine allows.
 *
 * Unlike in QEMU the engine does not see every request: what the page cache answers at once is done inline
 * (transfer.ts), whichever engine was chosen. Under cache.direct it sees all of them.
 */
import { type Context, isRefused, openAio, openUring } from "../../../sys/mod.ts";
import { ThreadsEngine, type TransferEngine } from "./engine.ts";

/** What the aio options say. */
export interface EngineOptions {
  readonly aio?: "threads" | "native" | "io_uring";
  /** Most requests in one submission; 0: the engine's own choice. */
  readonly "aio-max-batch"?: number | bigint;
}

/**
 * The engine for a node. Where the machine refuses (containers commonly forbid io_uring) it is the thread pool,
 * and the log says so.
 */
export function chooseEngine(
  context: Context,
  node: string,
  options: EngineOptions,
): TransferEngine {
  const { aio = "threads", "aio-max-batch": batch = 0 } = options;
  if (aio === "threads") return new ThreadsEngine(context.sys);
  const open = aio === "native" ? openAio : openUring;
  const engine = open(context, { maxBatch: Number(batch) });
  if (!isRefused(engine)) return engine;
  context.log.warn(
    `node '${node}' uses threads: this system refuses aio=${aio}: ${engine.reason}`,
  );
  return new ThreadsEngine(context.sys);
}
