/** For tests: an IOThread without a thread. Calls and requests cross as they would, cloned and later. */
import { CommandError } from "../base/mod.ts";
import type { NodeChannel, NodeRequest } from "./forward.ts";
import type { BlockGraph } from "./graph.ts";
import { ReplicaGraph } from "./replica.ts";
import type { ServedNodes } from "./serve_node.ts";
import type { GraphThread, ReplicaCalls, ReplicaNews } from "./thread_types.ts";
import type { BlockStatus } from "./types.ts";

/** The bytes of requests are where they are; all else is posted. */
function channelTo(served: ServedNodes, name: (handle: number) => string): NodeChannel {
  return {
    async request(request: NodeRequest) {
      await Promise.resolve();
      const own: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
      await served.execute({ ...request, out: own });
      const { out } = request;
      if (out === undefined) return;
      delete out.offset;
      delete out.file;
      Object.assign(out, own);
      if (own.file !== undefined) out.file = { ...own.file, name: name(request.handle) };
    },
  };
}

/** A thread of a test. */
export class FakeThread implements GraphThread {
  failed = false;
  readonly replica: ReplicaGraph;
  readonly channel: NodeChannel;
  /** Calls in their order, as "open n". */
  readonly calls: string[] = [];
  /** Called before each call: what it throws the call fails with. */
  before: (method: string, name: unknown) => void = () => {};
  readonly connected = new Set<FakeThread>();

  constructor(readonly name: string, graph: BlockGraph, threads: Map<string, FakeThread>) {
    threads.set(name, this);
    const nameOf = (handle: number) => graph.places.served.byHandle(handle)!.name;
    const heard: { news?: ReplicaNews } = {};
    const tell = (method: keyof ReplicaNews) => (...args: unknown[]) =>
      (heard.news?.[method] as (...args: unknown[]) => void)?.(...structuredClone(args));
    this.replica = new ReplicaGraph({
      context: graph.context,
      drivers: graph.drivers,
      channel: (place) => {
        if (place === "") {
          return channelTo(graph.places.served, nameOf);
        }
        const other = threads.get(place)!;
        if (!this.connected.has(other)) throw new Error(`${name} is not connected with ${place}`);
        return other.channel;
      },
      news: {
        resized: tell("resized"),
        thresholdExceeded: tell("thresholdExceeded"),
        emit: tell("emit"),
      },
    });
    this.channel = channelTo(this.replica.served, nameOf);
    heard.news = graph.places.add(this);
  }

  async call<M extends keyof ReplicaCalls>(
    method: M,
    ...args: Parameters<ReplicaCalls[M]>
  ): Promise<Awaited<ReturnType<ReplicaCalls[M]>>> {
    const [first] = args as readonly unknown[];
    const name = typeof first === "object" ? (first as { name?: string } | null)?.name : first;
    this.calls.push(`${method} ${name}`);
    const posted = structuredClone(args);
    await Promise.resolve();
    if (this.failed) throw new CommandError(`IOThread '${this.name}' has failed`);
    this.before(method, name);
    const act = this.replica[method] as (...args: unknown[]) => unknown;
    const value = await act.apply(this.replica, posted as unknown[]);
    return structuredClone(value) as Awaited<ReturnType<ReplicaCalls[M]>>;
  }

  post<M extends keyof ReplicaCalls>(method: M, ...args: Parameters<ReplicaCalls[M]>): void {
    this.call(method, ...args).catch(() => {});
  }

  connect(other: GraphThread): Promise<void> {
    this.connected.add(other as FakeThread);
    return Promise.resolve();
  }
}
