/**
 * An open file, device or drive: its life cycle, flushes and resizing. Data path: transfer.ts; zeroes and discards:
 * space.ts; status: extents.ts; permissions, locks and the mode of the descriptor: access.ts.
 */
import { BLK, type Context, Errno, errnoName } from "../../../sys/mod.ts";
import { BlockError, type IoVec, type MaybePromise } from "../../../base/mod.ts";
import {
  type BlockStatus,
  type FilePages,
  type HandedOver,
  type ImageFacts,
  type IoInstance,
  type Limits,
  type OpenContext,
  type PermissionChange,
  type ReopenChange,
  type TruncateOptions,
} from "../../mod.ts";
import { Access, type AccessCarried } from "./access.ts";
import { probeDirectAlignment, sectorSize } from "./alignment.ts";
import { ThreadsEngine, type TransferEngine } from "./engine.ts";
import { Extents } from "./extents.ts";
import { blockError } from "./failures.ts";
import { advise, CDS_DISC_OK, CDSL_CURRENT, POSIX_FADV_WILLNEED } from "./linux.ts";
import { type DriverName, type FileKind, type OpenedFile, sizeOf } from "./open.ts";
import { checkReopen, type FileOptions } from "./options.ts";
import { PagesOfFile } from "./pages.ts";
import { resizeFile } from "./resize.ts";
import { Space } from "./space.ts";
import { Transfer } from "./transfer.ts";

/** What one instance leaves to the next, besides its descriptor. */
interface Carried extends AccessCarried {
  readonly kind: FileKind;
  readonly flushFailed: string | undefined;
}

/** An opened `file`, `host_device` or `host_cdrom` node. */
export class FileInstance implements IoInstance {
  readonly kind = "io";
  limits: Partial<Limits> = {};
  /** Drives are asked for their medium first. */
  readonly pages: FilePages | undefined;
  readonly #context: Context;
  readonly #node: string;
  readonly #driver: DriverName;
  readonly #fd: number;
  readonly #fileKind: FileKind;
  readonly #transfer: Transfer;
  readonly #space: Space;
  readonly #extents: Extents;
  readonly #access: Access;
  readonly #engine: TransferEngine;
  #options: FileOptions;
  /** errno name of a failed flush: what was in the page cache then may be lost for good. */
  #flushFailed: string | undefined;

  constructor(
    open: OpenContext,
    driver: DriverName,
    options: FileOptions,
    file: OpenedFile,
    engine: TransferEngine,
  ) {
    this.#context = open.context;
    this.#node = open.nodeName;
    this.#driver = driver;
    this.#fd = file.fd;
    this.#fileKind = file.kind;
    this.#options = options;
    this.#access = new Access(open, options, file);
    this.#engine = engine;
    this.#transfer = new Transfer(open.context.sys, file.fd, open.nodeName, engine);
    this.#transfer.size = file.size;
    if (driver !== "host_cdrom") {
      this.pages = new PagesOfFile(open.context.sys, this.#transfer, file.kind);
    }
    this.#space = new Space(open.context, file.fd, open.nodeName, file.kind);
    this.#extents = new Extents(open.context.sys, file.fd);
    this.#findLimits();
  }

  /** Goes on with the descriptor of another instance, in another thread, and with its locks. */
  static takeOver(
    open: OpenContext,
    driver: DriverName,
    options: FileOptions,
    engine: TransferEngine,
    { fds: [fd], state }: HandedOver,
  ): FileInstance {
    const carried = state as Carried;
    const { kind } = carried;
    const file = { fd: fd!, kind, size: sizeOf(open.context, fd!, kind) };
    const instance = new FileInstance(open, driver, options, file, engine);
    instance.#access.adopt(carried);
    instance.#flushFailed = carried.flushFailed;
    return instance;
  }

  async handOver(): Promise<HandedOver> {
    await this.#engine.close();
    const carried: Carried = {
      ...this.#access.carried,
      kind: this.#fileKind,
      flushFailed: this.#flushFailed,
    };
    return { fds: [this.#fd], state: carried };
  }

  inserted(): boolean {
    return this.#driver !== "host_cdrom" || this.#mediumPresent();
  }

  /** Bytes. Drives are asked each time, since media come and go. */
  get size(): number {
    if (this.#driver !== "host_cdrom") return this.#transfer.size;
    return this.#mediumPresent() ? sizeOf(this.#context, this.#fd, this.#fileKind) : 0;
  }

  /** Which engine carries requests that may block, and how many went either way; for status and tests. */
  get transfers(): { engine: string; inline: number; queued: number } {
    const { engine, counters } = this.#transfer;
    return { engine: engine.engine, inline: counters.inline, queued: counters.engine };
  }

  read(offset: number, iov: IoVec, _flags: number): MaybePromise<void> {
    if (this.#driver === "host_cdrom") this.#requireMedium("read", offset);
    return this.#transfer.read(offset, iov);
  }

  write(offset: number, iov: IoVec, _flags: number): MaybePromise<void> {
    if (this.#driver === "host_cdrom") this.#requireMedium("write", offset);
    return this.#transfer.write(offset, iov);
  }

  async writeZeroes(offset: number, length: number, flags: number): Promise<void> {
    this.#extents.forget(offset, length);
    await this.#space.writeZeroes(offset, length, flags);
    // Once more: a status request may have looked in the meantime.
    this.#extents.forget(offset, length);
    if (this.#fileKind === "file" && offset + length > this.#transfer.size) {
      this.#transfer.size = sizeOf(this.#context, this.#fd, "file");
    }
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#extents.forget(offset, length);
    try {
      await this.#space.discard(offset, length);
    } finally {
      this.#extents.forget(offset, length);
    }
  }

  status(offset: number, length: number, precise: boolean, out: BlockStatus): void {
    if (precise && this.#fileKind === "file") {
      return this.#extents.status(offset, length, this.#transfer.size, out);
    }
    out.allocated = out.data = true;
    out.zero = false;
    out.length = length;
    out.offset = offset;
  }

  async prefetch(offset: number, length: number): Promise<void> {
    if (this.#access.direct) return;
    await advise(this.#context.sys, this.#fd, offset, length, POSIX_FADV_WILLNEED);
  }

  async flush(): Promise<void> {
    if (!this.#access.writable) return;
    if (this.#flushFailed !== undefined) {
      throw new BlockError(this.#flushFailed, "An earlier flush failed; written data may be lost", {
        node: this.#node,
        op: "flush",
      });
    }
    for (;;) {
      const rc = await this.#context.sys.pool.fdatasync(this.#fd);
      if (rc >= 0) return;
      if (rc === -Errno.EINTR) continue;
      // The kernel reports a failed write-back once and may then call the lost pages clean: no later fdatasync can
      // be believed. With O_DIRECT the data is not in the page cache, and trying again is sound.
      if (!this.#access.direct) this.#flushFailed = errnoName(-rc);
      throw blockError(rc, this.#node, "flush");
    }
  }

  async truncate(size: number, options: TruncateOptions): Promise<void> {
    this.#extents.clear();
    const file = { fd: this.#fd, kind: this.#fileKind, size: this.size };
    try {
      await resizeFile(this.#context, file, this.#node, size, options);
    } finally {
      this.#extents.clear();
      this.#transfer.size = sizeOf(this.#context, this.#fd, this.#fileKind);
    }
  }

  preparePermissions(needed: number, shared: number): Promise<PermissionChange> {
    return this.#access.preparePermissions(needed, shared);
  }

  async prepareReopen(open: OpenContext, options: unknown): Promise<ReopenChange> {
    const given = options as FileOptions;
    checkReopen(this.#options, given);
    const change = await this.#access.prepareReopen(open);
    return {
      commit: () => {
        change.commit();
        this.#options = given;
        this.#transfer.size = sizeOf(this.#context, this.#fd, this.#fileKind);
        this.#findLimits();
      },
      abort: change.abort,
    };
  }

  facts(): Partial<ImageFacts> {
    const stat = this.#context.sys.fstat(this.#fd);
    const actualSize = typeof stat === "object" ? stat.allocated : 0;
    const { filename } = this.#options;
    const facts = { filename, format: this.#driver, actualSize };
    return this.#driver === "host_cdrom" ? facts : { ...facts, dirtyFlag: false };
  }

  statistics(): Record<string, unknown> | undefined {
    if (this.#driver === "host_cdrom") return undefined;
    const { discardOk, discardFailed, discardBytesOk } = this.#space.statistics;
    return {
      driver: this.#driver,
      "discard-nb-ok": discardOk,
      "discard-nb-failed": discardFailed,
      "discard-bytes-ok": discardBytesOk,
    };
  }

  /** Another process may have changed the file's length and where its holes are. */
  activate(): void {
    this.#extents.clear();
    this.#transfer.size = sizeOf(this.#context, this.#fd, this.#fileKind);
  }

  close(): MaybePromise<void> {
    // No request is in flight, so that the engine needs the descriptor no more.
    this.#context.sys.close(this.#fd);
    return this.#engine.close();
  }

  #findLimits(): void {
    const { direct } = this.#access;
    const sector = this.#fileKind === "device" ? sectorSize(this.#context, this.#fd) : 1;
    const alignment = direct
      ? probeDirectAlignment(this.#context, this.#fd, this.#fileKind, this.#transfer.size)
      : { request: 1, memory: 1 };
    // libaio is only asynchronous under O_DIRECT, which a reopen may take away.
    this.#transfer.engine = this.#engine.engine === "native" && !direct
      ? new ThreadsEngine(this.#context.sys)
      : this.#engine;
    this.#transfer.directAlignment = direct ? alignment.request : 0;
    this.#extents.alignment = alignment.request;
    this.limits = {
      requestAlignment: alignment.request,
      memoryAlignment: alignment.memory,
      writeZeroesAlignment: Math.max(sector, alignment.request),
      discardAlignment: Math.max(sector, alignment.request),
      maxSegments: 1024, // IOV_MAX
    };
  }

  #mediumPresent(): boolean {
    return this.#context.sys.ioctl(this.#fd, BLK.CDROM_DRIVE_STATUS, CDSL_CURRENT) === CDS_DISC_OK;
  }

  #requireMedium(op: string, offset: number): void {
    if (this.#mediumPresent()) return;
    throw new BlockError("ENOMEDIUM", "No medium found", { node: this.#node, op, offset });
  }
}
