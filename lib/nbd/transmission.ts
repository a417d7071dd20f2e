/**
 * The input side of transmission: cuts the stream into requests. Payloads of small writes are taken from
 * where they were received; large ones are received piece by piece into page-aligned memory and written from
 * there as they come. Payloads of refused requests are drained.
 */
import { alignDown, assert } from "../base/mod.ts";
import { Errno } from "../sys/mod.ts";
import { payloadLength, type Refusal } from "./check.ts";
import { Input, INPUT_PIECE } from "./input.ts";
import type { PayloadPipe } from "./pipe.ts";
import { LargeWrite } from "./large_write.ts";
import type { Executor } from "./serve.ts";
import type { Slab } from "./slab.ts";
import {
  Cmd,
  type Cookie,
  EXTENDED_REQUEST_SIZE,
  keepCookie,
  NbdErrno,
  REQUEST_SIZE,
  RequestHeader,
} from "./wire.ts";

/** Payloads up to this size are waited for whole. */
const SMALL_PAYLOAD = 32 * 1024;
/** Writes at least this large are received one at a time, so that their data is on pages. */
const ALIGN_FROM = 16 * 1024;
/** Longest payload that is drained when its request is refused; beyond it the client is cut off. */
const MAX_DRAIN = 2 ** 32 - 1;
/** Writes at least this large go through a pipe where they can. */
const PIPE_FROM = 64 * 1024;
/** Pieces of large writes end at multiples of this, a common cluster size. */
const PIECE_ALIGN = 64 * 1024;

/** What requests count for in a turn's budget of bytes: a few cost much more than the bytes they move. */
const PLAIN_COST = 4096;
const STATUS_COST = 1024 * 1024;

/** What `step` did: went one request further, or why it could not. */
export type Step = "ok" | "more" | "wait" | "budget" | "end" | "garbage";

/** The request stream of one connection. */
export class TransmissionInput {
  readonly #input: Input;
  readonly #executor: Executor;
  readonly #pipe: PayloadPipe;
  readonly #headerSize: number;
  readonly #extended: boolean;
  readonly #header = new RequestHeader();
  #requestsLeft = 0;
  #bytesLeft = 0;
  /** Payload of a refused request still to be drained, and its answer. */
  #drainLeft = 0;
  #refused: { to: Cookie; refusal: Refusal } | undefined;
  /** A large write under way: its next piece is received at `base` of `slab`. */
  #job: LargeWrite | undefined;
  #slab: Slab | undefined;
  #base = 0;
  #filled = 0;
  #pieceLength = 0;
  /** Whether that write's payload goes through the pipe. */
  #piped = false;
  /** Whether the last `receive` got less than it asked for. */
  drained = false;

  constructor(input: Input, executor: Executor, pipe: PayloadPipe, extended: boolean) {
    this.#input = input;
    this.#executor = executor;
    this.#pipe = pipe;
    this.#extended = extended;
    this.#headerSize = extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
    input.headerSize = this.#headerSize;
  }

  /** A new turn. */
  refill(requests: number, bytes: number): void {
    this.#requestsLeft = requests;
    this.#bytesLeft = bytes;
  }

  /** Receives into the buffer, or the payload under way into its place. As Input.receive. */
  receive(): number {
    if (this.#piped) return this.#receivePiped(this.#job!);
    if (this.#slab === undefined) {
      const received = this.#input.receive();
      this.drained = this.#input.drained;
      return received;
    }
    const wanted = this.#pieceLength - this.#filled;
    const received = this.#input.receiveAt(
      this.#slab.memory.address + this.#base + this.#filled,
      wanted,
    );
    this.drained = received < wanted;
    if (received > 0) this.#filled += received;
    return received;
  }

  /** Takes what there is of a large payload through the pipe to the file. As Input.receive. */
  #receivePiped(job: LargeWrite): number {
    const pipe = this.#pipe;
    const unit = this.#executor.pipeUnit(job.position, job.left);
    const length = unit > 0 ? pipe.fill(job.position, job.left, unit) : undefined;
    if (length === undefined) {
      this.#leavePipe(job);
      return this.receive();
    }
    if (length <= 0) return length;
    this.drained = false; // more may have come while it was written
    const written = job.fromPipe(pipe.from, length);
    this.#bytesLeft -= written < 0 ? length : written;
    if (written < 0) pipe.close();
    else pipe.took(written);
    if (written >= 0 && written < length) return this.#rescue(job, length - written);
    if (job.left === 0) this.#endJob(job);
    else if (written < 0) this.#leavePipe(job);
    return length;
  }

  /** What the file has not taken out of the pipe is written as other payloads are. That works, or says why not. */
  #rescue(job: LargeWrite, length: number): number {
    const { slab, base } = this.#input.takeOver(length);
    this.#piped = false;
    this.#slab = slab;
    this.#base = base;
    this.#filled = this.#pipe.rescue(slab.memory.address + base);
    this.#pieceLength = Math.max(length, this.#lengthOfPiece(job));
    return this.#filled === length ? length : -Errno.EIO;
  }

  /** The next piece of the payload is received, and what follows perhaps too. */
  #leavePipe(job: LargeWrite): void {
    this.#piped = false;
    this.#piece(job);
  }

  /** Serves the next request, or a piece of it. */
  step(): Step {
    if (this.#executor.saturated) return "wait";
    if (this.#requestsLeft <= 0 || this.#bytesLeft <= 0) return "budget";
    if (this.#job !== undefined) return this.#piece(this.#job);
    if (this.#refused !== undefined) return this.#drain();
    const input = this.#input;
    const size = this.#headerSize;
    if (!input.require(size)) return "more";
    const header = this.#header;
    if (!header.parse(input.view, input.at, this.#extended)) return "garbage";
    if (header.type === Cmd.disc) return "end";
    const payload = payloadLength(header, this.#executor.framing);
    if (payload > 0 && payload <= SMALL_PAYLOAD && !input.require(size + payload)) {
      input.limit = Infinity;
      return "more";
    }
    this.#requestsLeft--;
    const refusal = this.#executor.check(header);
    if (refusal !== undefined) return this.#refuse(refusal, payload);
    if (payload === 0) {
      input.at += size;
      input.limit = Infinity;
      this.#bytesLeft -= costOf(header);
      this.#executor.execute(header);
      return "ok";
    }
    return header.type === Cmd.write ? this.#write(header) : this.#filtered(header);
  }

  #write(header: RequestHeader): Step {
    const input = this.#input;
    const { length } = header;
    const size = this.#headerSize;
    const pipes = length >= PIPE_FROM && this.#pipes(header.offset, length);
    // With the header alone the next payload is still in the socket, for the pipe.
    if (pipes) input.limit = size;
    else input.limit = length >= ALIGN_FROM ? size + Math.min(length, INPUT_PIECE) : Infinity;
    if (input.end - input.at >= size + length) {
      this.#bytesLeft -= length;
      this.#executor.write(header, input.slab, input.address + size);
      input.at += size + length;
      return "ok";
    }
    input.at += size;
    this.#job = new LargeWrite(this.#executor, header);
    this.#piped = pipes && this.#emptied;
    return this.#piece(this.#job);
  }

  /** Whether the range may come through the pipe. */
  #pipes(offset: number, length: number): boolean {
    return this.#executor.pipeUnit(offset, length) > 0 && this.#pipe.available;
  }

  /** Whether nothing that was received is left: what comes next is still in the socket. */
  get #emptied(): boolean {
    return this.#input.at === this.#input.end;
  }

  /** The payload of BLOCK_STATUS: small, or refused. */
  #filtered(header: RequestHeader): Step {
    const { length } = header;
    if (length > SMALL_PAYLOAD) {
      const text = "payload of command block status is too long";
      return this.#refuse({ error: NbdErrno.EINVAL, text }, length);
    }
    const input = this.#input;
    this.#bytesLeft -= STATUS_COST;
    this.#executor.executeFiltered(header, input.view, input.at + this.#headerSize);
    input.at += this.#headerSize + length;
    return "ok";
  }

  #refuse(refusal: Refusal, payload: number): Step {
    this.#input.at += this.#headerSize;
    if (payload > MAX_DRAIN) return "garbage";
    this.#refused = { to: keepCookie(this.#header), refusal };
    this.#drainLeft = payload;
    this.#input.limit = Infinity;
    return this.#drain();
  }

  #drain(): Step {
    if (this.#drainLeft > 0) {
      const drained = this.#input.skip(this.#drainLeft);
      this.#drainLeft -= drained;
      this.#bytesLeft -= drained;
      if (this.#drainLeft > 0) return "more";
    }
    const { to, refusal } = this.#refused!;
    this.#refused = undefined;
    this.#executor.refuse(to, refusal);
    return "ok";
  }

  /** The next piece of a large write: written when it is complete. */
  #piece(job: LargeWrite): Step {
    if (this.#piped) return "more";
    const input = this.#input;
    const length = this.#lengthOfPiece(job);
    if (this.#slab === undefined) {
      if (input.end - input.at >= length) {
        job.piece(input.slab, input.address, length);
        input.at += length;
        return this.#afterPiece(job, length);
      }
      const { slab, base, filled } = input.takeOver(length);
      this.#slab = slab;
      this.#base = base;
      this.#filled = filled;
      this.#pieceLength = length;
    }
    if (this.#filled < this.#pieceLength) return "more";
    const slab = this.#slab;
    job.piece(slab, slab.memory.address + this.#base, this.#pieceLength);
    this.#slab = undefined;
    this.#filled = 0;
    input.giveBack(slab);
    return this.#afterPiece(job, this.#pieceLength);
  }

  #lengthOfPiece(job: LargeWrite): number {
    if (job.left <= INPUT_PIECE) return job.left;
    const end = alignDown(job.position + INPUT_PIECE, PIECE_ALIGN);
    assert(end > job.position);
    return end - job.position;
  }

  #afterPiece(job: LargeWrite, length: number): Step {
    this.#bytesLeft -= length;
    if (job.left === 0) this.#endJob(job);
    else if (job.left >= PIPE_FROM) {
      this.#piped = this.#emptied && !job.failed &&
        this.#pipes(job.position, job.left);
    }
    return "ok";
  }

  #endJob(job: LargeWrite): void {
    this.#job = undefined;
    this.#piped = false;
    job.end();
  }

  /** The stream has ended: a write that is not complete never will be. */
  end(): void {
    const job = this.#job;
    this.#job = undefined;
    this.#slab?.release();
    this.#slab = undefined;
    this.#refused = undefined;
    this.#piped = false;
    this.#pipe.close();
    job?.end(true);
  }
}

/** What a request without payload counts for. */
function costOf({ type, length }: RequestHeader): number {
  if (type === Cmd.read) return length;
  return type === Cmd.blockStatus ? STATUS_COST : PLAIN_COST;
}
