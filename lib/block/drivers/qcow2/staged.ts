/** Pieces of metadata, copied out of a cache and written together: neighbours become one write. */
import { assert, IoVec } from "../../../base/mod.ts";
import { type Context, type Memory, Pace } from "../../../sys/mod.ts";
import type { Child } from "../../mod.ts";
import { Bounded } from "../../mod.ts";

/** Largest single write, in bytes. */
const MAX_WRITE = 1 << 20;

interface Piece {
  readonly host: number;
  readonly source: number;
  readonly length: number;
}
interface Run {
  readonly host: number;
  length: number;
  readonly pieces: Piece[];
  buffer?: Memory;
}

/** What one commit writes of one cache. */
export class StagedSlices {
  readonly #runs: Run[] = [];
  #copied = false;
  /** Called once by `finish`. */
  onFinish: ((written: boolean) => void) | undefined;

  constructor(private readonly context: Context, private readonly file: Child) {}

  /** Adds `length` bytes at `source` for `host`, in rising order of `host`. */
  add(host: number, source: number, length: number): void {
    const last = this.#runs.at(-1);
    const piece = { host, source, length };
    if (
      last !== undefined && last.host + last.length === host && last.length + length <= MAX_WRITE
    ) {
      last.pieces.push(piece);
      last.length += length;
    } else {
      this.#runs.push({ host, length, pieces: [piece] });
    }
  }

  /** Copies everything as it is now. Call it in the same turn in which it was added. */
  copy(): void {
    const { buffers, sys } = this.context;
    for (const run of this.#runs) {
      run.buffer = buffers.acquire(run.length);
      let at = run.buffer.address;
      for (const { source, length } of run.pieces) {
        sys.copy(at, source, length);
        at += length;
      }
    }
    this.#copied = true;
  }

  /** Each range that will be written, for overlap checks. */
  *ranges(): Iterable<{ readonly host: number; readonly length: number }> {
    yield* this.#runs;
  }

  /** Writes all of it; a few writes run together. The page cache may take them all at once, and that is long. */
  async write(): Promise<void> {
    assert(this.#copied, "written before it was copied");
    const bounded = new Bounded();
    const pace = new Pace(this.context);
    for (const { host, length, buffer } of this.#runs) {
      if (bounded.failed) break;
      await bounded.run(() => this.file.write(host, IoVec.of(buffer!.address, length), 0));
      if (pace.tired) await pace.rest();
    }
    await bounded.finish();
  }

  /** Gives the copies back. Not `written`: everything is dirty again. */
  finish(written: boolean): void {
    for (const { buffer } of this.#runs) {
      if (buffer !== undefined) this.context.buffers.release(buffer);
    }
    this.#runs.length = 0;
    this.onFinish?.(written);
    this.onFinish = undefined;
  }
}
