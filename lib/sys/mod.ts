/** The machine: the only place that says Deno.*, dlopen, clocks and timers. See types.ts for the contract. */
export type * from "./types.ts";
export { openAio } from "./aio.ts";
export { type Codec, type CodecKind, openCodec } from "./compress.ts";
export { Libdeflate } from "./libdeflate.ts";
export { Libzstd } from "./libzstd.ts";
export * from "./constants.ts";
export { loadCrypto } from "./crypto.ts";
export * from "./context.ts";
export * from "./errno.ts";
export { makeFolder } from "./folders.ts";
export {
  adoptSocket,
  closeListening,
  keepAliveOf,
  type Listening,
  listenOn,
  portOf,
  protocolOf,
  setKeepAlive,
  unresolvedInet,
} from "./listen.ts";
export { LinuxSys } from "./linux.ts";
export { localTime } from "./local_time.ts";
export * from "./log.ts";
export { Pace } from "./pace.ts";
export { now } from "./now.ts";
export { knowsNoSplice } from "./pipes.ts";
export { KernelQueue } from "./kernel_queue.ts";
export * from "./process.ts";
export * from "./worker.ts";
export { type PollerHandle } from "./wakeup.ts";
export * from "./program.ts";
export * from "./respawn.ts";
export { isRefused, openUring, probeUring } from "./uring.ts";
