/**
 * Data of READs that is queued before it is read: sent from the page cache as the client takes it, or read then. How
 * large reads are answered fastest is tried (trial.ts); small ones and what is in no page cache is read at once
 * (read.ts).
 */
import { IoVec, type MaybePromise } from "../base/mod.ts";
import type { BackendPages, BlockBackend, FilePlace } from "../block/mod.ts";
import type { NbdExport } from "./export.ts";
import { type DataSource, SOURCE_PIECE } from "./output.ts";
import type { Replies } from "./replies.ts";
import { AGAIN, INTERRUPTED } from "./transport.ts";
import { type Clock, Trial } from "./trial.ts";
import type { Cookie } from "./wire.ts";

/**
 * Reads at least this long are sent from the page cache where that is possible. Measured, with a client that keeps up:
 * 85 us of CPU time a MiB instead of 280, at 64 KiB a read; below, the additional system calls outweigh the copy.
 */
const SEND_FROM = 64 * 1024;

/** What reads need of the executor. */
export interface ReadHost {
  readonly replies: Replies;
  readonly counters: { inFlight: number; bytesRead: number };
  readonly clock: Clock;
  bytesInFlight: number;
  /** So many bytes are in flight that further pieces wait for them. */
  readonly full: boolean;
  fail(to: Cookie, error: unknown, text: string): void;
  ended(bytes: number): void;
  /** Something was queued outside a turn, or there is room again. */
  wake(): void;
}

/** The source of one connection's output. */
export class ReadSource implements DataSource {
  readonly #host: ReadHost;
  readonly #backend: BlockBackend;
  readonly #pages: BackendPages | undefined;
  /** Whether data may be sent from the page cache. */
  #sends: boolean;
  /** Whether it is better sent. */
  readonly #trial: Trial;
  readonly #place: FilePlace = { fd: -1, offset: 0 };

  constructor(host: ReadHost, target: NbdExport) {
    this.#host = host;
    this.#backend = target.backend;
    this.#pages = target.backend.pages;
    const { output } = host.replies;
    output.source = this;
    this.#trial = new Trial(host.clock, target.traffic);
    this.#sends = output.sendsFiles && this.#pages !== undefined;
  }

  /** Whether the data of a read is to be sent from the page cache, where it is now. */
  sendable(position: number, length: number): boolean {
    if (length < SEND_FROM || !this.#sends) return false;
    this.#trial.count(length);
    return this.#trial.sends &&
      this.#pages!.locate(position, Math.min(length, SOURCE_PIECE), false, this.#place);
  }

  /** Whether all of a long range can be sent from the page cache now. */
  cached(position: number, length: number): boolean {
    if (!this.#sends) return false;
    for (let at = 0; at < length; at += SOURCE_PIECE) {
      const piece = Math.min(SOURCE_PIECE, length - at);
      if (!this.#pages!.locate(position + at, piece, false, this.#place)) return false;
    }
    return true;
  }

  /** Queues a reply (all of it, or a chunk) whose data was found `sendable` or `cached` just now. */
  queueCached(to: Cookie, position: number, length: number, last: boolean): void {
    this.#queue(to, position, length, last, true);
    this.#pages!.countRead(length);
  }

  /** Queues a reply whose data could be read just now. */
  queueRead(to: Cookie, position: number, length: number): void {
    this.#queue(to, position, length, true, false);
  }

  /** `fresh`: the data was found in the page cache just now. */
  #queue(to: Cookie, position: number, length: number, last: boolean, fresh: boolean): void {
    const { output, dataHeader } = this.#host.replies;
    output.reserve(dataHeader);
    this.#host.replies.putDataHeader(output.view, output.at, to, position, length, last);
    output.commit(dataHeader);
    output.queueSource(position, length, fresh);
  }

  /** DataSource.send. */
  send(position: number, length: number, fresh: boolean): number | undefined {
    const place = this.#place;
    if (!this.#sends || !this.#pages!.locate(position, length, fresh, place)) return undefined;
    const sent = this.#host.replies.output.sendFile(place.fd, place.offset, length);
    if (sent > 0 || sent === AGAIN || sent === INTERRUPTED) return sent;
    // The end of a file that was cut short reads as zeroes; errors come again when it is read, or sent.
    if (sent < 0) this.#sends = false;
    return undefined;
  }

  /** DataSource.fetch. */
  fetch(position: number, length: number, address: number): MaybePromise<void> {
    const pending = this.#backend.read(position, new IoVec().single(address, length));
    if (pending === undefined) return undefined;
    this.#host.counters.inFlight++;
    this.#host.bytesInFlight += length;
    return pending.finally(() => this.#host.ended(length));
  }
}
