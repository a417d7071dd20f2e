/**
 * `null-co`, `null-aio`: a disk that forgets what is written, for tests and benchmarks. null-co answers at once
 * (after latency-ns, if given); null-aio always later.
 *
 * Reads give zeroes. Without read-zeroes QEMU leaves the buffer as it is, that is undefined; but buffers are
 * pooled, and over an export a client would see what another client's request left there. So only memory that is
 * the requester's own (a virtual machine's) stays as it is; else read-zeroes decides only what block status says.
 */
import { CommandError, GiB, type IoVec, type MaybePromise } from "../../base/mod.ts";
import { BlockdevOptionsNull } from "../../qmp/schema/blockdev.ts";
import type { Infer } from "../../qmp/schema/core.ts";
import type { Context } from "../../sys/mod.ts";
import {
  type BlockStatus,
  defineDriver,
  type DriverDefinition,
  type ImageFacts,
  type IoInstance,
  type OpenContext,
  type ReopenChange,
  RequestFlag,
  zeroFill,
} from "../mod.ts";
import { jsonFilename, refuseNegative } from "./filename.ts";
import { refuseChanges } from "./reopen.ts";

/** Options of null-co and null-aio. */
export type NullOptions = Infer<typeof BlockdevOptionsNull>;
type Name = "null-co" | "null-aio";

class NullInstance implements IoInstance {
  readonly kind = "io";
  readonly size: number;
  /** Nothing is kept, so everything written is as durable as it will be. */
  readonly supportedFlags: number = RequestFlag.fua;
  readonly #latency: number;
  readonly #zeroes: boolean;

  constructor(readonly context: Context, readonly name: Name, readonly options: NullOptions) {
    this.size = options.size ?? GiB;
    this.#latency = Number(options["latency-ns"] ?? 0);
    this.#zeroes = options["read-zeroes"] ?? false;
  }

  read(_offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    // Another client's request may have left something in the buffer.
    if (this.#zeroes || (flags & RequestFlag.ownMemory) === 0) zeroFill(this.context.sys, iov);
    return this.#later();
  }

  write(): MaybePromise<void> {
    return this.#later();
  }
  writeZeroes(): MaybePromise<void> {
    return this.#later();
  }
  discard(): MaybePromise<void> {
    return this.#later();
  }
  flush(): MaybePromise<void> {
    return this.#later();
  }

  status(offset: number, length: number, _precise: boolean, out: BlockStatus): void {
    out.length = length;
    out.allocated = this.#zeroes;
    // Nothing is stored, so that there is a hole, though one of unknown contents.
    out.data = false;
    out.zero = this.#zeroes;
    out.offset = offset;
  }

  #later(): MaybePromise<void> {
    if (this.#latency > 0) return this.context.loop.sleep(this.#latency);
    if (this.name === "null-aio") {
      return new Promise((resolve) => this.context.loop.defer(resolve));
    }
  }

  prepareReopen(_next: OpenContext, options: unknown): ReopenChange {
    refuseChanges(this.options, options as NullOptions, ["size", "latency-ns", "read-zeroes"]);
    return { commit: () => {}, abort: () => {} };
  }

  facts(): Partial<ImageFacts> {
    const { size, "read-zeroes": zeroes } = this.options;
    const plain = size === undefined && zeroes === undefined;
    const json = { "read-zeroes": zeroes, driver: this.name, size };
    const facts = { format: this.name, actualSize: 0 };
    if (plain) return { ...facts, filename: `${this.name}://` };
    return { ...facts, filename: jsonFilename(json), options: json };
  }

  close(): void {}
}

function define(name: Name): DriverDefinition<NullOptions> {
  return defineDriver<NullOptions>({
    name,
    kind: "protocol",
    options: BlockdevOptionsNull,
    open(open, options) {
      refuseNegative("size", options.size);
      const latency = options["latency-ns"] ?? 0;
      // The latency is a signed 64-bit number inside.
      if (latency >= 2n ** 63n) throw new CommandError("latency-ns is invalid");
      return new NullInstance(open.context, name, options);
    },
  });
}

/** QEMU driver `null-co`. */
export const nullCo: DriverDefinition<NullOptions> = define("null-co");
/** QEMU driver `null-aio`. */
export const nullAio: DriverDefinition<NullOptions> = define("null-aio");
