/**
 * `compress`: every write is stored compressed by the format below. That is possible for whole clusters only, so
 * smaller writes read the rest of theirs first. All else passes through.
 */
import { CommandError, IoVec, type MaybePromise } from "../../base/mod.ts";
import { BlockdevOptionsGenericFormat } from "../../qmp/schema/blockdev.ts";
import type { Infer } from "../../qmp/schema/core.ts";
import {
  type BlockStatus,
  type Child,
  defineDriver,
  type DriverDefinition,
  type FactsRound,
  type ImageFacts,
  type IoInstance,
  type Limits,
  type OpenContext,
  type ReopenChange,
  RequestFlag,
  type TruncateOptions,
} from "../mod.ts";
import { jsonFilename, optionsOfName } from "./filename.ts";

type CompressOptions = Infer<typeof BlockdevOptionsGenericFormat>;

/** The child's compressible unit in bytes; refuses children that have none. */
function unitOf(child: Child): number {
  if (child.compressedUnit !== undefined) return child.compressedUnit;
  throw new CommandError(
    `Compression is not supported for underlying format: ${child.node.driver}`,
  );
}

class CompressInstance implements IoInstance {
  readonly kind = "io";
  readonly #unit: number;

  constructor(private readonly child: Child) {
    this.#unit = unitOf(child);
  }

  get size(): number {
    return this.child.size;
  }
  get limits(): Partial<Limits> {
    return { requestAlignment: this.#unit };
  }

  read(offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    return this.child.read(offset, iov, flags);
  }
  write(offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    // The last cluster may be short: what was added to it for the alignment is not there.
    const inside = Math.min(iov.total, this.child.size - offset);
    const part = inside === iov.total ? iov : iov.slice(0, inside, new IoVec());
    return this.child.write(offset, part, flags | RequestFlag.writeCompressed);
  }
  writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.child.writeZeroes(offset, this.#inside(offset, length), flags);
  }
  discard(offset: number, length: number): MaybePromise<void> {
    return this.child.discard(offset, this.#inside(offset, length));
  }
  status(
    offset: number,
    length: number,
    precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void> {
    return this.child.status(offset, length, precise, out);
  }
  truncate(size: number, options: TruncateOptions): MaybePromise<void> {
    return this.child.truncate(size, options);
  }

  #inside(offset: number, length: number): number {
    return Math.min(length, this.child.size - offset);
  }

  async prepareReopen(next: OpenContext): Promise<ReopenChange> {
    unitOf(await next.child("file", { role: ["filtered", "primary"] }));
    return { commit: () => {}, abort: () => {} };
  }

  async facts(round: FactsRound): Promise<Partial<ImageFacts>> {
    const below = await this.child.facts(round);
    const { filename, options: inner, actualSize, dirtyFlag, clusterSize } = below;
    const file = inner ?? optionsOfName(this.child.node.driver, filename ?? "");
    const options = { driver: "compress", file };
    const facts: Partial<ImageFacts> = { format: "compress", options };
    if (actualSize !== undefined) facts.actualSize = actualSize;
    if (dirtyFlag !== undefined) facts.dirtyFlag = dirtyFlag;
    if (clusterSize !== undefined) facts.clusterSize = clusterSize;
    const name = jsonFilename(options);
    if (name !== undefined) facts.filename = name;
    return facts;
  }

  close(): void {}
}

/** QEMU driver `compress`. */
export const compress: DriverDefinition<CompressOptions> = defineDriver<CompressOptions>({
  name: "compress",
  kind: "filter",
  options: BlockdevOptionsGenericFormat,
  async open(open) {
    return new CompressInstance(await open.child("file", { role: ["filtered", "primary"] }));
  },
});
