/** An opened image as the block layer sees it (FormatInstance): its requests, and the life of its node. */
import { assert, CommandError, type IoVec, type MaybePromise, SECTOR } from "../../../base/mod.ts";
import type {
  Child,
  FactsRound,
  HandedOver,
  ImageFacts,
  Limits,
  OpenContext,
  Placement,
  ReopenChange,
  TruncateOptions,
  WritePlan,
} from "../../mod.ts";
import { writeCompressed } from "./compressed_write.ts";
import { type Header, MAX_HEADER_BYTES, parseHeader } from "./header.ts";
import { Image } from "./image.ts";
import { readBytes } from "./metadata.ts";
import { resize } from "./resize.ts";
import { quiet, settle } from "./settle.ts";
import type { ImageOptions, ImageParts, OpenedImage } from "./types.ts";

/** Opens an image whose header was parsed; reads the L1 table and the refcount table. */
export async function openImage(parts: ImageParts): Promise<OpenedImage> {
  const image = new ImageInstance(parts);
  await image.load();
  return image;
}

/** The image with what the block layer asks of it. */
export class ImageInstance extends Image implements OpenedImage {
  readonly kind = "format";

  // --- facts ---

  get limits(): Partial<Limits> {
    const { subclusterSize, clusterSize } = this.geometry;
    const limits: Partial<Limits> = {
      writeZeroesAlignment: subclusterSize,
      discardAlignment: clusterSize,
    };
    if (this.cipher !== undefined) limits.requestAlignment = SECTOR;
    return limits;
  }
  /** Nobody could find a stream in a data file, nor decrypt one. */
  get compressedUnit(): number | undefined {
    const { externalData, clusterSize } = this.geometry;
    return externalData || this.cipher !== undefined ? undefined : clusterSize;
  }
  facts(round: FactsRound): MaybePromise<Partial<ImageFacts>> {
    return this.parts.hooks.facts(this, round);
  }

  // --- requests ---

  sending(at: number, length: number): boolean {
    // Data files are not allocated from: guest data lies at its own offset.
    if (this.geometry.externalData) return true;
    if (!this.held.many) return this.sent.sending(at, length);
    this.releases.lookAgain();
    return false;
  }

  get pipesTo(): Child | undefined {
    return this.cipher === undefined ? this.data : undefined;
  }

  locate(start: number, length: number, out: Placement): MaybePromise<void> {
    return this.map.locate(start, length, out);
  }

  reserve(start: number, length: number, plan: WritePlan): MaybePromise<void> {
    return this.planning.reserve(start, length, plan);
  }

  writeCompressed(offset: number, iov: IoVec): Promise<void> {
    this.planning.checkWritable();
    return writeCompressed(this, offset, iov);
  }

  flush(): MaybePromise<void> {
    // What requests have changed is stable before a transition begins, and none changes anything meanwhile.
    if (this.readOnly || this.transition !== undefined) return undefined;
    if (!this.commits.needed && !this.commits.running) return undefined;
    return this.commits.commit();
  }

  truncate(size: number, options: TruncateOptions): Promise<void> {
    if (size % SECTOR !== 0) throw new CommandError("The new size must be a multiple of 512");
    this.planning.checkWritable();
    return this.exclusive(() => resize(this, size, options));
  }

  // --- the node's life ---

  quiesce(): Promise<void> {
    this.cleaner.stop();
    return quiet(this);
  }
  resume(): void {
    this.cleaner.start();
  }

  prepareReopen(next: OpenContext, options: unknown): MaybePromise<ReopenChange> {
    const { prepareReopen } = this.parts.hooks;
    assert(prepareReopen !== undefined, "no hook for reopen");
    return prepareReopen(this, next, options);
  }

  amend(options: Readonly<Record<string, unknown>>, force: boolean): MaybePromise<void> {
    return this.parts.hooks.amend?.(this, options, force);
  }
  changeBackingFile(filename: string, format: string | undefined): MaybePromise<void> {
    return this.parts.hooks.changeBackingFile?.(this, filename, format);
  }

  async configure(options: ImageOptions, readOnly: boolean): Promise<void> {
    await settle(this, this.headerState);
    await this.quiesce();
    await this.closeCaches();
    this.sent.reopened();
    this.reassemble(options, readOnly);
    if (!readOnly && this.header.snapshotCount > 0) await this.snapshots.protect();
  }

  setBacking(backing: Child | undefined): void {
    this.backing = backing;
  }

  inactivate(): Promise<void> {
    return settle(this, this.headerState);
  }
  async activate(): Promise<void> {
    await this.quiesce();
    const bytes = await readBytes(this.context, this.file, 0, MAX_HEADER_BYTES);
    const header = parseHeader(bytes);
    await this.reload(await this.parts.hooks.arrived?.(this, header) ?? header);
  }

  async close(): Promise<void> {
    await this.quiesce();
    try {
      await settle(this, this.headerState);
    } catch (error) {
      this.context.log.error(`node '${this.nodeName}': closing the image: ${String(error)}`);
    }
    await quiet(this);
    await this.closeCaches();
    this.codec.close();
  }
  async handOver(): Promise<HandedOver> {
    await this.close();
    return { fds: [], state: this.sent.state };
  }

  /** The image as `header` describes it, beside this one and only to be read; its map may not change meanwhile. */
  openView(header: Header): Promise<OpenedImage> {
    const { codec } = this;
    return openImage({
      ...this.parts,
      header,
      readOnly: true,
      // Closed with this image.
      codec: {
        decode: (...args) => codec.decode(...args),
        encode: (...args) => codec.encode(...args),
        forget: (...args) => codec.forget(...args),
        close: () => {},
      },
      hooks: { facts: () => ({}) },
    });
  }
}
