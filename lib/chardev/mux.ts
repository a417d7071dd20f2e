/**
 * Several frontends on one device. All of them send; what arrives goes to the one in focus. Ctrl-A is an escape:
 * `Ctrl-A c` moves the focus to the next, `Ctrl-A h` tells about the others.
 */
import { CommandError } from "../base/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import type { Context } from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";

/** Frontends on one multiplexer (as the original has it). */
const MAX_FRONTENDS = 4;
const ESCAPE = 1;
const NEWLINE = 10;

const help = [
  "",
  "C-a h    print this help",
  "C-a t    toggle timestamps",
  "C-a c    switch between frontends",
  "C-a C-a  sends C-a",
  "",
].join("\n\r");

/** One frontend. */
interface Seat extends Channel {
  readonly user: ChannelUser;
  wantsPause: boolean;
  left: boolean;
}

/** The device. Nothing is held: its base's limits are its own. */
export class MuxChardev extends Chardev implements ChannelUser {
  readonly filename = "mux";
  override readonly supportsOob: boolean;
  readonly #base: Channel;
  #seats: Seat[] = [];
  #focus: Seat | undefined;
  #escaped = false;
  #stamps = false;
  #stampsSince: number | undefined;
  #atLineStart = true;

  /** `base` gets this as its frontend. Throws CommandError when it has another. */
  constructor(context: Context, id: string, base: Chardev) {
    super(context, id);
    this.#base = base.attach(this);
    this.supportsOob = base.supportsOob;
  }

  override get inUse(): boolean {
    return this.#seats.length > 0;
  }
  override get frontendOpen(): boolean {
    return this.#seats.some(({ user }) => user.frontendOpen ?? true);
  }
  override get isOpen(): boolean {
    return this.#base.isOpen;
  }
  override get unsent(): number {
    return this.#base.unsent;
  }
  override get congested(): boolean {
    return this.#base.congested;
  }

  /** The first has the focus. Throws CommandError when there are four. */
  override attach(user: ChannelUser): Channel {
    if (this.#seats.length >= MAX_FRONTENDS) {
      throw new CommandError(`Device '${this.id}' is in use`);
    }
    const seat = this.#makeSeat(user);
    this.#seats.push(seat);
    this.#focus ??= seat;
    return seat;
  }

  opened(): void {
    this.#escaped = false;
    this.#atLineStart = true;
    for (const { user } of [...this.#seats]) user.opened();
  }

  received(bytes: Uint8Array): void {
    let from = 0;
    for (let at = 0; at < bytes.length; at++) {
      if (!this.#escaped) {
        if (bytes[at] !== ESCAPE) continue;
        this.#give(bytes.subarray(from, at));
        this.#escaped = true;
      } else {
        this.#escaped = false;
        this.#command(bytes.subarray(at, at + 1));
      }
      from = at + 1;
    }
    this.#give(bytes.subarray(from));
    this.#regulate();
  }

  ended(): void {
    if (this.#seats.length === 0) return this.#base.disconnect();
    for (const seat of [...this.#seats]) {
      seat.left = false;
      seat.user.ended();
    }
  }

  closed(): void {
    for (const { user } of [...this.#seats]) user.closed();
  }

  drained(): void {
    for (const { user } of [...this.#seats]) user.drained();
  }

  protected override transmit(bytes: Uint8Array): void {
    this.#base.send(this.#stamps ? this.#stamp(bytes) : bytes);
  }

  protected release(): void {
    this.#seats = [];
    this.#base.detach();
  }

  #makeSeat(user: ChannelUser): Seat {
    // deno-lint-ignore no-this-alias
    const mux = this;
    return {
      user,
      wantsPause: false,
      left: false,
      get isOpen() {
        return mux.isOpen;
      },
      get unsent() {
        return mux.unsent;
      },
      get congested() {
        return mux.congested;
      },
      supportsOob: this.supportsOob,
      send: (bytes) => mux.send(bytes),
      pause(paused) {
        this.wantsPause = paused;
        mux.#regulate();
      },
      disconnect() {
        this.left = true;
        if (mux.#seats.every(({ left }) => left)) mux.#base.disconnect();
      },
      detach: () => mux.#leave(user),
    };
  }

  #leave(user: ChannelUser): void {
    this.#seats = this.#seats.filter((seat) => seat.user !== user);
    if (this.#focus?.user === user) this.#focus = this.#seats[0];
    this.#regulate();
  }

  #give(bytes: Uint8Array): void {
    if (bytes.length > 0) this.#focus?.user.received(bytes);
  }

  /** The base is read while the one in focus reads. */
  #regulate(): void {
    this.#base.pause(this.#focus?.wantsPause ?? true);
  }

  #command(key: Uint8Array): void {
    switch (String.fromCharCode(key[0]!)) {
      case "\x01":
        return this.#give(key);
      case "c": {
        const next = this.#seats.indexOf(this.#focus!) + 1;
        this.#focus = this.#seats[next % this.#seats.length];
        return;
      }
      case "t":
        this.#stamps = !this.#stamps;
        this.#stampsSince = undefined;
        return;
      case "h":
      case "?":
        return this.#base.send(new TextEncoder().encode(help));
    }
  }

  /** Puts the time since the first stamped line before each. */
  #stamp(bytes: Uint8Array): Uint8Array {
    const now = this.context.sys.monotonicNs();
    this.#stampsSince ??= now;
    const ms = Math.floor((now - this.#stampsSince) / 1e6);
    const two = (value: number) => String(Math.floor(value) % 60).padStart(2, "0");
    const hours = String(Math.floor(ms / 3_600_000)).padStart(2, "0");
    const rest = `${two(ms / 60_000)}:${two(ms / 1000)}.${String(ms % 1000).padStart(3, "0")}`;
    const text = new TextEncoder().encode(`[${hours}:${rest}] `);
    const out: number[] = [];
    for (const byte of bytes) {
      if (this.#atLineStart) out.push(...text);
      out.push(byte);
      this.#atLineStart = byte === NEWLINE;
    }
    return Uint8Array.from(out);
  }
}
