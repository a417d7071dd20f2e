/**
 * How a file is open, as permissions and reopen ask for it: the mode of the descriptor, and with it the locks.
 *
 * The descriptor keeps its number for as long as the node lives: when the mode must change the file is opened
 * once more and dup2'ed over it, so that requests under way see either of two descriptions of one file.
 */
import { type Context, F } from "../../../sys/mod.ts";
import { type OpenContext, Perm, type PermissionChange } from "../../mod.ts";
import { ImageLocks } from "./locking.ts";
import { openAgain, type OpenedFile, type OpenMode } from "./open.ts";
import type { FileOptions } from "./options.ts";

/** Permissions that need a descriptor open for writing. */
const WRITING = Perm.write | Perm.writeUnchanged | Perm.resize;

/** How the node may be written: never, always, or opened for writing only while someone writes. */
type Mode = "read-only" | "read-write" | "dynamic";

/** What a reopen can change. */
export interface AccessState {
  readonly mode: Mode;
  /** The descriptor is open for writing. */
  readonly writable: boolean;
  readonly direct: boolean;
}

/** What the access of one instance leaves to that of the next. */
export interface AccessCarried {
  readonly needed: number;
  readonly shared: number;
  readonly writable: boolean;
}

/** The state that the common options ask for, while `needed` are the permissions in use. */
export function stateOf(open: OpenContext, needed: number): AccessState {
  const mode = open.readOnly ? "read-only" : open.autoReadOnly ? "dynamic" : "read-write";
  return { mode, writable: isWritable(mode, needed), direct: open.cache.direct };
}

function isWritable(mode: Mode, needed: number): boolean {
  return mode === "read-write" || mode === "dynamic" && (needed & WRITING) !== 0;
}

/** The access of one node to its file. */
export class Access {
  readonly #context: Context;
  readonly #file: OpenedFile;
  readonly #filename: string;
  readonly #locks: ImageLocks | undefined;
  #state: AccessState;
  /** As it will be if the reopen that is prepared is committed. */
  #next: AccessState | undefined;
  /** The descriptor that takes the place of the present one then, if another one is needed. */
  #reopened: number | undefined;
  /** Permissions as last settled. */
  #needed: number = Perm.none;
  #shared: number = Perm.all;

  constructor(open: OpenContext, options: FileOptions, file: OpenedFile) {
    const { sys } = this.#context = open.context;
    this.#file = file;
    this.#filename = options.filename;
    this.#state = stateOf(open, Perm.none);
    if (options.locking !== "off") this.#locks = new ImageLocks(sys, options.filename);
  }

  /** The descriptor is open for writing. */
  get writable(): boolean {
    return this.#state.writable;
  }
  /** The descriptor bypasses the page cache. */
  get direct(): boolean {
    return this.#state.direct;
  }

  /** What another instance needs to go on with the descriptor and its locks: see `adopt`. */
  get carried(): AccessCarried {
    return { needed: this.#needed, shared: this.#shared, writable: this.#state.writable };
  }

  /** The descriptor comes from another instance, with its locks. */
  adopt({ needed, shared, writable }: AccessCarried): void {
    this.#state = { ...this.#state, writable };
    this.#needed = needed;
    this.#shared = shared;
    this.#locks?.adopt(needed, shared);
  }

  /** See DriverInstance. Locks follow permissions; so does the descriptor's mode with auto-read-only. */
  async preparePermissions(needed: number, shared: number): Promise<PermissionChange> {
    const { fd } = this.#file;
    // A reopen that is prepared will be committed first: these permissions are for what comes after it.
    const base = this.#next ?? this.#state;
    // The locks of a descriptor that a reopen has ready are another description's, and would be in our own way; they
    // are placed again below.
    const reopened = this.#reopened;
    if (reopened !== undefined) this.#locks?.takeOff(reopened);
    this.#locks?.prepare(fd, needed, shared);
    const unlock = () => this.#locks?.abort(fd, needed, shared);
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
        this.#locks?.settle(fd, needed, shared);
      },
      abort: () => {
        if (again !== undefined) this.#context.sys.close(again);
        unlock();
      },
    };
  }

  /** Gets ready for what `open` asks for; `commit` or `abort` follows. CommandError refuses. */
  async prepareReopen(open: OpenContext): Promise<{ commit(): void; abort(): void }> {
    const next = stateOf(open, this.#needed);
    const settle = () => {
      this.#next = undefined;
      this.#reopened = undefined;
    };
    const abort = () => {
      if (this.#reopened !== undefined) this.#context.sys.close(this.#reopened);
      settle();
    };
    try {
      if (next.writable !== this.writable || next.direct !== this.direct) {
        this.#reopened = await this.#openAgain(next);
        this.#locks?.placeOn(this.#reopened, this.#needed, this.#shared);
      }
    } catch (error) {
      abort();
      throw error;
    }
    this.#next = next;
    return {
      commit: () => {
        if (this.#reopened !== undefined) this.#replace(this.#reopened);
        this.#state = next;
        settle();
      },
      abort,
    };
  }

  #openAgain(mode: OpenMode): Promise<number> {
    const { fd, kind } = this.#file;
    return openAgain(this.#context, fd, this.#filename, kind, mode);
  }

  /** Puts `again`, another description of the same file, in the place of the node's descriptor. */
  #replace(again: number): void {
    const { sys } = this.#context;
    sys.dup2(again, this.#file.fd);
    sys.fcntl(this.#file.fd, F.SETFD, F.FD_CLOEXEC);
    sys.close(again);
  }
}
