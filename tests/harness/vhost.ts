/** A vhost-user front-end of a test: lib/vhost's, in a context of its own. */
import { createContext, type OwnedContext } from "../../lib/sys/mod.ts";
import { Frontend, type FrontendSetup } from "../../lib/vhost/testing.ts";
import { BlkDriver } from "../../lib/vhost/testing_blk.ts";

/** A front-end with a running disk behind each queue. Use with `await using`. */
export class VhostPeer {
  readonly disks: BlkDriver[];

  private constructor(
    readonly context: OwnedContext,
    readonly frontend: Frontend,
    queues: number,
  ) {
    this.disks = Array.from({ length: queues }, (_, i) => new BlkDriver(frontend, i));
  }

  /** Connects to the socket `path` and starts the queues. */
  static async attach(path: string, setup: FrontendSetup = {}): Promise<VhostPeer> {
    const context = createContext({ name: "front-end" });
    try {
      const frontend = Frontend.connect(context, path);
      const peer = new VhostPeer(context, frontend, setup.queues ?? 1);
      try {
        await frontend.start(setup);
        return peer;
      } catch (error) {
        frontend.close();
        throw error;
      }
    } catch (error) {
      await context.close();
      throw error;
    }
  }

  /** The disk behind the first queue. */
  get disk(): BlkDriver {
    return this.disks[0]!;
  }

  /** The words of --export, or of block-export-add, for a disk on the socket `path`. */
  static exported(id: string, node: string, path: string, more = ""): string {
    return `vhost-user-blk,id=${id},node-name=${node},addr.type=unix,addr.path=${path},writable=on${more}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.frontend.close();
    await this.context.close();
  }
}
