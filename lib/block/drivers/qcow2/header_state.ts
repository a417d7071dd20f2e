/** The header of an opened image: rewritten one change at a time, and the marks in it. */
import type { Child } from "../../mod.ts";
import { Incompatible } from "./format.ts";
import type { Header } from "./header.ts";
import { type HeaderWrite, headerWrites } from "./header_order.ts";
import { serialiseHeader } from "./header_write.ts";
import { readBytes, writeBytes } from "./metadata.ts";
import type { ImageParts } from "./types.ts";

/** The header. */
export class HeaderState {
  readonly #parts: ImageParts;
  readonly #file: Child;
  #writes: Promise<void> = Promise.resolve();
  #marking: Promise<void> | undefined;
  /** A broken structure was found: nothing is written any more. */
  corrupt = false;
  /** One that does no harm, or that somebody found who does not write. */
  #suspect = false;
  #doubtful = false;

  constructor(parts: ImageParts, public header: Header) {
    this.#parts = parts;
    this.#file = parts.file;
  }

  /** The file may have another header: one could not be written for certain, nor the one before it again. */
  get doubtful(): boolean {
    return this.#doubtful;
  }
  /** Clears that doubt. Undefined: there is none. */
  assure(): Promise<void> | undefined {
    return this.#doubtful ? this.update(() => ({})) : undefined;
  }

  /** Rewrites the header with the change applied to what it is then; stable before and after. */
  update(change: (now: Header) => Partial<Header>): Promise<void> {
    const done = this.#writes.then(async () => {
      const header = { ...this.header, ...change(this.header) };
      const { context } = this.#parts;
      const old = await readBytes(context, this.#file, 0, 2 ** header.clusterBits);
      const writes = headerWrites(old, header);
      await this.#file.flush();
      try {
        await this.#write(writes);
      } catch (error) {
        await this.#write([{ at: 0, bytes: serialiseHeader(this.header) }]).catch(() => {});
        throw error;
      }
      this.header = header;
    });
    this.#writes = done.catch(() => {});
    return done;
  }
  async #write(writes: readonly HeaderWrite[]): Promise<void> {
    this.#doubtful = true;
    for (const { at, bytes } of writes) {
      await writeBytes(this.#parts.context, this.#file, at, bytes);
      await this.#file.flush();
    }
    this.#doubtful = false;
  }
  /** Waits for the changes under way. */
  settled(): Promise<void> {
    return this.#writes;
  }

  has(feature: bigint): boolean {
    return (this.header.incompatibleFeatures & feature) !== 0n;
  }
  #set(feature: bigint, on: boolean): Promise<void> {
    return this.update(({ incompatibleFeatures: now }) => ({
      incompatibleFeatures: on ? now | feature : now & ~feature,
    }));
  }

  /** Sets the dirty bit. Undefined: it is set already. */
  markDirty(): Promise<void> | undefined {
    if (this.has(Incompatible.dirty)) return undefined;
    return this.#marking ??= this.#set(Incompatible.dirty, true).finally(() =>
      this.#marking = undefined
    );
  }
  /** Takes the dirty bit away, if it is there. */
  async markClean(): Promise<void> {
    if (this.has(Incompatible.dirty)) await this.#set(Incompatible.dirty, false);
  }

  /**
   * Tells, once, that a structure is broken. `fatal`: the image is writable, and marked from now on; that is told
   * though something else was before.
   */
  markCorrupt(message: string, fatal: boolean, offset?: number, size?: number): void {
    if (this.corrupt || (!fatal && this.#suspect)) return;
    this.corrupt = fatal;
    this.#suspect = true;
    const { context: { log }, nodeName, open } = this.#parts;
    log.error(
      fatal
        ? `qcow2: Marking image as corrupt: ${message}; further corruption events will be suppressed`
        : `qcow2: Image is corrupt: ${message}; further non-fatal corruption events will be suppressed`,
    );
    open.emit("BLOCK_IMAGE_CORRUPTED", {
      device: "",
      "node-name": nodeName,
      msg: message,
      ...(offset === undefined ? {} : { offset }),
      ...(size === undefined ? {} : { size }),
      fatal,
    });
    if (!fatal || this.header.version < 3) return;
    this.#set(Incompatible.corrupt, true).catch((error) => {
      log.error(`node '${nodeName}': the corrupt mark cannot be written: ${String(error)}`);
    });
  }
}
