/**
 * Image locks, byte-compatible with QEMU: shared open-file-description locks on single bytes of the image.
 * Byte 100+i says "I use permission i", byte 200+i "I do not share permission i" (i: index of the Perm bit).
 * After placing its own, a process asks whether another's lock is in the way: 200+i for each permission that
 * it uses, 100+i for each that it does not share. Byte 0 belongs to management software.
 */
import { errnoText, F, type Sys } from "../../../sys/mod.ts";
import { CommandError } from "../../../base/mod.ts";
import { Perm } from "../../mod.ts";

const USED_BASE = 100;
const UNSHARED_BASE = 200;
/** Names in messages, by bit index. */
const NAMES = ["consistent read", "write", "write unchanged", "resize"] as const;

type LockSys = Pick<Sys, "ofdSetLock" | "ofdTestLock">;

/** The locks that one opened image holds. */
export class ImageLocks {
  /** Perm bits locked as used, and as not shared. */
  #used = 0;
  #unshared = 0;

  constructor(readonly sys: LockSys, readonly filename: string) {}

  /** The locks are on the descriptor already: another instance has placed them. */
  adopt(needed: number, shared: number): void {
    this.#used = needed;
    this.#unshared = Perm.all & ~shared;
  }

  /** Perm bits locked as used. */
  get used(): number {
    return this.#used;
  }
  /** Perm bits locked as not shared. */
  get unshared(): number {
    return this.#unshared;
  }

  /**
   * Adds what `needed` and `shared` want beyond what is held, and tests for others. Throws CommandError with
   * everything as it was. On success `settle` or `abort` must follow.
   */
  prepare(fd: number, needed: number, shared: number): void {
    const unshared = Perm.all & ~shared;
    if ((needed & ~this.#used) === 0 && (unshared & ~this.#unshared) === 0) return;
    try {
      this.#place(fd, needed & ~this.#used, unshared & ~this.#unshared);
      this.#test(fd, needed, unshared);
    } catch (error) {
      this.abort(fd, needed, shared);
      throw error;
    }
  }

  /** Drops what `needed` and `shared` no longer want. */
  settle(fd: number, needed: number, shared: number): void {
    const unshared = Perm.all & ~shared;
    this.#drop(fd, this.#used & ~needed, this.#unshared & ~unshared);
    this.#used = needed;
    this.#unshared = unshared;
  }

  /** Drops what `prepare` added. */
  abort(fd: number, needed: number, shared: number): void {
    this.#drop(fd, needed & ~this.#used, Perm.all & ~shared & ~this.#unshared);
  }

  /**
   * Places on another descriptor of the same file what `needed` and `shared` want, without testing: the locks
   * of the descriptor that it will replace would be in the way, and they have been tested already.
   */
  placeOn(fd: number, needed: number, shared: number): void {
    this.#place(fd, needed, Perm.all & ~shared);
  }

  /** Undoes `placeOn`. */
  takeOff(fd: number): void {
    this.#drop(fd, Perm.all, Perm.all);
  }

  #place(fd: number, used: number, unshared: number): void {
    this.#each(used, USED_BASE, (byte) => this.#placeByte(fd, byte));
    this.#each(unshared, UNSHARED_BASE, (byte) => this.#placeByte(fd, byte));
  }

  #placeByte(fd: number, byte: number): void {
    const rc = this.sys.ofdSetLock(fd, F.RDLCK, byte, 1);
    if (rc < 0) throw new CommandError(`Failed to lock byte ${byte}: ${errnoText(-rc)}`);
  }

  #drop(fd: number, used: number, unshared: number): void {
    this.#each(used, USED_BASE, (byte) => this.sys.ofdSetLock(fd, F.UNLCK, byte, 1));
    this.#each(unshared, UNSHARED_BASE, (byte) => this.sys.ofdSetLock(fd, F.UNLCK, byte, 1));
  }

  #test(fd: number, used: number, unshared: number): void {
    this.#each(used, UNSHARED_BASE, (byte, name) => this.#testByte(fd, byte, `"${name}" lock`));
    this.#each(
      unshared,
      USED_BASE,
      (byte, name) => this.#testByte(fd, byte, `shared "${name}" lock`),
    );
  }

  #testByte(fd: number, byte: number, what: string): void {
    const found = this.sys.ofdTestLock(fd, F.WRLCK, byte, 1);
    if (found === F.UNLCK) return;
    const why = found < 0 ? `: ${errnoText(-found)}` : "";
    throw new CommandError(`Failed to get ${what}${why}`, "GenericError", [
      `Is another process using the image [${this.filename}]?`,
    ]);
  }

  #each(bits: number, base: number, visit: (byte: number, name: string) => void): void {
    for (let i = 0; i < NAMES.length; i++) {
      if ((bits & (1 << i)) !== 0) visit(base + i, NAMES[i]!);
    }
  }
}
