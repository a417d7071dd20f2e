/** The IOThreads of a process, by name, and what they share: the bell of the main context, and the graph's places. */
import { CommandError } from "../base/mod.ts";
import type { BlockGraph } from "../block/mod.ts";
import { Errno, O, type OwnedContext } from "../sys/mod.ts";
import { Bell } from "./bell.ts";
import { IoThread } from "./iothread.ts";
import type { LoopProperties, TracingState } from "./messages.ts";

/** What threads are started with. */
export interface HubParts {
  readonly context: OwnedContext;
  readonly graph: BlockGraph;
  /** The module that runs in the Workers: it calls runThread. */
  readonly program: URL;
  /** The name that lines of log begin with. */
  readonly programName: string;
  /** Which trace events are on. */
  readonly tracing: () => TracingState;
  /** A thread has failed; its nodes are about to be lost. */
  readonly onFailure: (thread: IoThread) => void;
}

/** All IOThreads. */
export class ThreadHub {
  readonly context: OwnedContext;
  readonly places: BlockGraph["places"];
  readonly program: URL;
  readonly programName: string;
  readonly tracing: () => TracingState;
  readonly #threads = new Map<string, IoThread>();
  readonly #onFailure: (thread: IoThread) => void;
  #bell: Bell | undefined;
  /** Threads that are about to end. */
  ending = 0;

  constructor(parts: HubParts) {
    this.context = parts.context;
    this.places = parts.graph.places;
    this.program = parts.program;
    this.programName = parts.programName;
    this.tracing = parts.tracing;
    this.#onFailure = parts.onFailure;
  }

  /** The bell of the main context; made with the first thread. */
  get bell(): Bell {
    if (this.#bell === undefined) {
      this.#bell = new Bell(this.context);
      this.#bell.listen(() => {
        for (const thread of this.#threads.values()) thread.poll();
      });
    }
    return this.#bell;
  }

  /** All threads, oldest first. */
  list(): readonly IoThread[] {
    return [...this.#threads.values()];
  }

  /** The running thread of that name. */
  find(name: string): IoThread | undefined {
    return this.#threads.get(name);
  }

  /** Starts a thread; returns at once. */
  add(name: string, properties: LoopProperties): IoThread {
    // Threads park in the poller that the main context owns.
    this.context.startPoller();
    const thread = new IoThread(this, name, properties);
    this.#threads.set(name, thread);
    thread.news = this.places.add(thread);
    thread.ready.catch((error) => this.context.log.error(String(error.message)));
    return thread;
  }

  /** Whether nodes or exports run in a thread. */
  inUse(thread: IoThread): boolean {
    return thread.hasParts || this.places.inUse(thread);
  }

  /** Ends a thread. Throws CommandError if it is in use. */
  async remove(thread: IoThread): Promise<void> {
    if (this.inUse(thread)) {
      throw new CommandError(`object '${thread.name}' is in use, can not be deleted`);
    }
    if (this.#threads.get(thread.name) === thread) this.#threads.delete(thread.name);
    this.places.remove(thread);
    for (const other of this.#threads.values()) other.disconnect(thread);
    this.ending++;
    try {
      await thread.stop();
    } finally {
      this.ending--;
    }
  }

  /** A thread has failed by itself: its nodes are lost, others go on. */
  failed(thread: IoThread, why: string): void {
    const { log, sys } = this.context;
    log.error(`IOThread '${thread.name}' has failed; its exports end. Please report it:\n${why}`);
    this.#onFailure(thread);
    const fds = this.places.lost(thread);
    for (const other of this.#threads.values()) if (other !== thread) other.disconnect(thread);
    // Calls of the thread may still be on their way to these numbers: they must not become other files' numbers.
    const nothing = sys.open("/dev/null", O.RDONLY | O.CLOEXEC);
    for (const fd of fds) {
      if (nothing < 0 || sys.dup2(nothing, fd) === -Errno.EBADF) sys.close(fd);
    }
    if (nothing >= 0) sys.close(nothing);
  }

  /** Trace events were turned on or off. */
  traceChanged(): void {
    const state = this.tracing();
    for (const thread of this.#threads.values()) thread.trace(state);
  }

  /** Ends all threads: the graph is closed, and all exports. */
  async close(): Promise<void> {
    for (const thread of this.list()) {
      this.#threads.delete(thread.name);
      await thread.stop();
    }
    this.#bell?.close();
    this.#bell = undefined;
  }
}
