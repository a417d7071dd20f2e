/**
 * An IOThread as the main context sees it: starts the Worker, asks it for things, carries requests to the nodes that
 * live there and back, and notices its end. Calls are carried out in the order in which they are made.
 */
import { assert, CommandError } from "../base/mod.ts";
import type { GraphThread, NodeChannel, ReplicaCalls, ReplicaNews } from "../block/mod.ts";
import { type Context, startWorker, type WorkerThread } from "../sys/mod.ts";
import { type BellHandle, Ringer } from "./bell.ts";
import { LinkClient, linkMemory, LinkServer } from "./link.ts";
import {
  type FromThread,
  type LinkEnd,
  type LoopProperties,
  receiveError,
  type ThreadCounters,
  type ThreadStart,
  type ToThread,
  type TracingState,
} from "./messages.ts";
import type { ThreadHub } from "./hub.ts";

/** What hears a part that runs in a thread. */
export interface PartListener {
  /** The part tells something; see PartHost.tell. */
  told(method: string, args: unknown): void;
  /** The thread has failed, and the part with it. */
  lost(): void;
}

/** A part of an export that runs in a thread. */
export interface RemotePart {
  readonly thread: IoThread;
  /** See ThreadPart.call. Rejects when the thread has failed. */
  call(method: string, args: unknown): Promise<unknown>;
  /** As `call`, without an answer. */
  post(method: string, args: unknown): void;
  /** Resolves when nothing of it is in flight. Idempotent; fine when the thread has failed. */
  stop(): Promise<void>;
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: unknown): void;
}

/** A running IOThread. */
export class IoThread implements GraphThread {
  readonly name: string;
  readonly channel: NodeChannel;
  properties: LoopProperties;
  /** The bell of the thread, once it is ready. */
  bell: BellHandle | undefined;
  /** Set by Places.add. */
  news: ReplicaNews | undefined;
  readonly #hub: ThreadHub;
  readonly #context: Context;
  readonly #worker: WorkerThread;
  readonly #client: LinkClient;
  readonly #server: LinkServer;
  readonly #calls = new Map<number, Waiting>();
  readonly #parts = new Map<number, PartListener>();
  readonly #ready: Promise<void>;
  #settleReady: Waiting | undefined;
  #ringer: Ringer | undefined;
  #lastCall = 0;
  #lastPart = 0;
  #stopped: (() => void) | undefined;
  /** Why it does nothing any more. */
  failure: string | undefined;
  /** Threads that it can send requests to. */
  readonly #connected = new Set<string>();

  constructor(hub: ThreadHub, name: string, properties: LoopProperties) {
    this.#hub = hub;
    this.#context = hub.context;
    this.name = name;
    this.properties = properties;
    const [toThread, toMain] = [linkMemory(), linkMemory()];
    const ring = () => this.#ringer?.ring();
    const { served } = hub.places;
    this.#client = new LinkClient(
      toThread,
      ring,
      (handle) => served.byHandle(handle),
      (address) => hub.context.buffers.surrender(address),
    );
    this.channel = this.#client;
    this.#server = new LinkServer(toMain, ring, served);
    this.#ready = new Promise((resolve, reject) => {
      this.#settleReady = { resolve: () => resolve(), reject };
    });
    this.#ready.catch(() => {}); // it was reported
    this.#worker = startWorker(hub.program, name, {
      message: (message) => this.#receive(message as FromThread),
      failed: (message) => this.#fail(message),
    });
    const start: ThreadStart = {
      name,
      program: hub.programName,
      poller: hub.context.poller,
      bell: hub.bell.handle,
      toThread,
      toMain,
      properties,
      tracing: hub.tracing(),
    };
    this.#post({ start });
  }

  get failed(): boolean {
    return this.failure !== undefined;
  }

  /** Resolves when it runs; rejects with CommandError when it could not be started. */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /** Requests and answers of the thread, looked for when the bell has rung. */
  poll(): void {
    this.#server.poll();
    this.#client.poll();
  }

  call<M extends keyof ReplicaCalls>(
    method: M,
    ...args: Parameters<ReplicaCalls[M]>
  ): Promise<Awaited<ReturnType<ReplicaCalls[M]>>> {
    return this.#ask("graph", method, args) as Promise<Awaited<ReturnType<ReplicaCalls[M]>>>;
  }

  post<M extends keyof ReplicaCalls>(method: M, ...args: Parameters<ReplicaCalls[M]>): void {
    this.#tell("graph", method, args);
  }

  /** Asks something of the thread itself (ThreadProgram.calls). */
  ask(method: string, ...args: readonly unknown[]): Promise<unknown> {
    return this.#ask("thread", method, args);
  }

  #ask(
    target: "graph" | "thread" | number,
    method: string,
    args: readonly unknown[],
  ): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.failure !== undefined) return reject(this.#gone());
      const call = ++this.#lastCall;
      this.#calls.set(call, { resolve, reject });
      this.#post({ call, target, method, args });
    });
  }

  #tell(target: "graph" | "thread" | number, method: string, args: readonly unknown[]): void {
    if (this.failure === undefined) this.#post({ call: 0, target, method, args });
  }

  #post(message: ToThread): void {
    this.#worker.post(message);
    this.#ringer?.ring();
  }

  #gone(): CommandError {
    return new CommandError(`IOThread '${this.name}' has failed`);
  }

  #receive(message: FromThread): void {
    if (this.failure !== undefined) return;
    if ("answer" in message) {
      const waiting = this.#calls.get(message.answer);
      this.#calls.delete(message.answer);
      if ("error" in message) waiting?.reject(receiveError(message.error));
      else waiting?.resolve(message.value);
    } else if ("part" in message) {
      this.#parts.get(message.part)?.told(message.told, message.args);
    } else if ("news" in message) {
      const news = this.news as unknown as Record<string, (...args: unknown[]) => void>;
      news?.[message.news]?.(...message.args);
    } else if ("ready" in message) {
      this.bell = message.ready;
      this.#ringer = new Ringer(this.#context.sys, message.ready);
      // Whatever was sent before found no bell.
      this.#ringer.ring();
      this.#settleReady?.resolve(undefined);
    } else if ("failed" in message) {
      this.#fail(message.failed);
    } else {
      this.#stopped?.();
    }
  }

  /** The thread has failed; everything that waits for it fails. */
  #fail(why: string): void {
    if (this.failure !== undefined) return;
    this.failure = why;
    this.#worker.terminate();
    this.#ringer?.close();
    this.#ringer = undefined;
    this.#settleReady?.reject(
      new CommandError(`IOThread '${this.name}' cannot be started: ${why}`),
    );
    this.#client.fail(`IOThread '${this.name}' has failed`);
    for (const { reject } of this.#calls.values()) reject(this.#gone());
    this.#calls.clear();
    this.#stopped?.();
    this.#hub.failed(this, why);
    for (const part of [...this.#parts.values()]) part.lost();
    this.#parts.clear();
  }

  /** Its number, and the counters of its loop. */
  async counters(): Promise<ThreadCounters> {
    return await this.ask("counters") as ThreadCounters;
  }

  /** Changes the properties, live. */
  configure(properties: LoopProperties): void {
    this.properties = properties;
    this.#tell("thread", "configure", [properties]);
  }

  /** Other trace events are on now. */
  trace(state: TracingState): void {
    this.#tell("thread", "trace", [state]);
  }

  /** Starts a part of an export. Options can be posted. Throws CommandError. */
  async start(kind: string, options: unknown, listener: PartListener): Promise<RemotePart> {
    const id = ++this.#lastPart;
    this.#parts.set(id, listener);
    try {
      await this.#ask("thread", "startPart", [id, kind, options]);
    } catch (error) {
      this.#parts.delete(id);
      throw error;
    }
    let stopping: Promise<void> | undefined;
    const stop = async () => {
      try {
        await this.#ask("thread", "stopPart", [id]);
      } catch (error) {
        if (!this.failed) throw error;
      }
      this.#parts.delete(id);
    };
    return {
      thread: this,
      call: (method, args) => this.#ask(id, method, [args]),
      post: (method, args) => this.#tell(id, method, [args]),
      stop: () => stopping ??= stop(),
    };
  }

  /** Whether parts of exports run in it. */
  get hasParts(): boolean {
    return this.#parts.size > 0;
  }

  /** Lets requests go from here to nodes of `other` directly. */
  async connect(other: GraphThread): Promise<void> {
    assert(other instanceof IoThread);
    if (this.#connected.has(other.name)) return;
    this.#connected.add(other.name);
    await Promise.all([this.ready, other.ready]);
    const memory = linkMemory();
    const end = (peer: IoThread, role: LinkEnd["role"]): LinkEnd => ({
      peer: peer.name,
      bell: peer.bell!,
      memory,
      role,
    });
    // The answering side first: nothing is asked before it listens.
    await other.ask("connect", end(this, "server"));
    await this.ask("connect", end(other, "client"));
  }

  /** Another thread is gone. */
  disconnect(other: IoThread): void {
    this.#connected.delete(other.name);
    this.#tell("thread", "disconnect", [other.name]);
  }

  /** Ends the thread: nothing uses it any more. */
  async stop(): Promise<void> {
    if (this.failure !== undefined) return;
    await this.#ready.catch(() => {});
    if (this.failed) return;
    const stopped = new Promise<void>((resolve) => this.#stopped = resolve);
    this.#tell("thread", "stop", []);
    await stopped;
    this.failure ??= "it was stopped";
    this.#ringer?.close();
    this.#worker.terminate();
  }
}
