/** What the main context and an IOThread's Worker post to each other. */
import { BlockError, CommandError, type ErrorClass } from "../base/mod.ts";
import type { PollerHandle } from "../sys/mod.ts";
import type { BellHandle } from "./bell.ts";
import type { LinkMemory } from "./link.ts";

/** The properties of an event loop that are set while it runs (QAPI EventLoopBaseProperties, IothreadProperties). */
export interface LoopProperties {
  /** Longest time of polling before sleeping, in nanoseconds; 0: none. */
  "poll-max-ns": number;
  /** How fast polling grows (a factor; 0: 2) and shrinks (a divisor; 0: to nothing). */
  "poll-grow": number;
  "poll-shrink": number;
  /** Most requests that an AIO engine submits at once; 0: the engine's choice. */
  "aio-max-batch": number;
  /** Threads of the pool that are kept ready, and that may be busy at once. */
  "thread-pool-min": number;
  "thread-pool-max": number;
}

/** What a thread says of itself. */
export interface ThreadCounters {
  /** The kernel's number of it, for taskset and the like. */
  readonly "thread-id": number;
  readonly turns: number;
  readonly parks: number;
  readonly wakes: number;
}

/** What a thread is started with. */
export interface ThreadStart {
  readonly name: string;
  readonly program: string;
  readonly poller: PollerHandle;
  /** The bell of the main context, and the thread's links with it. */
  readonly bell: BellHandle;
  readonly toThread: LinkMemory;
  readonly toMain: LinkMemory;
  readonly properties: LoopProperties;
  readonly tracing: TracingState;
}

/** Which trace events are on, and the descriptor that lines go to. */
export interface TracingState {
  readonly events: readonly string[];
  readonly fd: number;
}

/** The other end of a link between two threads. */
export interface LinkEnd {
  readonly peer: string;
  readonly bell: BellHandle;
  readonly memory: LinkMemory;
  readonly role: "client" | "server";
}

/** To the thread. `target`: the graph, the thread itself, or a part by its number. */
export type ToThread =
  | { readonly start: ThreadStart }
  | {
    /** 0: no answer is wanted. */
    readonly call: number;
    readonly target: "graph" | "thread" | number;
    readonly method: string;
    readonly args: readonly unknown[];
  };

/** From the thread. */
export type FromThread =
  | { readonly ready: BellHandle }
  | { readonly answer: number; readonly value: unknown }
  | { readonly answer: number; readonly error: SentError }
  | { readonly news: string; readonly args: readonly unknown[] }
  | { readonly part: number; readonly told: string; readonly args: unknown }
  | { readonly failed: string }
  | { readonly stopped: true };

/** An error on its way to another thread. */
export interface SentError {
  readonly kind: "command" | "block" | "other";
  readonly message: string;
  readonly errorClass?: ErrorClass;
  readonly errno?: string;
  readonly stack?: string;
}

/** Makes an error ready to be posted. */
export function sendError(error: unknown): SentError {
  if (error instanceof CommandError) {
    return { kind: "command", message: error.message, errorClass: error.errorClass };
  }
  if (error instanceof BlockError) {
    return { kind: "block", message: error.message, errno: error.errno };
  }
  const { message, stack } = error instanceof Error ? error : new Error(String(error));
  return { kind: "other", message, ...(stack === undefined ? {} : { stack }) };
}

/** The error that was posted. */
export function receiveError(sent: SentError): Error {
  if (sent.kind === "command") return new CommandError(sent.message, sent.errorClass);
  if (sent.kind === "block") return new BlockError(sent.errno ?? "EIO", sent.message);
  const error = new Error(sent.message);
  if (sent.stack !== undefined) error.stack = sent.stack;
  return error;
}
