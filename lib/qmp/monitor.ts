/**
 * One QMP monitor: greeting, negotiation, the queue of requests, replies and events, over a channel whose
 * client comes and goes. Which of several monitors' requests runs next is the server's matter (server.ts).
 *
 * Bounded whatever the client does: at most one piece of input beyond a full queue is held; while the client
 * does not read its replies nothing more is executed for it and no input is taken; events that it does not
 * read are dropped above `MAX_UNSENT_EVENTS` bytes, and the log says so.
 */
import type { Channel, ChannelUser } from "../chardev/mod.ts";
import { type Dispatcher, isOutOfBand, protocolError, type Reply } from "./dispatcher.ts";
import { JsonReader, type JsonValue, writeJson } from "./json/mod.ts";
import { idText, type MonitorTrace } from "./monitor_trace.ts";
import type { Log } from "../sys/mod.ts";

/** Requests that wait at once when oob is enabled (QEMU's QMP_REQ_QUEUE_LEN_MAX); without it, one. */
const QUEUE_WITH_OOB = 8;
/** Events are dropped while more than this many bytes are unsent. */
export const MAX_UNSENT_EVENTS = 1 << 20;

/** What the greeting says of the daemon. */
export interface Version {
  readonly qemu: { readonly major: number; readonly minor: number; readonly micro: number };
  readonly package: string;
}

/** What a monitor is made of. */
export interface MonitorParts {
  /** For people: the id given, or the chardev's. */
  readonly name: string;
  readonly pretty: boolean;
  readonly version: Version;
  readonly dispatcher: Dispatcher;
  readonly log: Log;
  readonly trace: MonitorTrace;
  /** The monitor has a request that can run. */
  readonly wake: () => void;
  /** Its client has left. */
  readonly left?: () => void;
}

/** A request as it waits: a value, or the text of a parse error that takes its place in the order. */
type Queued = { readonly value: JsonValue } | { readonly problem: string };

/** A monitor. `channel` is set right after construction, since each needs the other. */
export class Monitor implements ChannelUser {
  readonly name: string;
  #channel: Channel | undefined;
  readonly #reader: JsonReader;
  readonly #state = { negotiated: false, oob: false };
  #queue: Queued[] = [];
  #running = false;
  #frozen = false;
  /** The client sends nothing more. */
  #ending = false;
  /** It is to end after the reply to the present request. */
  #leaving = false;
  #dropped = 0;
  /** Counts clients, so that a reply for one that has gone does not reach the next. */
  #generation = 0;

  constructor(private readonly parts: MonitorParts) {
    this.name = parts.name;
    this.#reader = new JsonReader({
      value: (value) => this.#enqueue({ value }),
      error: (problem) => this.#enqueue({ problem }),
    });
  }

  /** Connects the monitor with its device; greets if someone is there already. */
  attach(channel: Channel): void {
    this.#channel = channel;
    if (channel.isOpen) this.opened();
  }

  opened(): void {
    this.#forget();
    const capabilities = this.#channel?.supportsOob ? ["oob"] : [];
    this.#send({ QMP: { version: this.parts.version, capabilities } });
  }

  received(bytes: Uint8Array): void {
    if (!this.#frozen) this.#reader.feed(bytes);
    this.#regulate();
  }

  ended(): void {
    this.#ending = true;
    this.#regulate();
  }

  closed(): void {
    this.#forget();
    this.parts.left?.();
  }

  drained(): void {
    if (this.#dropped > 0) {
      this.parts.log.warn(
        `monitor '${this.name}': its client reads too slowly, ${this.#dropped} events were dropped`,
      );
      this.#dropped = 0;
    }
    this.#regulate();
    if (this.ready) this.parts.wake();
  }

  /** Whether a request can run now. */
  get ready(): boolean {
    return this.#queue.length > 0 && !this.#running && !this.#frozen && !this.#channel!.congested;
  }

  /** Runs the first request to its end and replies. Only while `ready`. */
  async runNext(): Promise<void> {
    const request = this.#queue.shift()!;
    this.#traceDequeued(request);
    const generation = this.#generation;
    this.#running = true;
    const reply = await this.#execute(request);
    this.#running = false;
    if (generation === this.#generation) this.#send(reply);
    if (this.#leaving) this.close();
    else this.#regulate();
  }

  /** Sends an event, if the client has negotiated. `line` is the event as JSON (`prettyLine` for pretty=on). */
  event(line: string, prettyLine: () => string): void {
    if (!this.#state.negotiated || this.#channel === undefined || !this.#channel.isOpen) return;
    if (this.#channel.unsent > MAX_UNSENT_EVENTS) this.#dropped++;
    else this.#sendText(this.parts.pretty ? prettyLine() : line);
  }

  /** From now on nothing that the client sends is executed (the daemon is quitting). */
  freeze(): void {
    this.#frozen = true;
    this.#queue = [];
  }

  /** Bytes that the client has not taken. */
  get unsent(): number {
    return this.#channel?.unsent ?? 0;
  }

  /** Executes nothing more, and lets go of the device: at once, or when what is being executed was answered. */
  leave(): void {
    this.freeze();
    this.#leaving = true;
    if (!this.#running) this.close();
  }

  /** Lets go of the device. */
  close(): void {
    this.freeze();
    this.#generation++;
    this.#channel?.detach();
    this.#channel = undefined;
  }

  #forget(): void {
    this.#generation++;
    this.#reader.reset();
    this.#queue = [];
    this.#ending = false;
    this.#dropped = 0;
    this.#state.negotiated = this.#state.oob = false;
    this.#channel?.pause(false);
  }

  #enqueue(request: Queued): void {
    const { command, enqueue, outOfBand } = this.parts.trace;
    if (command.enabled && "value" in request) {
      command.emit(`mon ${this.name} req: ${writeJson(request.value)}`);
    }
    if ("value" in request && isOutOfBand(request.value, this.#state)) {
      if (outOfBand.enabled) outOfBand.emit(idText(request.value));
      const generation = this.#generation;
      this.#execute(request).then((reply) => {
        if (generation === this.#generation) this.#send(reply);
      });
      return;
    }
    if (enqueue.enabled) enqueue.emit(`mon ${this.name} len ${this.#queue.length}`);
    this.#queue.push(request);
    if (this.ready) this.parts.wake();
  }

  #traceDequeued(request: Queued): void {
    const { dequeue, inBand, inBandError } = this.parts.trace;
    if (dequeue.enabled) dequeue.emit(`mon ${this.name} len ${this.#queue.length}`);
    if ("value" in request) {
      if (inBand.enabled) inBand.emit(idText(request.value));
    } else if (inBandError.enabled) inBandError.emit(request.problem);
  }

  #execute(request: Queued): Promise<Reply> {
    if ("problem" in request) return Promise.resolve(protocolError(request.problem));
    return this.parts.dispatcher.dispatch(request.value, this.#state, (enable) => {
      this.#state.negotiated = true;
      this.#state.oob = enable.includes("oob");
    });
  }

  /** Reads on only while the queue has room and the client reads. */
  #regulate(): void {
    if (this.#channel === undefined) return;
    const room = this.#state.oob ? QUEUE_WITH_OOB : 1;
    const waiting = this.#queue.length + (this.#running ? 1 : 0);
    if (this.#ending && waiting === 0) return this.#channel.disconnect();
    this.#channel.pause(waiting >= room || this.#channel.congested);
  }

  #send(message: unknown): void {
    const { respond } = this.parts.trace;
    if (respond.enabled) respond.emit(`mon ${this.name} resp: ${writeJson(message)}`);
    this.#sendText(writeJson(message, this.parts.pretty));
  }

  /** Every line of a pretty reply ends as the reply does; within strings, JSON has no line ends. */
  #sendText(text: string): void {
    if (!this.#channel?.isOpen) return;
    const lines = this.parts.pretty ? text.replaceAll("\n", "\r\n") : text;
    this.#channel.send(new TextEncoder().encode(lines + "\r\n"));
  }
}
