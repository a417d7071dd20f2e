/** A node that runs in an IOThread, as the main context, which owns the graph, sees it. */
import { assert } from "../base/mod.ts";
import { ForwardInstance, type NodeFacts } from "./forward.ts";
import type { InternalSnapshots } from "./snapshots.ts";
import type { GraphThread, NodeReport } from "./thread_types.ts";
import type { BitmapStore, ImageFacts, PermissionChange, TruncateOptions } from "./types.ts";

/** Sends requests to the node's thread, and asks it for everything else. */
export class MovedInstance extends ForwardInstance {
  /** What the thread told last. */
  #report: NodeReport | undefined;

  constructor(
    readonly name: string,
    readonly thread: GraphThread,
    handle: number,
    facts: NodeFacts,
  ) {
    super(thread.channel, handle, facts, false);
  }

  /** News from Places.refresh. */
  set report(report: NodeReport) {
    this.#report = report;
  }

  /** As of the last Places.refresh. */
  statistics(): Record<string, unknown> | undefined {
    return this.#report?.statistics;
  }

  async preparePermissions(needed: number, shared: number): Promise<PermissionChange> {
    const { name, thread } = this;
    await thread.call("preparePermissions", name, needed, shared);
    return {
      commit: () => thread.post("settlePermissions", name, true),
      abort: () => thread.post("settlePermissions", name, false),
    };
  }

  async truncate(size: number, options: TruncateOptions): Promise<void> {
    // A function stays here; over there the work ends by itself.
    const { exact, preallocation } = options;
    this.update(await this.thread.call("truncate", this.name, size, { exact, preallocation }));
  }

  facts(): Promise<Partial<ImageFacts>> {
    return this.thread.call("facts", this.name);
  }

  /** The driver's, if it has any: `list` tells. */
  readonly snapshots: InternalSnapshots = {
    list: () => this.thread.call("snapshots", this.name, { op: "list" }),
    create: async (what) =>
      void await this.thread.call("snapshots", this.name, { op: "create", what }),
    delete: async (id) => void await this.thread.call("snapshots", this.name, { op: "delete", id }),
    apply: async (id) => void await this.thread.call("snapshots", this.name, { op: "apply", id }),
  };

  /**
   * The image's, if it has any: the thread stores what it has recorded. All else is done with the node in the main
   * context.
   */
  readonly bitmaps: BitmapStore = {
    store: () => this.thread.call("storeBitmaps", this.name),
    load: atHome,
    checkNew: atHome,
    checkSize: () => {}, // done where it is resized
    remove: atHome,
    claim: atHome,
    resume: atHome,
  };

  quiesce(): Promise<void> {
    return this.thread.call("quiesce", this.name);
  }

  resume(): void {
    this.thread.post("resume", this.name);
  }

  override close(): Promise<void> {
    return this.thread.call("close", this.name);
  }
}

function atHome(): never {
  assert(false, "the image's bitmaps are changed in the main context");
}
