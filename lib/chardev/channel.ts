/** What a monitor needs of a character device: a two-way stream of bytes whose other side comes and goes. */

/** What a frontend is told by the device. */
export interface ChannelUser {
  /** Whether it listens now (default true): a multiplexer without frontends of its own does not. */
  readonly frontendOpen?: boolean;
  /** Someone is on the other side now. */
  opened(): void;
  /** Bytes arrived; `bytes` is only valid during the call. */
  received(bytes: Uint8Array): void;
  /** The other side will send nothing more, but may still listen: `disconnect` when all was answered. */
  ended(): void;
  /** The other side has gone; what was not yet sent is dropped. */
  closed(): void;
  /** Less than half of what made `congested` true is left to send. */
  drained(): void;
}

/** The device as one frontend holds it. */
export interface Channel {
  /** Whether someone is on the other side. */
  readonly isOpen: boolean;
  /** Bytes taken by `send` that the other side has not. */
  readonly unsent: number;
  /** Whether so much is unsent that the user should stop producing until `drained`. */
  readonly congested: boolean;
  /** Whether a monitor on it may offer out-of-band execution. */
  readonly supportsOob: boolean;
  /** Queues bytes for the other side; dropped when nobody is there. Takes over `bytes`. */
  send(bytes: Uint8Array): void;
  /** Stops (true) or resumes reading from the other side. */
  pause(paused: boolean): void;
  /** Sends what is unsent, then ends the connection, if the device has such a thing. */
  disconnect(): void;
  /** Lets go of the device, which may then be used by another. */
  detach(): void;
}
