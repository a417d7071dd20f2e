/**
 * Data that passes our memory by: between the page cache of a file and a descriptor of whoever uses a node (a client's
 * socket). Both ends speak of it in the same terms: a node's user asks its backend (BackendPages), each format says
 * where a range lies and what it allows (FormatInstance), and the driver of the file does it (FilePages). pages.ts is
 * the way between them. Where an end has no pages, or says no, data is read and written as ever.
 */
import type { MaybePromise } from "../base/mod.ts";

/** Where data lies in an open file, for those who can send it from there. Valid until anything else runs. */
export interface FilePlace {
  fd: number;
  /** Bytes. */
  offset: number;
}

/** What goes past our memory, either way. The range lies within the node. */
export interface PageTransfers {
  /**
   * Where a range lies in the page cache of one file, so that it can be sent from there at once. False: read it.
   * Sending may go on while others write: it shows the old or the new data, as a read would. `known`: it was there a
   * moment ago, do not ask again.
   */
  locate(offset: number, length: number, known: boolean, out: FilePlace): boolean;
  /**
   * Whether data for a range had better come out of a pipe, now: it goes to a file, just as it is. 0: no, write it.
   * Else parts of it are to end at multiples of so many bytes where they can.
   */
  pipeUnit(offset: number, length: number): number;
  /**
   * Writes at once the `length` bytes that wait in the pipe whose reading end is `pipe`. Call it when `pipeUnit` has
   * just agreed for the range. Bytes written, or -errno: what is left in the pipe can still be written, which works
   * where pages cannot be moved, or tells why not. Throws BlockError when data was taken out of the pipe and not
   * written.
   */
  writeFromPipe(offset: number, pipe: number, length: number): number;
}

/** The page cache below a range. */
export interface CachedPages {
  /**
   * Whether any of the range is in the page cache of a file, now. Undefined: it cannot be told, or zeroing the range
   * could not take it out of there.
   */
  inPageCache(offset: number, length: number): boolean | undefined;
  /**
   * Asks the kernel to take those pages of a file out of the page cache that lie in the range, are written out and are
   * held by nobody else; none that is part of a larger one which reaches beyond the range. It never fails.
   */
  dropPages(offset: number, length: number): MaybePromise<void>;
}

/** As the driver of a file offers them: the node's bytes are the file's, at the same offsets. */
export interface FilePages extends PageTransfers, CachedPages {}

/** As a node's user has them. What it moves by itself is no request yet: it says when one is complete. */
export interface BackendPages extends PageTransfers {
  /** Counts a read of `length` bytes that were sent from where `locate` found them. */
  countRead(length: number): void;
  /** Counts a write of `length` bytes that was made with `writeFromPipe`, in whatever parts. */
  countWrite(length: number): void;
}
