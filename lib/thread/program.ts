/**
 * The program of an IOThread, in its Worker: a context of its own, the nodes that live here (ReplicaGraph), and the
 * parts of exports that run here. It does what the main context asks, in the order in which it asks. When something
 * throws that should not, the state here cannot be trusted any more: descriptors of clients are closed, the main
 * context is told, and nothing else is done.
 */
import { assert, CommandError, type MaybePromise } from "../base/mod.ts";
import { type DriverRegistry, type NodeChannel, ReplicaGraph } from "../block/mod.ts";
import { traceEvents, TraceRegistry } from "../observe/mod.ts";
import {
  createContext,
  createLog,
  LinuxSys,
  onUncaught,
  type OwnedContext,
  type WorkerScope,
  workerScope,
  writeStderr,
} from "../sys/mod.ts";
import { Bell, Ringer } from "./bell.ts";
import { LinkClient, LinkServer } from "./link.ts";
import {
  type FromThread,
  type LinkEnd,
  type LoopProperties,
  sendError,
  type ThreadCounters,
  type ThreadStart,
  type ToThread,
  type TracingState,
} from "./messages.ts";
import type { PartHost, ThreadPart, ThreadPartKind } from "./parts.ts";

/** Lines that somebody may read at the same time as others' are written in one call. */
function traceSink(sys: LinuxSys, state: TracingState) {
  const encoder = new TextEncoder();
  return {
    realtimeUs: () => sys.realtimeUs(),
    write(line: string) {
      if (state.fd === 2) return writeStderr(line);
      const bytes = encoder.encode(line);
      const memory = sys.allocate(bytes.length);
      memory.bytes.set(bytes);
      sys.write(state.fd, memory.address, bytes.length);
      memory.unmap();
    },
  };
}

/** Runs the thread that this is called in, until the main context ends it. */
export function runThread(drivers: DriverRegistry, kinds: readonly ThreadPartKind[]): void {
  const scope = workerScope();
  let program: ThreadProgram | undefined;
  const uncaught = onUncaught((error) => {
    if (program === undefined) scope.post({ failed: String(error) } satisfies FromThread);
    else program.fail(error);
  });
  scope.onMessage((data) => {
    const message = data as ToThread;
    if ("start" in message) {
      program = new ThreadProgram(scope, message.start, drivers, kinds, () => uncaught.close());
    } else {
      assert(program !== undefined);
      program.receive(message);
    }
  });
}

class ThreadProgram {
  readonly #scope: WorkerScope;
  readonly #sys: LinuxSys;
  readonly #context: OwnedContext;
  readonly #bell: Bell;
  readonly #main: Ringer;
  readonly #graph: ReplicaGraph;
  readonly #tracing: TraceRegistry;
  readonly #kinds: ReadonlyMap<string, ThreadPartKind>;
  readonly #parts = new Map<number, ThreadPart>();
  readonly #clients = new Map<string, LinkClient>();
  readonly #servers = new Map<string, LinkServer>();
  readonly #ringers: Ringer[] = [];
  readonly #onEnd: () => void;
  #failed = false;

  constructor(
    scope: WorkerScope,
    start: ThreadStart,
    drivers: DriverRegistry,
    kinds: readonly ThreadPartKind[],
    onEnd: () => void,
  ) {
    this.#scope = scope;
    this.#onEnd = onEnd;
    this.#kinds = new Map(kinds.map((kind) => [kind.kind, kind]));
    const sys = this.#sys = new LinuxSys();
    this.#tracing = new TraceRegistry(traceEvents, traceSink(sys, start.tracing));
    this.#tracing.set(start.tracing.events, true);
    this.#context = createContext({
      name: start.name,
      sys,
      poller: start.poller,
      log: createLog(`${start.program}: IOThread '${start.name}'`, writeStderr),
      trace: (name) => this.#tracing.point(start.name, name),
      onError: (error) => this.fail(error),
    });
    this.configure(start.properties);
    this.#bell = new Bell(this.#context);
    this.#main = new Ringer(sys, start.bell);
    this.#bell.listen(() => this.#poll());
    this.#graph = new ReplicaGraph({
      context: this.#context,
      drivers,
      channel: (place) => this.#channel(place),
      news: {
        resized: (...args) => this.#send({ news: "resized", args }),
        thresholdExceeded: (...args) => this.#send({ news: "thresholdExceeded", args }),
        emit: (...args) => this.#send({ news: "emit", args }),
      },
    });
    // The main context is called "" among the places.
    const ring = () => this.#main.ring();
    this.#addServer("", start.toThread, ring);
    this.#addClient("", start.toMain, ring);
    this.#send({ ready: this.#bell.handle });
  }

  #channel(place: string): NodeChannel {
    const client = this.#clients.get(place);
    assert(client !== undefined, `no link to '${place}'`);
    return client;
  }

  #addServer(peer: string, memory: ThreadStart["toThread"], ring: () => void): void {
    this.#servers.set(peer, new LinkServer(memory, ring, this.#graph.served));
  }

  #addClient(peer: string, memory: ThreadStart["toMain"], ring: () => void): void {
    const client = new LinkClient(
      memory,
      ring,
      (handle) => this.#graph.served.byHandle(handle),
      (address) => this.#context.buffers.surrender(address),
    );
    this.#clients.set(peer, client);
  }

  #poll(): void {
    if (this.#failed) return;
    for (const server of this.#servers.values()) server.poll();
    for (const client of this.#clients.values()) client.poll();
  }

  #send(message: FromThread): void {
    this.#scope.post(message);
    // The main context may be waiting in its loop.
    this.#main.ring();
  }

  /** A message of the main context. */
  receive(message: Exclude<ToThread, { start: ThreadStart }>): void {
    const { call, target, method, args } = message;
    const answer = (result: { value: unknown } | { error: unknown }) => {
      if (call === 0) return;
      if ("error" in result) this.#send({ answer: call, error: sendError(result.error) });
      else this.#send({ answer: call, value: result.value });
    };
    if (this.#failed) return;
    try {
      const value = this.#dispatch(target, method, args);
      if (value instanceof Promise) {
        value.then((value) => answer({ value }), (error) => answer({ error }));
      } else {
        answer({ value });
      }
    } catch (error) {
      answer({ error });
    }
  }

  #dispatch(
    target: "graph" | "thread" | number,
    method: string,
    args: readonly unknown[],
  ): MaybePromise<unknown> {
    if (target === "graph") return call(this.#graph, method, args);
    if (target === "thread") return call(this.calls, method, args);
    const part = this.#parts.get(target);
    if (part?.call === undefined) throw new CommandError("the part of the export is gone");
    return part.call(method, args[0]);
  }

  /** What is asked of the thread itself. */
  readonly calls = {
    startPart: async (id: number, kind: string, options: unknown): Promise<void> => {
      const found = this.#kinds.get(kind);
      if (found === undefined) throw new CommandError(`nothing called '${kind}' runs in IOThreads`);
      const host: PartHost = {
        context: this.#context,
        attach: (node, backend) => this.#graph.attach(node, backend),
        tell: (told, args) => this.#send({ part: id, told, args }),
      };
      this.#parts.set(id, await found.start(host, options));
    },
    stopPart: async (id: number): Promise<void> => {
      await this.#parts.get(id)?.stop();
      this.#parts.delete(id);
    },
    connect: ({ peer, bell, memory, role }: LinkEnd): void => {
      const ringer = new Ringer(this.#sys, bell);
      this.#ringers.push(ringer);
      const ring = () => ringer.ring();
      if (role === "client") this.#addClient(peer, memory, ring);
      else this.#addServer(peer, memory, ring);
    },
    /** Another thread is gone. */
    disconnect: (peer: string): void => {
      this.#clients.get(peer)?.fail(`IOThread '${peer}' has failed`);
      this.#clients.delete(peer);
      this.#servers.delete(peer);
    },
    configure: (properties: LoopProperties): void => this.configure(properties),
    trace: (state: TracingState): void => {
      this.#tracing.set(this.#tracing.names, false);
      this.#tracing.set(state.events, true);
      this.#tracing.sink = traceSink(this.#sys, state);
    },
    counters: (): ThreadCounters => ({
      "thread-id": this.#sys.threadId,
      ...this.#context.loop.counters,
    }),
    /** For tests of what happens then. */
    crash: (): void => {
      this.#context.loop.defer(() => {
        throw new Error("crash was called");
      });
    },
    stop: (): Promise<void> => this.#stop(),
  };

  configure(properties: LoopProperties): void {
    this.#context.configure(properties);
  }

  async #stop(): Promise<void> {
    assert(this.#parts.size === 0, "parts of exports are still running");
    this.#graph.dispose();
    this.#bell.close();
    await this.#context.close();
    this.#onEnd();
    this.#send({ stopped: true });
    this.#main.close();
    for (const ringer of this.#ringers) ringer.close();
    this.#sys.dispose();
    this.#scope.close();
  }

  /** A mistake of ours, or the machine's: this thread does nothing any more. */
  fail(error: unknown): void {
    if (this.#failed) return;
    this.#failed = true;
    const text = error instanceof Error ? error.stack ?? error.message : String(error);
    for (const part of this.#parts.values()) {
      try {
        part.abandon?.();
      } catch {
        // It is in disorder: the main context closes what it knows of.
      }
    }
    this.#send({ failed: text });
  }
}

/** Calls a method by name; the names come from the types of the asking side. */
function call(target: object, method: string, args: readonly unknown[]): MaybePromise<unknown> {
  const found = (target as Record<string, unknown>)[method];
  assert(typeof found === "function", `no method '${method}'`);
  return found.apply(target, args);
}
