/**
 * One client: receives as much as there is in one call, serves every complete request in the buffer and replies
 * with two sends: one in the middle, so that the client is at work on these replies while the others are made, and
 * has more requests ready when they are (measured, 4k reads: 1.6 times the rate with 32 in flight, 2 times with 8;
 * neither side sleeps any more). Nothing is held for an idle client but this object. A client that does not take its
 * replies is not read from any more, and holds back nobody else; a turn has a budget.
 */
import { type Context, Errno, type TracePoint } from "../sys/mod.ts";
import type { Counters, ExportDirectory, NbdExport, Unsent } from "./export.ts";
import { Handshake } from "./handshake.ts";
import { Input } from "./input.ts";
import { type Negotiated, type NegotiateTraces, Negotiation, type Outcome } from "./negotiate.ts";
import { Output } from "./output.ts";
import { PayloadPipe } from "./pipe.ts";
import { OUTPUT_LIMIT } from "./read.ts";
import { Replies } from "./replies.ts";
import { Executor, type ServeTraces } from "./serve.ts";
import { AGAIN, INTERRUPTED, type Transport } from "./transport.ts";
import { TransmissionInput } from "./transmission.ts";
import { Framing } from "./wire.ts";
import { greeting } from "./wire_options.ts";

/** Requests that one client may have served in one turn before others get theirs: half a millisecond, at 4k. */
export const TURN_REQUESTS = 128;
/** As TURN_REQUESTS, in bytes. */
export const TURN_BYTES = 1024 * 1024;
/** Fewest requests that are answered before the rest of what was received with them has been served. */
const EARLY_REPLIES = 4;
/** Most bytes that wait then: with more the socket is full, and the client at work, all the same. */
const EARLY_BYTES = 192 * 1024;

/** Trace points of a connection, looked up once per server. */
export interface ConnectionTraces extends NegotiateTraces, ServeTraces {
  readonly begin: TracePoint;
  readonly success: TracePoint;
  readonly timeout: TracePoint;
}

/** What a connection tells the server that accepted it. */
export interface ConnectionHost {
  readonly exports: ExportDirectory;
  readonly traces: ConnectionTraces;
  /** Nanoseconds; 0: no limit. */
  readonly handshakeNs: number;
  /** Transmission began on an export. False: it is shutting down, hang up. */
  entered(connection: Connection, target: NbdExport): boolean;
  /**
   * Whether the client is to go on in another thread; `leave` follows once its handshake has been answered. Absent:
   * no.
   */
  leaves?(chosen: Negotiated): boolean;
  /** The client has left: its descriptor is the host's now, with what it had sent already. `closed` does not follow. */
  leave?(connection: Connection, chosen: Negotiated, fd: number, bytes: Uint8Array): void;
  /** The client is gone and nothing of it is in flight. */
  closed(connection: Connection): void;
  /** A handshake failed; `reason` is for people. */
  failed(connection: Connection, reason: string): void;
}

/** A client whose handshake was made elsewhere. */
export interface Arrival {
  readonly chosen: Negotiated;
  /** What it has sent since. */
  readonly bytes: Uint8Array;
}

/** A connected client. */
export class Connection {
  /** What the client is called in logs and status. */
  readonly peer: string;
  readonly #context: Context;
  readonly #host: ConnectionHost;
  readonly #transport: Transport;
  readonly #input: Input;
  readonly #output: Output;
  readonly #handshake: Handshake;
  readonly #timer: { cancel(): void } | undefined;
  #executor: Executor | undefined;
  #transmission: TransmissionInput | undefined;
  /** No more is read: the client said so, is gone, or is to go. Replies still leave. */
  #ending = false;
  #closed = false;
  #scheduled = false;
  /** The stream may have more: it was not emptied, or the client was answered since. */
  #inviting = false;
  /** Requests in the buffer wait for the client to take replies. */
  #stalled = false;
  /** It goes on in another thread, as soon as the handshake has been answered. */
  #leaving: Negotiated | undefined;
  /** The server hangs up: replies that the client does not take at once are dropped. */
  #forced = false;

  /**
   * Greets the client, unless it arrives from another thread; owns `transport` from now on. Throws SysError where there
   * is no memory for it: then `transport` is the caller's, and nothing is left of the connection.
   */
  constructor(
    context: Context,
    transport: Transport,
    host: ConnectionHost,
    peer: string,
    arrival?: Arrival,
  ) {
    this.#context = context;
    this.#transport = transport;
    this.#host = host;
    this.peer = peer;
    this.#input = new Input(context.buffers, transport);
    this.#output = new Output(context.buffers, transport);
    const send = (bytes: Uint8Array) => this.#sendBytes(bytes);
    const negotiation = new Negotiation(host.exports, host.traces, send);
    this.#handshake = new Handshake(this.#input, negotiation);
    if (host.traces.begin.enabled) host.traces.begin.emit("Beginning negotiation");
    transport.ready = (read, write, broken) => this.#ready(read, write, broken);
    if (arrival === undefined) {
      this.#sendBytes(greeting());
    } else {
      if (arrival.bytes.length > 0) this.#input.preload(arrival.bytes);
      this.#transmit(arrival.chosen);
    }
    this.#timer = host.handshakeNs > 0
      ? context.loop.timer(host.handshakeNs, () => this.#handshakeTimeout())
      : undefined;
    // Not at once: a client that is gone already would be reported closed before its server knows it.
    this.#schedule();
  }

  /** The export in use, once transmission has begun. */
  get target(): NbdExport | undefined {
    return this.#executor?.target ?? this.#leaving?.target;
  }

  /** What this client did, once transmission has begun. */
  get counters(): Counters | undefined {
    return this.#executor?.counters;
  }

  /** What waits for this client. */
  get unsent(): Unsent {
    return { bytes: this.#output.pending, stalledNs: this.#output.stalledNs };
  }

  /** Hangs up: what is in flight finishes, its replies are sent as far as the client takes them at once. */
  shutdown(): void {
    if (this.#closed) return;
    this.#ending = true;
    this.#forced = true;
    this.#executor?.abandon();
    this.#transmission?.end();
    this.#schedule();
  }

  /** Closes the socket at once, and does nothing else: the thread is in disorder. */
  abort(): void {
    this.#closed = true;
    this.#transport.close();
  }

  #handshakeTimeout(): void {
    if (this.#executor !== undefined || this.#closed) return;
    if (this.#host.traces.timeout.enabled) this.#host.traces.timeout.emit("client took too long");
    this.#output.discard(-Errno.ETIMEDOUT);
    this.#ending = true;
    this.#finishTurn();
  }

  #sendBytes(bytes: Uint8Array): void {
    const out = this.#output;
    out.reserve(bytes.length);
    new Uint8Array(out.view.buffer, out.view.byteOffset + out.at, bytes.length).set(bytes);
    out.commit(bytes.length);
  }

  #ready(read: boolean, write: boolean, broken: boolean): void {
    if (this.#closed) return;
    // A peer that is gone is only looked at for what it sent before; it is not waited for.
    if (broken && !read && !write) this.#gone(-Errno.ECONNRESET);
    this.#turn(read);
  }

  /** Nothing reaches the client any more; `reason` is a negative errno. */
  #gone(reason: number): void {
    this.#ending = true;
    if (this.#output.broken === 0) this.#output.discard(reason);
    this.#executor?.abandon();
    this.#transmission?.end();
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    this.#context.loop.defer(() => {
      this.#scheduled = false;
      if (!this.#closed) this.#turn(false);
    });
  }

  /** One turn: replies out, requests in, replies out. `readable`: the stream may have more. */
  #turn(readable: boolean): void {
    if (this.#output.pending > 0) this.#output.flush();
    this.#handshake.refill();
    this.#executor?.resume(TURN_BYTES);
    this.#transmission?.refill(TURN_REQUESTS, TURN_BYTES);
    this.#inviting = readable;
    for (;;) {
      const wants = this.#consume();
      if (!wants || !this.#inviting) break;
      // The client sleeps, perhaps, until it has these.
      if (this.#output.pending > 0) this.#output.flush();
      const stream = this.#transmission ?? this.#input;
      const received = stream.receive();
      if (received === INTERRUPTED) continue;
      if (received === AGAIN) break;
      if (received <= 0) {
        this.#endOfStream(received);
        break;
      }
      // Less than there was room for: the stream is empty, no need to ask again.
      this.#inviting = !stream.drained;
    }
    this.#finishTurn();
  }

  /** The client closed its side (0), or the stream failed. */
  #endOfStream(result: number): void {
    if (result < 0) this.#gone(result);
    this.#ending = true;
    this.#transmission?.end();
    if (this.#executor === undefined && this.#input.available > 0) {
      this.#host.failed(this, "Failed to read: Unexpected end-of-file before all data were read");
    }
  }

  /** Serves what is in the buffer. True: more bytes are wanted now. */
  #consume(): boolean {
    this.#stalled = false;
    const input = this.#input;
    const middle = (input.at + input.end) / 2;
    let early = EARLY_REPLIES;
    while (!this.#ending && this.#leaving === undefined) {
      if (this.#output.pending >= OUTPUT_LIMIT) {
        this.#output.flush();
        if (this.#output.pending >= OUTPUT_LIMIT) {
          this.#stalled = true;
          return false;
        }
      }
      const transmission = this.#transmission;
      if (transmission === undefined) {
        const step = this.#handshake.step();
        if (step === "more") return true;
        if (step === "budget") {
          this.#schedule();
          return false;
        }
        this.#negotiated(step);
        continue;
      }
      if (early-- <= 0 && input.at >= middle && input.at < input.end) {
        early = Infinity;
        this.#replyEarly();
      }
      switch (transmission.step()) {
        case "more":
          return true;
        case "wait":
          return false;
        case "budget":
          this.#schedule();
          return false;
        case "end":
          this.#ending = true;
          return false;
        case "garbage":
          this.#gone(-Errno.EPROTO);
          return false;
      }
    }
    return false;
  }

  /** Sends what is ready, with more requests in the buffer. */
  #replyEarly(): void {
    const { pending } = this.#output;
    if (pending === 0 || pending > EARLY_BYTES) return;
    this.#output.flush();
    this.#inviting = true;
  }

  /** Goes on as a message of the handshake has it. */
  #negotiated(outcome: Outcome): void {
    if (outcome.next === "option") return;
    if (outcome.next === "transmission" && this.#enter(outcome.chosen)) return;
    if (outcome.next === "close" && outcome.reason !== undefined) {
      this.#host.failed(this, outcome.reason);
    }
    this.#ending = true;
  }

  /** False: the export is going away. */
  #enter(chosen: Negotiated): boolean {
    if (!this.#host.entered(this, chosen.target)) return false;
    this.#timer?.cancel();
    if (this.#host.traces.success.enabled) this.#host.traces.success.emit("Negotiation succeeded");
    if (this.#transport.release !== undefined && this.#host.leaves?.(chosen) === true) {
      this.#leaving = chosen;
    } else {
      this.#transmit(chosen);
    }
    return true;
  }

  #transmit(chosen: Negotiated): void {
    const replies = new Replies(this.#output, chosen.framing);
    const { sys } = this.#context;
    const executor = new Executor(chosen, replies, this.#host.traces, sys, () => this.#schedule());
    this.#executor = executor;
    executor.resume(TURN_BYTES);
    const extended = chosen.framing === Framing.extended;
    const pipe = new PayloadPipe(this.#transport, this.#context);
    this.#transmission = new TransmissionInput(this.#input, executor, pipe, extended);
    this.#transmission.refill(TURN_REQUESTS, TURN_BYTES);
  }

  /** Gives the client to another thread. */
  #leave(chosen: Negotiated): void {
    this.#closed = true;
    const bytes = this.#input.takeAll();
    const fd = this.#transport.release!();
    this.#output.close();
    this.#input.close();
    this.#host.leave!(this, chosen, fd, bytes);
  }

  /** Sends, decides what to wait for, and ends the connection when there is nothing left to do. */
  #finishTurn(): void {
    const output = this.#output;
    if (output.pending > 0) output.flush();
    if (output.broken !== 0) this.#gone(output.broken);
    if (this.#leaving !== undefined && !this.#ending) {
      if (output.pending === 0) return this.#leave(this.#leaving);
      return this.#transport.interest(false, true);
    }
    const executor = this.#executor;
    if (this.#ending && !(executor?.busy ?? false)) return this.#close();
    const room = output.pending < OUTPUT_LIMIT;
    // The last send may have made the room that something waits for: nothing else would tell.
    if (room && (this.#stalled || (executor?.stalled ?? false))) this.#schedule();
    const full = !room || (executor?.saturated ?? false);
    this.#transport.interest(!this.#ending && !full, output.pending > 0 && !output.fetching);
    if (output.pending === 0) output.trim();
    this.#input.trim();
  }

  #close(): void {
    if (this.#closed) return;
    // Replies that the client has not taken yet: it gets them as long as it is there.
    if (this.#output.pending > 0 && !this.#forced) return this.#transport.interest(false, true);
    this.#closed = true;
    this.#timer?.cancel();
    this.#transmission?.end();
    this.#output.close();
    this.#input.close();
    this.#transport.close();
    this.#host.closed(this);
  }
}
