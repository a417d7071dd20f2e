/**
 * Pipes that pages pass through, from a socket to a file. They are empty between two uses, so the users of a context
 * share them: a pipe costs two descriptors, and its room counts towards a limit that all processes of a user have in
 * common (fs.pipe-user-pages-soft).
 */
import { F, O } from "./constants.ts";
import { Errno } from "./errno.ts";
import type { Pipe, PipePool, Sys } from "./types.ts";

/** Room that is asked for, in bytes. */
const ROOM = 256 * 1024;
/** With less room, copying is cheaper. New pipes have two pages when their user has too many. */
const LEAST_ROOM = 64 * 1024;
/** Empty pipes that are kept. */
const KEEP = 1;
/** After a pipe could not be made, none is asked for so many times. */
const PAUSE = 256;

const NO_SPLICE = [-Errno.EINVAL, -Errno.ENOSYS, -Errno.EOPNOTSUPP, -Errno.EPERM];

/** Whether Sys.splice answered so because a descriptor, or a filter of system calls, knows no splice: copying works. */
export function knowsNoSplice(result: number): boolean {
  return NO_SPLICE.includes(result);
}

/** PipePool over pipe2. */
export class Pipes implements PipePool {
  readonly #sys: Sys;
  readonly #kept: Pipe[] = [];
  #pause = 0;
  #closed = false;

  constructor(sys: Sys) {
    this.#sys = sys;
  }

  get available(): boolean {
    if (this.#kept.length > 0) return true;
    if (this.#pause > 0) {
      this.#pause--;
      return false;
    }
    const pipe = this.#make();
    if (pipe === undefined) this.#pause = PAUSE;
    else this.#kept.push(pipe);
    return pipe !== undefined;
  }

  borrow(): Pipe | undefined {
    return this.available ? this.#kept.pop() : undefined;
  }

  giveBack(pipe: Pipe): void {
    if (this.#closed || this.#kept.length >= KEEP) this.discard(pipe);
    else this.#kept.push(pipe);
  }

  discard({ from, into }: Pipe): void {
    this.#sys.close(from);
    this.#sys.close(into);
  }

  /** Closes those that are here; those that are borrowed follow when they come back. */
  close(): void {
    this.#closed = true;
    for (const pipe of this.#kept.splice(0)) this.discard(pipe);
  }

  #make(): Pipe | undefined {
    const ends = this.#closed ? -1 : this.#sys.pipe2(O.CLOEXEC | O.NONBLOCK);
    if (typeof ends === "number") return undefined;
    const [from, into] = ends;
    if (this.#sys.fcntl(into, F.SETPIPE_SZ, ROOM) < 0) {
      if (this.#sys.fcntl(into, F.GETPIPE_SZ, 0) < LEAST_ROOM) {
        this.discard({ from, into });
        return undefined;
      }
    }
    return { from, into };
  }
}
