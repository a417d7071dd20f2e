/** What all character devices share: one frontend at a time, and a stream that comes and goes. */
import { CommandError } from "../base/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import type { Context } from "../sys/mod.ts";
import { FdStream } from "./stream.ts";

/** A character device. */
export abstract class Chardev {
  protected user: ChannelUser | undefined;
  protected stream: FdStream | undefined;
  private leaving = false;

  constructor(protected readonly context: Context, readonly id: string) {}

  /** Its class in the object tree. */
  qomType = "chardev";
  /** As query-chardev shows it. */
  abstract get filename(): string;
  /** Whether a monitor on it may offer out-of-band execution. */
  readonly supportsOob: boolean = true;

  /** Whether a frontend holds it. */
  get inUse(): boolean {
    return this.user !== undefined;
  }

  /** Whether someone is on the other side. */
  get isOpen(): boolean {
    return this.stream !== undefined;
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
    this.stream?.pause(true);
  }

  /** For the frontend's channel. */
  get streamNow(): FdStream | undefined {
    return this.stream;
  }

  /** Sends what is unsent and then drops the connection; see `dropConnection`. */
  disconnect(): void {
    this.leaving = true;
    if (this.stream !== undefined && this.stream.unsent === 0) this.drop();
  }

  /** Ends everything. Nothing is called afterwards. */
  close(): void {
    this.user = undefined;
    this.stream?.close();
    this.stream = undefined;
    this.release();
  }

  /** Descriptors and files are given back. */
  protected abstract release(): void;

  /** The connection is over; a device with connections gives its descriptor back. */
  protected abstract dropConnection(): void;

  /** Descriptors are there: the device is open from now on. `input` may be -1: there is none. */
  protected openStream(input: number, output: number): void {
    this.leaving = false;
    this.stream = new FdStream(this.context, input, output, {
      received: (bytes) => this.user?.received(bytes),
      ended: () => this.user === undefined ? this.drop() : this.user.ended(),
      failed: () => this.drop(),
      drained: () => {
        this.user?.drained();
        if (this.leaving && this.stream?.unsent === 0) this.drop();
      },
    });
    this.user?.opened();
  }

  private drop(): void {
    this.stream?.close();
    this.stream = undefined;
    this.leaving = false;
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
    return this.device.streamNow?.unsent ?? 0;
  }
  get congested(): boolean {
    return this.device.streamNow?.congested ?? false;
  }
  get supportsOob(): boolean {
    return this.device.supportsOob;
  }
  send(bytes: Uint8Array): void {
    this.device.streamNow?.send(bytes);
  }
  pause(paused: boolean): void {
    this.device.streamNow?.pause(paused);
  }
  disconnect(): void {
    this.device.disconnect();
  }
  detach(): void {
    this.device.detach();
  }
}
