/** For tests: an export on a socket of its own, on a disk in native memory. */
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";
import { createContext, type OwnedContext } from "../sys/mod.ts";
import { MemoryBackend } from "../block/testing_backend.ts";
import { VhostUserBlkExport } from "./export.ts";
import { BlkDriver } from "./testing_blk.ts";
import { Frontend, type FrontendSetup } from "./testing.ts";

/** Options of the export, beside its address. */
export type ExportChoices = Partial<
  Omit<Extract<BlockExportOptionsValue, { type: "vhost-user-blk" }>, "type" | "addr">
>;

/** A running export and what is needed to talk to it. */
export class ExportBed {
  readonly messages: string[] = [];
  readonly path: string;
  readonly #frontends: Frontend[] = [];

  private constructor(
    readonly context: OwnedContext,
    readonly disk: MemoryBackend,
    readonly exported: VhostUserBlkExport,
    path: string,
    messages: string[],
  ) {
    this.path = path;
    this.messages = messages;
  }

  /** Makes a disk of `size` bytes and its export. */
  static async make(choices: ExportChoices = {}, size = 1024 * 1024): Promise<ExportBed> {
    const messages: string[] = [];
    const say = (text: string) => void messages.push(text);
    const context = createContext({
      name: "test",
      log: { error: say, warn: say, info: say },
      onError: (error) => {
        throw error;
      },
    });
    const disk = new MemoryBackend(context, size);
    const random = context.sys.randomBytes(6).toHex();
    const path = `/tmp/qsd-vhost-${random}.sock`;
    const exported = await VhostUserBlkExport.start(context, disk, {
      type: "vhost-user-blk",
      id: "e",
      "node-name": "disk",
      writable: true,
      ...choices,
      addr: { type: "unix", path },
    });
    return new ExportBed(context, disk, exported, path, messages);
  }

  /** A connected front-end. */
  connect(): Frontend {
    const frontend = Frontend.connect(this.context, this.path);
    this.#frontends.push(frontend);
    return frontend;
  }

  /** A front-end with its queues started, and the disk behind the first. */
  async start(setup: FrontendSetup = {}): Promise<{ frontend: Frontend; disk: BlkDriver }> {
    const frontend = this.connect();
    await frontend.start(setup);
    return { frontend, disk: new BlkDriver(frontend) };
  }

  async close(): Promise<void> {
    for (const frontend of this.#frontends) frontend.disconnect();
    await this.exported.shutdown();
    for (const frontend of this.#frontends) frontend.close();
    this.disk.close();
    await this.context.close();
  }
}

/** Runs `body` with an export. */
export async function withExport(
  choices: ExportChoices,
  body: (bed: ExportBed) => Promise<void>,
): Promise<void> {
  const bed = await ExportBed.make(choices);
  try {
    await body(bed);
  } finally {
    await bed.close();
  }
}
