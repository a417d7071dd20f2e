/**
 * An open file, device or drive. Data path: transfer.ts; zeroes and discards: space.ts; status: extents.ts; locks:
 * locking.ts. Here: life cycle, permissions (with them the mode of the descriptor) and resizing.
 *
 * The descriptor keeps its number for as long as the node lives: when the mode must change the file is opened
 * once more and dup2'ed over it, so that requests under way see either of two descriptions of one file.
 */
import { BLK, type Context, Errno, errnoName, F } from "../../../sys/mod.ts";
import { BlockError, CommandError, type IoVec, type MaybePromise } from "../../../base/mod.ts";
import {
  type BlockStatus,
  type FilePages,
  type HandedOver,
  type ImageFacts,
  type IoInstance,
  type Limits,
  type OpenContext,
  Perm,
  type PermissionChange,
  type ReopenChange,
  type TruncateOptions,
} from "../../mod.ts";
import { refuseChanges, refuseResets } from "../reopen.ts";
import { probeDirectAlignment, sectorSize } from "./alignment.ts";
import { ThreadsEngine, type TransferEngine } from "./engine.ts";
import { Extents } from "./extents.ts";
import { blockError } from "./failures.ts";
import { advise, CDS_DISC_OK, CDSL_CURRENT, POSIX_FADV_WILLNEED } from "./linux.ts";
import { ImageLocks } from "./locking.ts";
import {
  type DriverName,
  type FileKind,
  openAgain,
  type OpenedFile,
  type OpenMode,
  sizeOf,
} from "./open.ts";
import { PagesOfFile } from "./pages.ts";
import { resizeFile } from "./resize.ts";
import { Space } from "./space.ts";
import { Transfer } from "./transfer.ts";

/** Permissions that need a descriptor open for writing. */
const WRITING = Perm.write | Perm.writeUnchanged | Perm.resize;

/** What blockdev-add said, as far as it matters after opening. */
export interface FileOptions {
  filename: string;
  locking?: "auto" | "on" | "off";
  aio?: "threads" | "native" | "io_uring";
  "aio-max-batch"?: number | bigint;
  [option: string]: unknown;
}

/** How the node may be written: never, always, or opened for writing only while someone writes. */
type Mode = "read-only" | "read-write" | "dynamic";

/** What a reopen can change. */
interface State {
  readonly mode: Mode;
  /** The descriptor is open for writing. */
  readonly writable: boolean;
  readonly direct: boolean;
  /** The descriptor that will take the place of the present one. */
  again: number | undefined;
}

/** What one instance leaves to the next, besides its descriptor. */
interface Carried {
  readonly kind: FileKind;
  readonly needed: number;
  readonly shared: number;
  readonly writable: boolean;
  readonly flushFailed: string | undefined;
}

/** The state that the common options ask for, while `needed` are the permissions in use. */
export function stateOf(open: OpenContext, needed: number): State {
  const mode = open.readOnly ? "read-only" : open.autoReadOnly ? "dynamic" : "read-write";
  const { direct } = open.cache;
  return { mode, writable: isWritable(mode, needed), direct, again: undefined };
}

function isWritable(mode: Mode, needed: number): boolean {
  return mode === "read-write" || mode === "dynamic" && (needed & WRITING) !== 0;
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
  readonly #locks: ImageLocks | undefined;
  readonly #engine: TransferEngine;
  #options: FileOptions;
  #state: State;
  /** As it will be if the reopen that is prepared is committed. */
  #next: State | undefined;
  /** Permissions as last settled. */
  #needed: number = Perm.none;
  #shared: number = Perm.all;
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
    this.#state = stateOf(open, Perm.none);
    this.#engine = engine;
    this.#transfer = new Transfer(open.context.sys, file.fd, open.nodeName, engine);
    this.#transfer.size = file.size;
    if (driver !== "host_cdrom") {
      this.pages = new PagesOfFile(open.context.sys, this.#transfer, file.kind);
    }
    this.#space = new Space(open.context, file.fd, open.nodeName, file.kind);
    this.#extents = new Extents(open.context.sys, file.fd);
    if (options.locking !== "off") {
      this.#locks = new ImageLocks(open.context.sys, options.filename);
    }
    this.#findLimits(file.fd, this.#state.direct);
  }

  /** Goes on with the descriptor of another instance, in another thread, and with its locks. */
  static takeOver(
    open: OpenContext,
    driver: DriverName,
    options: FileOptions,
    engine: TransferEngine,
    { fds: [fd], state }: HandedOver,
  ): FileInstance {
    const { kind, needed, shared, writable, flushFailed } = state as Carried;
    const file = { fd: fd!, kind, size: sizeOf(open.context, fd!, kind) };
    const instance = new FileInstance(open, driver, options, file, engine);
    instance.#state = { ...instance.#state, writable };
    instance.#needed = needed;
    instance.#shared = shared;
    instance.#flushFailed = flushFailed;
    instance.#locks?.adopt(needed, shared);
    return instance;
  }

  async handOver(): Promise<HandedOver> {
    await this.#engine.close();
    const carried: Carried = {
      kind: this.#fileKind,
      needed: this.#needed,
      shared: this.#shared,
      writable: this.#state.writable,
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
    if (this.#state.direct) return;
    await advise(this.#context.sys, this.#fd, offset, length, POSIX_FADV_WILLNEED);
  }

  async flush(): Promise<void> {
    if (!this.#state.writable) return;
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
      if (!this.#state.direct) this.#flushFailed = errnoName(-rc);
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

  /** Locks follow permissions; so does the descriptor's mode with auto-read-only. */
  async preparePermissions(needed: number, shared: number): Promise<PermissionChange> {
    // A reopen that is prepared will be committed first: these permissions are for what comes after it.
    const base = this.#next ?? this.#state;
    // The locks of a descriptor that a reopen has ready are another description's, and would be in our own way; they
    // are placed again below.
    const reopened = this.#next?.again;
    if (reopened !== undefined) this.#locks?.takeOff(reopened);
    this.#locks?.prepare(this.#fd, needed, shared);
    const unlock = () => this.#locks?.abort(this.#fd, needed, shared);
    const writable = isWritable(base.mode, needed);
    let again: number | undefined;
    try {
      if (writable !== base.writable) again = await this.#openAgain({ ...base, writable });
      const replacing = again ?? reopened;
      if (replacing !== undefined) {
        this.#locks?.placeOn(replacing, this.#needed | needed, this.#shared & shared);
      }
    } catch (error) {
      if (again !== undefined) this.#context.sys.close(again);
      unlock();
      throw error;
    }
    return {
      commit: () => {
        if (again !== undefined) this.#replace(again);
        this.#state = { ...this.#state, writable };
        this.#needed = needed;
        this.#shared = shared;
        this.#locks?.settle(this.#fd, needed, shared);
      },
      abort: () => {
        if (again !== undefined) this.#context.sys.close(again);
        unlock();
      },
    };
  }

  async prepareReopen(open: OpenContext, options: unknown): Promise<ReopenChange> {
    const given = options as FileOptions;
    refuseMigration(given);
    refuseChanges(this.#options, given, FIXED);
    refuseResets(this.#options, given, STICKY);
    const next = stateOf(open, this.#needed);
    const undo = () => {
      if (next.again !== undefined) this.#context.sys.close(next.again);
      this.#next = undefined;
    };
    try {
      if (next.writable !== this.#state.writable || next.direct !== this.#state.direct) {
        next.again = await this.#openAgain(next);
        this.#locks?.placeOn(next.again, this.#needed, this.#shared);
      }
    } catch (error) {
      undo();
      throw error;
    }
    this.#next = next;
    return {
      commit: () => {
        if (next.again !== undefined) this.#replace(next.again);
        this.#options = given;
        this.#state = { ...next, again: undefined };
        this.#next = undefined;
        this.#transfer.size = sizeOf(this.#context, this.#fd, this.#fileKind);
        this.#findLimits(this.#fd, next.direct);
      },
      abort: undo,
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

  #openAgain(mode: OpenMode): Promise<number> {
    const { filename } = this.#options;
    return openAgain(this.#context, this.#fd, filename, this.#fileKind, mode);
  }

  /** Puts `again`, another description of the same file, in the place of the node's descriptor. */
  #replace(again: number): void {
    const { sys } = this.#context;
    sys.dup2(again, this.#fd);
    sys.fcntl(this.#fd, F.SETFD, F.FD_CLOEXEC);
    sys.close(again);
  }

  #findLimits(fd: number, direct: boolean): void {
    const sector = this.#fileKind === "device" ? sectorSize(this.#context, fd) : 1;
    const alignment = direct
      ? probeDirectAlignment(this.#context, fd, this.#fileKind, this.#transfer.size)
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

/** Options that blockdev-reopen cannot change, and those that it can but not take back. */
const FIXED = ["filename", "locking", "aio", "aio-max-batch", "pr-manager"];
const STICKY = ["drop-cache", "x-check-cache-dropped"];

/** Throws CommandError for options, given at opening or reopening, that could never have an effect here (mod.ts). */
export function refuseMigration(options: FileOptions): void {
  const refuse = (name: string, value: boolean) => {
    if (options[name] !== !value) return;
    const why = "it is about live migration, which a storage daemon does not take part in";
    throw new CommandError(`Parameter '${name}' can only be ${value}: ${why}`);
  };
  refuse("drop-cache", true);
  refuse("x-check-cache-dropped", false);
}
