/** Parts of exports that run in threads: what they are, and what they find there. */
import type { MaybePromise } from "../base/mod.ts";
import type { BackendOptions, BlockBackend } from "../block/mod.ts";
import type { Context } from "../sys/mod.ts";

/** Something of an export that runs in a thread. */
export interface ThreadPart {
  /** What the main context asks; the value is posted back. Throws CommandError. */
  call?(method: string, args: unknown): MaybePromise<unknown>;
  /** Ends it: resolves when nothing of it is in flight and its backends are detached. */
  stop(): MaybePromise<void>;
  /** The thread has failed: close what clients hold on to, and do nothing else. */
  abandon?(): void;
}

/** What a part finds in its thread. */
export interface PartHost {
  readonly context: Context;
  /** Attaches to a node; the main context has attached for it before, and holds the permissions. */
  attach(node: string, options: BackendOptions): BlockBackend;
  /** Tells the main context something; see ThreadUser.told. */
  tell(method: string, args: unknown): void;
}

/** What can be started in a thread, by name. Options and answers can be posted. */
export interface ThreadPartKind {
  readonly kind: string;
  start(host: PartHost, options: unknown): MaybePromise<ThreadPart>;
}

/** A kind whose code `load` brings, when the first one is started. */
export function laterPart(kind: string, load: () => Promise<ThreadPartKind>): ThreadPartKind {
  return {
    kind,
    start: async (host, options) => await (await load()).start(host, options),
  };
}
