/**
 * `raw`: a node as it is, or a window on it. Byte 0 is byte `offset` of the child. Without offset and size it is a
 * pure filter: permissions and locks are those of its own parents. Nothing is ever probed.
 */
import { BlockError, CommandError, SECTOR } from "../../base/mod.ts";
import { BlockdevOptionsRaw } from "../../qmp/schema/blockdev.ts";
import type { Infer } from "../../qmp/schema/core.ts";
import {
  type Child,
  defineDriver,
  type DriverDefinition,
  type FactsRound,
  type FormatInstance,
  type ImageFacts,
  type OpenContext,
  Perm,
  type Placement,
  type ReopenChange,
  RequestFlag,
  type TruncateOptions,
  type WritePlan,
} from "../mod.ts";
import { jsonFilename, optionsOfName, refuseNegative } from "./filename.ts";

/** Options of raw. */
export type RawOptions = Infer<typeof BlockdevOptionsRaw>;

/** Where the window lies, in bytes; no size: up to the end of the child. */
interface Window {
  readonly offset: number;
  readonly size: number | undefined;
}

function windowOf(options: RawOptions, child: Child): Window {
  const { offset = 0, size } = options;
  refuseNegative("offset", offset);
  refuseNegative("size", size);
  const end = child.size;
  if (offset > end) {
    throw new CommandError(
      `Offset (${offset}) cannot be greater than size of the containing file (${end})`,
    );
  }
  if (size !== undefined && size > end - Number(offset)) {
    throw new CommandError(
      `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the ` +
        ` actual size of the containing file (${end})`,
    );
  }
  // Neither is beyond the end of the child any more.
  const window = { offset: Number(offset), size: size === undefined ? undefined : Number(size) };
  if (size !== undefined && Number(size) % SECTOR !== 0) {
    throw new CommandError("Specified size is not multiple of 512");
  }
  return window;
}

function isWindow(options: RawOptions): boolean {
  return options.offset !== undefined || options.size !== undefined;
}

class RawInstance implements FormatInstance {
  readonly kind = "format";
  readonly fixed = true;
  /** There is nothing but the data: it is durable when the child has made it so. */
  readonly supportedFlags = RequestFlag.fua;
  #options: RawOptions;
  #window: Window;

  constructor(readonly node: string, readonly child: Child, options: RawOptions) {
    this.#options = options;
    this.#window = windowOf(options, child);
  }

  get size(): number {
    return this.#window.size ?? Math.max(this.child.size - this.#window.offset, 0);
  }

  get pipesTo(): Child {
    return this.child;
  }

  locate(start: number, length: number, out: Placement): void {
    out.inChild(this.child, start + this.#window.offset, length);
  }

  reserve(start: number, length: number, plan: WritePlan): void {
    plan.inChild(this.child, start + this.#window.offset, length);
  }

  truncate(size: number, options: TruncateOptions): void | Promise<void> {
    const { offset, size: fixed } = this.#window;
    const context = { node: this.node, op: "truncate" };
    if (fixed !== undefined) {
      throw new BlockError("ENOTSUP", "Cannot resize fixed-size raw disks", context);
    }
    if (!Number.isSafeInteger(size + offset)) {
      throw new BlockError("EINVAL", "Disk size too large for the chosen offset", context);
    }
    return this.child.truncate(size + offset, options);
  }

  async prepareReopen(next: OpenContext, options: unknown): Promise<ReopenChange> {
    const child = await next.child("file", { role: roleOf(options as RawOptions) });
    const window = windowOf(options as RawOptions, child);
    return {
      commit: () => {
        this.#options = options as RawOptions;
        this.#window = window;
      },
      abort: () => {},
    };
  }

  async facts(round: FactsRound): Promise<Partial<ImageFacts>> {
    const below = await this.child.facts(round);
    const { filename, options: inner, actualSize, dirtyFlag, clusterSize } = below;
    const { offset, size } = this.#options;
    const file = inner ?? optionsOfName(this.child.node.driver, filename ?? "");
    const options = { offset, driver: "raw", size, file };
    const facts: Partial<ImageFacts> = { format: "raw", options };
    if (actualSize !== undefined) facts.actualSize = actualSize;
    if (dirtyFlag !== undefined) facts.dirtyFlag = dirtyFlag;
    if (clusterSize !== undefined) facts.clusterSize = clusterSize;
    // A plain name stands for raw over a protocol's node, and for nothing else.
    const plain = inner === undefined && !isWindow(this.#options);
    const name = plain ? filename : jsonFilename(options);
    if (name !== undefined) facts.filename = name;
    return facts;
  }

  close(): void {}
}

function roleOf(options: RawOptions): readonly ("data" | "filtered" | "primary")[] {
  return [isWindow(options) ? "data" : "filtered", "primary"];
}

/** QEMU driver `raw`. */
export const raw: DriverDefinition<RawOptions> = defineDriver<RawOptions>({
  name: "raw",
  kind: "format",
  options: BlockdevOptionsRaw,
  async open(open, options) {
    const child = await open.child("file", { role: roleOf(options) });
    return new RawInstance(open.nodeName, child, options);
  },
  /** A window keeps the child's length fixed; it needs no more than its own parents do. */
  childPermissions(_child, _role, parents, options) {
    const { needed, shared } = parents;
    return { needed, shared: isWindow(options) ? shared & ~Perm.resize : shared };
  },
});
