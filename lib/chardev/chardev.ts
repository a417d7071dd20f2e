/** What all character devices share: a frontend, a log of what is sent, and a stream that comes and goes. */
import { CommandError, type MaybePromise } from "../base/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import type { Context } from "../sys/mod.ts";
import type { OutputLog } from "./log.ts";
import { FdStream } from "./stream.ts";

/** A character device. */
export abstract class Chardev {
  protected user: ChannelUser | undefined;
  protected stream: FdStream | undefined;
  #leaving = false;
  /** Gets a copy of everything that is sent; `close` closes it. */
  log: OutputLog | undefined;

  constructor(protected readonly context: Context, readonly id: string) {}

  /** As query-chardev shows it. */
  abstract get filename(): string;
  /** Whether a monitor on it may offer out-of-band execution. */
  readonly supportsOob: boolean = true;

  /** Whether a frontend holds it, so that it can be neither removed nor given to another. */
  get inUse(): boolean {
    return this.user !== undefined;
  }

  /** Whether its frontend listens, as query-chardev shows it. */
  get frontendOpen(): boolean {
    return this.user !== undefined && (this.user.frontendOpen ?? true);
  }

  /** Whether someone is on the other side. */
  get isOpen(): boolean {
    return this.stream !== undefined;
  }

  /** Bytes sent and not yet taken by the other side. */
  get unsent(): number {
    return this.stream?.unsent ?? 0;
  }

  /** Whether the frontend should stop producing. */
  get congested(): boolean {
    return this.stream?.congested ?? false;
  }

  /** Makes `user` its frontend. Throws CommandError when it has one. */
  attach(user: ChannelUser): Channel {
    if (this.user !== undefined) throw new CommandError(`Device '${this.id}' is in use`);
    this.user = user;
    return new ChardevChannel(this);
  }

  /** Lets go of the frontend; input is no longer read. */
  detach(): void {
    this.user = undefined;
    this.pause(true);
  }

  /** What the frontend sends; dropped when nobody is on the other side. */
  send(bytes: Uint8Array): void {
    if (!this.isOpen) return;
    this.log?.write(bytes);
    this.transmit(bytes);
  }

  /** Stops or resumes reading from the other side. */
  pause(paused: boolean): void {
    this.stream?.pause(paused);
  }

  /** Sends what is unsent and then drops the connection; see `dropConnection`. */
  disconnect(): void {
    this.#leaving = true;
    if (this.stream !== undefined && this.stream.unsent === 0) this.#drop();
  }

  /** Sends a break, where there is a line to send it on. */
  sendBreak(): MaybePromise<void> {}

  /** Ends everything. Nothing is called afterwards. */
  close(): void {
    this.user = undefined;
    this.stream?.close();
    this.stream = undefined;
    this.log?.close();
    this.log = undefined;
    this.release();
  }

  /** Descriptors and files are given back. */
  protected abstract release(): void;

  /** The connection is over; a device with connections gives its descriptor back. */
  protected dropConnection(): void {}

  /** Passes on what the frontend sends, in the form that the other side expects. */
  protected transmit(bytes: Uint8Array): void {
    this.stream?.send(bytes);
  }

  /** Bytes came from the other side. */
  protected receive(bytes: Uint8Array): void {
    this.user?.received(bytes);
  }

  /** Descriptors are there: the device is open from now on. `input` may be -1: there is none. */
  protected openStream(input: number, output: number): void {
    this.#leaving = false;
    this.stream = new FdStream(this.context, input, output, {
      received: (bytes) => this.receive(bytes),
      ended: () => this.user === undefined ? this.#drop() : this.user.ended(),
      failed: () => this.#drop(),
      drained: () => {
        this.user?.drained();
        if (this.#leaving && this.stream?.unsent === 0) this.#drop();
      },
    });
    this.greet();
    this.user?.opened();
  }

  /** What the device itself says on a new connection, before its frontend. */
  protected greet(): void {}

  #drop(): void {
    this.stream?.close();
    this.stream = undefined;
    this.#leaving = false;
    this.user?.closed();
    this.dropConnection();
  }
}

/** A frontend's hold on a device. */
class ChardevChannel implements Channel {
  constructor(private readonly device: Chardev) {}

  get isOpen(): boolean {
    return this.device.isOpen;
  }
  get unsent(): number {
    return this.device.unsent;
  }
  get congested(): boolean {
    return this.device.congested;
  }
  get supportsOob(): boolean {
    return this.device.supportsOob;
  }
  send(bytes: Uint8Array): void {
    this.device.send(bytes);
  }
  pause(paused: boolean): void {
    this.device.pause(paused);
  }
  disconnect(): void {
    this.device.disconnect();
  }
  detach(): void {
    this.device.detach();
  }
}
