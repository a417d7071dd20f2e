/** A qcow2 image on recording disks, opened by qsd's own driver without a daemon around it. */
import assert from "node:assert/strict";
import { IoVec, type MaybePromise } from "../../lib/base/mod.ts";
import { creationOf } from "../../lib/block/creation.ts";
import { drivers } from "../../lib/block/drivers/mod.ts";
import { type TestContext, testContext } from "../../lib/block/drivers/testing.ts";
import {
  type BlockBackend,
  BlockGraph,
  driverRegistry,
  Perm,
  type TruncateOptions,
} from "../../lib/block/mod.ts";
import type { BlockdevOptionsValue } from "../../lib/qmp/schema/blockdev.ts";
import { type Context, type Memory, O } from "../../lib/sys/mod.ts";
import { type RecordingDisk, recordingDriver } from "./journal.ts";
import type { Reply } from "./pages.ts";

/** What new bytes get. */
export type Preallocation = TruncateOptions["preallocation"];

/** Node of the image under test. */
export const NODE = "image";

/** What a pipe takes, unless its user has too many. */
const PIPE = 64 * 1024;

/** The disks of an image. */
export interface ImageDisks {
  readonly file: RecordingDisk;
  readonly data?: RecordingDisk;
  readonly backing?: RecordingDisk;
}

/** An opened image. */
export class Machine {
  private constructor(
    private readonly context: TestContext,
    readonly graph: BlockGraph,
    readonly backend: BlockBackend,
    /** Events, as QMP would send them. */
    readonly events: string[],
    private readonly disks: ImageDisks,
    private readonly options: BlockdevOptionsValue,
  ) {}

  /** Opens the image with more options of its node. `shared`: a context for many images, the caller ends it. */
  static async open(
    disks: ImageDisks,
    options: Record<string, unknown> = {},
    shared?: TestContext,
  ): Promise<Machine> {
    const context = contextFor(shared);
    const events: string[] = [];
    const graph = new BlockGraph({
      context,
      drivers: driverRegistry([...drivers, recordingDriver(disks as never)]),
      events: { emit: (name) => void events.push(name) },
    });
    const add = (node: Record<string, unknown>) =>
      graph.add(node as unknown as BlockdevOptionsValue, { monitorOwned: true });
    try {
      const disk = (name: string, more = {}) =>
        add({ driver: "recording", "node-name": `disk-${name}`, disk: name, ...more });
      const readOnly = options["read-only"] === true;
      await disk("file", { discard: "unmap", "read-only": readOnly });
      if (disks.data !== undefined) await disk("data", { discard: "unmap", "read-only": readOnly });
      if (disks.backing !== undefined) await disk("backing", { "read-only": true });
      const node = {
        driver: "qcow2",
        "node-name": NODE,
        file: "disk-file",
        discard: "unmap",
        "cache-clean-interval": 0,
        ...(disks.data === undefined ? {} : { "data-file": "disk-data" }),
        backing: disks.backing === undefined ? null : "disk-backing",
        ...options,
      };
      await add(node);
      const backend = await graph.backend(NODE, {
        describe: "the test",
        needed: Perm.consistentRead | (readOnly ? 0 : Perm.write | Perm.resize),
        shared: Perm.all,
      });
      const value = node as unknown as BlockdevOptionsValue;
      return new Machine(context, graph, backend, events, disks, value);
    } catch (error) {
      await graph.closeAll();
      context.end();
      throw error;
    }
  }

  /** Makes a qcow2 image as blockdev-create does; `options`: its options, apart from the nodes. */
  static async create(disks: ImageDisks, options: Record<string, unknown>): Promise<void> {
    const test = testContext();
    // Its timers end at once, and caches that are cleaned all the time hold nothing.
    const context = { ...test, loop: { ...test.loop, timer: () => ({ cancel() {} }) } };
    const registry = driverRegistry([...drivers, recordingDriver(disks as never)]);
    const graph = new BlockGraph({ context, drivers: registry, events: { emit: () => {} } });
    const disk = { driver: "recording", "node-name": "disk", disk: "file", discard: "unmap" };
    try {
      await graph.add(disk as unknown as BlockdevOptionsValue, { monitorOwned: true });
      const qcow2 = drivers.find(({ name }) => name === "qcow2")!;
      await qcow2.create!(creationOf(context, graph, () => {}), { ...options, file: "disk" });
    } finally {
      await graph.closeAll();
      context.end();
    }
  }

  /** What the daemon would have logged. */
  get messages(): readonly string[] {
    return this.context.messages;
  }

  /** Opens the disk alone, without a format. */
  static async onFile(
    disk: RecordingDisk,
    act: (context: Context, file: BlockBackend) => Promise<void>,
    shared?: TestContext,
  ): Promise<void> {
    const context = contextFor(shared);
    const graph = new BlockGraph({
      context,
      drivers: driverRegistry([recordingDriver({ file: disk })]),
      events: { emit: () => {} },
    });
    const node = { driver: "recording", "node-name": "disk", disk: "file", discard: "unmap" };
    await graph.add(node as unknown as BlockdevOptionsValue, { monitorOwned: true });
    const file = await graph.backend("disk", {
      describe: "the test",
      needed: Perm.all,
      shared: Perm.all,
    });
    try {
      await act(context, file);
    } finally {
      await file.detach();
      await graph.closeAll();
      context.end();
    }
  }

  async #with(length: number, act: (memory: Memory) => MaybePromise<void>): Promise<void> {
    const memory = this.context.sys.allocate(length);
    try {
      await act(memory);
    } finally {
      memory.unmap();
    }
  }

  /** The disk becomes what it was when the snapshot of that name was taken. */
  async applySnapshot(name: string): Promise<void> {
    const snapshots = this.graph.find(NODE)!.instance.snapshots!;
    const found = (await snapshots.list())!.find((one) => one.name === name)!;
    await snapshots.apply(found.id);
  }

  /** Writes bytes. */
  write(offset: number, bytes: Uint8Array, flags = 0): Promise<void> {
    return this.#with(bytes.length, (memory) => {
      memory.bytes.set(bytes);
      return this.backend.write(offset, IoVec.of(memory.address, bytes.length), flags);
    });
  }

  /** Bytes that came out of pipes. */
  piped = 0;

  /** Writes bytes as those of NBD clients are: out of a pipe, as many as go that way. */
  async writePiped(offset: number, bytes: Uint8Array): Promise<void> {
    for (let done = 0; done < bytes.length;) {
      const part = bytes.subarray(done, done + PIPE);
      const takes = this.backend.pages!.pipeUnit(offset + done, part.length) > 0;
      const written = takes ? this.#throughPipe(offset + done, part) : 0;
      done += written;
      if (written < part.length) return await this.write(offset + done, bytes.subarray(done));
    }
  }

  /** How many bytes went through a pipe. */
  #throughPipe(offset: number, bytes: Uint8Array): number {
    const { context: { sys }, backend } = this;
    const ends = sys.pipe2(O.CLOEXEC | O.NONBLOCK);
    assert.ok(typeof ends !== "number");
    const [from, into] = ends;
    const memory = sys.allocate(bytes.length);
    try {
      memory.bytes.set(bytes);
      assert.equal(sys.write(into, memory.address, bytes.length), bytes.length);
      const written = Math.max(0, backend.pages!.writeFromPipe(offset, from, bytes.length));
      assert.equal(sys.unread(from), bytes.length - written);
      this.piped += written;
      return written;
    } finally {
      memory.unmap();
      for (const end of ends) sys.close(end);
    }
  }

  /** Reads bytes. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    let out!: Uint8Array;
    await this.#with(length, async (memory) => {
      memory.bytes.fill(0xee);
      await this.backend.read(offset, IoVec.of(memory.address, length));
      out = memory.bytes.slice(0, length);
    });
    return out;
  }

  /** A reply that is sent from the page cache; undefined: it cannot be. */
  send(offset: number, length: number): Reply | undefined {
    const place = { fd: -1, offset: -1 };
    if (this.backend.pages?.locate(offset, length, true, place) !== true) return undefined;
    return this.disks.file.pages.send(place.offset, length);
  }

  /** Changes the length of the guest's disk. */
  resize(size: number, preallocation: Preallocation = "off"): Promise<void> {
    if (preallocation === "off") return this.graph.resize(NODE, size);
    const options = { exact: false, preallocation };
    return this.graph.drained(NODE, async () => {
      const node = this.graph.find(NODE)!;
      await node.instance.truncate!(size, options);
    });
  }

  /** Changes options of the node. */
  reopen(options: Record<string, unknown>): Promise<void> {
    return this.graph.reopen([{ ...this.options, ...options } as BlockdevOptionsValue]);
  }

  /** Changes what the header says of the backing file. */
  async changeBackingFile(name: string): Promise<void> {
    await this.graph.find(NODE)!.instance.changeBackingFile!(name, undefined);
  }

  /** Closes everything. */
  async close(): Promise<void> {
    await this.backend.detach();
    await this.graph.closeAll();
    this.context.end();
  }
}

/** A context of its own, or the shared one, which must be as it was when the image is closed. */
function contextFor(shared: TestContext | undefined): TestContext {
  if (shared === undefined) return testContext();
  const messages: string[] = [];
  const log = (message: string) => void messages.push(message);
  const end = () => {
    const { inUse } = shared.buffers;
    if (inUse !== 0) throw new Error(`${inUse} buffers were not given back`);
  };
  return { ...shared, log: { error: log, warn: log, info: log }, messages, end };
}
