/** An NBD export: a node under a name, with what clients are told of it and what they did with it. */
import { alignDown, SECTOR } from "../base/mod.ts";
import type { Bits } from "../block/bitmaps/mod.ts";
import type { BlockBackend } from "../block/mod.ts";
import type { RemoteExport } from "./remote.ts";
import { Traffic } from "./trial.ts";
import {
  BASE_ALLOCATION,
  Framing,
  MAX_PAYLOAD,
  QEMU_ALLOCATION_DEPTH,
  QEMU_DIRTY_BITMAP,
  TransmissionFlag,
} from "./wire.ts";

/** A metadata context that an export offers. */
export type MetaContext =
  & {
    readonly id: number;
    readonly name: string;
  }
  & (
    | { readonly kind: "allocation" | "depth" }
    | { readonly kind: "bitmap"; readonly bitmap: ExportedBitmap }
  );

/** A dirty bitmap as an export needs it. */
export interface ExportedBitmap {
  readonly name: string;
  readonly bits: Bits;
  /** Resolves when `bits`, which were resized in another thread, are as they are there. */
  renew?(): Promise<void>;
}

/** What an export is made of. */
export interface NbdExportOptions {
  /** As clients ask for it. */
  readonly name: string;
  readonly description?: string;
  readonly writable: boolean;
  /** Every write is made durable before it is acknowledged. */
  readonly writethrough: boolean;
  /** Offers qemu:allocation-depth. */
  readonly allocationDepth: boolean;
}

/** Counters for status and metrics; bytes are payload bytes. */
export class Counters {
  requests = 0;
  errors = 0;
  bytesRead = 0;
  bytesWritten = 0;
  inFlight = 0;

  /** Adds the numbers of another. */
  add(other: Readonly<Counters>): void {
    this.requests += other.requests;
    this.errors += other.errors;
    this.bytesRead += other.bytesRead;
    this.bytesWritten += other.bytesWritten;
    this.inFlight += other.inFlight;
  }

  /** The same numbers. */
  copy(): Counters {
    const copy = new Counters();
    copy.add(this);
    return copy;
  }
}

/** Replies that a client has not taken yet. */
export interface Unsent {
  readonly bytes: number;
  /** For how long it has taken none, in nanoseconds. */
  readonly stalledNs: number;
}

/** Nothing waits for the client. */
export const NOTHING_UNSENT: Unsent = { bytes: 0, stalledNs: 0 };

/** An export as connections see it. */
export class NbdExport {
  readonly name: string;
  readonly description: string | undefined;
  readonly writable: boolean;
  readonly writethrough: boolean;
  readonly contexts: readonly MetaContext[];
  readonly counters: Counters = new Counters();
  /** Its parts in IOThreads; in the main context alone. */
  remote: RemoteExport | undefined;
  /**
   * A range known to hold data, [dataStart, dataEnd): reads inside need no block status. It may be out of
   * date without harm, since a hole may always be sent as data.
   */
  dataStart = 0;
  dataEnd = 0;
  /** See trial.ts. */
  readonly traffic = new Traffic();

  /** `bitmaps` are offered as contexts, in that order. */
  constructor(
    readonly backend: BlockBackend,
    options: NbdExportOptions,
    bitmaps: readonly ExportedBitmap[] = [],
  ) {
    this.name = options.name;
    this.description = options.description;
    this.writable = options.writable;
    this.writethrough = options.writethrough;
    const contexts: MetaContext[] = [{ id: 0, name: BASE_ALLOCATION, kind: "allocation" }];
    if (options.allocationDepth) {
      contexts.push({ id: 1, name: QEMU_ALLOCATION_DEPTH, kind: "depth" });
    }
    bitmaps.forEach((bitmap, i) =>
      contexts.push({ id: 2 + i, name: QEMU_DIRTY_BITMAP + bitmap.name, kind: "bitmap", bitmap })
    );
    this.contexts = contexts;
  }

  /** Bytes, now: whole sectors, as QEMU shows it. */
  get size(): number {
    return alignDown(this.backend.size, SECTOR);
  }

  /** Smallest request in bytes that the node takes without rounding; shown to clients that ask. */
  get minimumBlock(): number {
    return this.backend.limits.requestAlignment;
  }

  /** Largest payload in bytes. */
  get maximumBlock(): number {
    return Math.min(this.backend.limits.maxTransfer, MAX_PAYLOAD);
  }

  /** Transmission flags for a client with this framing. */
  flags(framing: Framing, multiConn: boolean, contexts: number): number {
    const f = TransmissionFlag;
    let flags = f.hasFlags | f.sendFlush | f.sendFua | f.sendCache;
    if (multiConn) flags |= f.canMultiConn;
    flags |= this.writable ? f.sendTrim | f.sendWriteZeroes | f.sendFastZero : f.readOnly;
    if (framing !== Framing.simple) flags |= f.sendDf;
    if (framing === Framing.extended && contexts > 0) flags |= f.blockStatusPayload;
    return flags;
  }

  /** Forgets the range known to hold data (it was trimmed, or may be). */
  forgetData(): void {
    this.dataStart = this.dataEnd = 0;
  }
}

/** The exports that a server offers; looked up at every option, since they come and go. */
export interface ExportDirectory {
  find(name: string): NbdExport | undefined;
  list(): Iterable<NbdExport>;
  /** Whether several connections may use an export at once. */
  readonly multiConn: boolean;
}
