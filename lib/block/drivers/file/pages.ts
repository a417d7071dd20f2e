/** The pages of an open file in the page cache: what may be sent from there, and what comes there out of a pipe. */
import { knowsNoSplice, type Sys } from "../../../sys/mod.ts";
import { alignDown } from "../../../base/mod.ts";
import type { FilePages, FilePlace } from "../../mod.ts";
import { advise, POSIX_FADV_DONTNEED } from "./linux.ts";
import type { FileKind } from "./open.ts";
import type { Transfer } from "./transfer.ts";

/**
 * Ranges asked for in a row that were in the page cache, after which the next ones count as ready. Before, pages that
 * are there may still be on their way from the disk: cachestat does not tell, and whoever takes them waits.
 */
const CACHED_RUN = 16;
const PAGE = 4096;

/** Those of a file or block device; survives reopening, as `transfer` does. */
export class PagesOfFile implements FilePages {
  /** Kernels before 6.5 do not say, nor does any about a file that we could not write to. */
  #tellsCached = true;
  /** Not every file system takes pages out of a pipe, and filters of system calls may know no splice. */
  #splices = true;

  constructor(
    private readonly sys: Sys,
    private readonly transfer: Transfer,
    private readonly kind: FileKind,
  ) {}

  locate(offset: number, length: number, known: boolean, out: FilePlace): boolean {
    if (!this.#isReady(offset, length, known)) return false;
    out.fd = this.transfer.fd;
    out.offset = offset;
    return true;
  }

  /** Whether the range can be taken out of the page cache without waiting. `known`: it could a moment ago. */
  #isReady(offset: number, length: number, known: boolean): boolean {
    const { transfer } = this;
    if (transfer.directAlignment > 0 || transfer.readGuard.slow || !this.#tellsCached) return false;
    if (known) return transfer.cachedRun >= CACHED_RUN;
    const from = alignDown(offset, PAGE);
    const pages = this.sys.cachedPages(transfer.fd, from, offset + length - from);
    this.#tellsCached = pages >= 0;
    const all = pages === Math.ceil((offset + length - from) / PAGE);
    transfer.cachedRun = all ? transfer.cachedRun + 1 : 0;
    return transfer.cachedRun > CACHED_RUN;
  }

  /** Of devices it is not known what zeroing does to their pages. */
  inPageCache(offset: number, length: number): boolean | undefined {
    if (this.kind !== "file") return undefined;
    const pages = this.sys.cachedPages(this.transfer.fd, offset, length);
    return pages < 0 ? undefined : pages > 0;
  }

  async dropPages(offset: number, length: number): Promise<void> {
    if (this.kind !== "file") return;
    await advise(this.sys, this.transfer.fd, offset, length, POSIX_FADV_DONTNEED);
  }

  /** Where a write is made inline now, and plainly: splice knows no RWF.NOWAIT. */
  pipeUnit(): number {
    return this.#splices && this.transfer.writesPlainly ? 1 : 0;
  }

  writeFromPipe(offset: number, pipe: number, length: number): number {
    const rc = this.transfer.writeFromPipe(offset, pipe, length);
    if (knowsNoSplice(rc)) this.#splices = false;
    return rc;
  }
}
