/** All character devices, by id. */
import { CommandError } from "../base/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import type { Context } from "../sys/mod.ts";
import type { ChardevBackendValue } from "../qmp/schema/chardev.ts";
import type { Chardev } from "./chardev.ts";
import { makeChardev } from "./make.ts";
import { MuxChardev } from "./mux.ts";
import { chardevBackends, describeChardev, type FlatOptions } from "./options.ts";
import { PtyChardev } from "./pty.ts";
import { RingbufChardev } from "./ringbuf.ts";
import { SocketChardev } from "./socket.ts";
import { StdioChardev } from "./stdio.ts";

/** What goes with making a device. */
export interface ChardevWaiting {
  /** A device that waits for its client gives up waiting when this resolves. */
  readonly stopped: Promise<unknown>;
  /** Lines for people: of a device that waits, with the location that the caller knows. */
  readonly info: (line: string) => void;
}

/** What goes with making a device from the command line. */
export interface ChardevSurroundings extends ChardevWaiting {
  /** The process is in the background: there is no terminal. */
  readonly daemonized: boolean;
}

/** What making a device gives: the terminal's name, of a pty. */
export interface ChardevMade {
  pty?: string;
}

/** A device and what it was made from. */
interface Entry {
  readonly device: Chardev;
  readonly backend: ChardevBackendValue;
}

/** The devices. */
export class ChardevRegistry {
  readonly #entries = new Map<string, Entry>();
  /** Told by the devices of the command line, without which there is no monitor to ask for others. */
  #daemonized = false;

  constructor(private readonly context: Context) {}

  /**
   * Makes the device that `--chardev` describes; with wait=on, resolves once a client is there or the daemon is
   * to stop. Throws CommandError.
   */
  async add(options: FlatOptions, around: ChardevSurroundings): Promise<ChardevMade> {
    const warn = (text: string) => this.context.log.warn(text);
    const { id, backend, mux } = describeChardev(options, warn);
    this.#daemonized = around.daemonized;
    const duplicate = (taken: string) =>
      new CommandError(
        `attempt to add duplicate property '${taken}' to object (type 'container')`,
      );
    if (!mux) return await this.#enter(id, backend, around, duplicate);
    if (this.#entries.has(id)) throw duplicate(id);
    const base = `${id}-base`;
    const made = await this.#enter(base, backend, around, duplicate);
    const data = { chardev: base };
    await this.#enter(id, { type: "mux", data }, around, duplicate);
    return made;
  }

  /** Whether there is a device of that id. */
  has(id: string): boolean {
    return this.#entries.has(id);
  }

  /** chardev-add. Throws CommandError. */
  async addBackend(
    id: string,
    backend: ChardevBackendValue,
    around: ChardevWaiting,
  ): Promise<ChardevMade> {
    const duplicate = () => new CommandError(`Chardev with id '${id}' already exists`);
    return await this.#enter(id, backend, around, duplicate);
  }

  /**
   * chardev-change: replaces a device without a frontend. Throws CommandError; the old one stays then (the
   * original loses it). `check` may refuse the new one.
   */
  async change(
    id: string,
    backend: ChardevBackendValue,
    around: ChardevWaiting,
    check: () => void = () => {},
  ): Promise<ChardevMade> {
    const old = this.#entries.get(id);
    if (old === undefined) throw new CommandError(`Chardev '${id}' does not exist`);
    if (old.device instanceof MuxChardev) {
      throw new CommandError("Mux device hotswap not supported yet");
    }
    if (old.device.inUse) throw new CommandError("Chardev user does not support chardev hotswap");
    try {
      check();
    } catch (error) {
      throw addFailed(id, error);
    }
    // Two devices cannot share the terminal or a listening address: then the old one goes first.
    const exclusive = sameResource(old.backend, backend);
    if (exclusive) this.#drop(id);
    let device: Chardev;
    try {
      device = await this.#make(id, backend);
    } catch (error) {
      if (exclusive) {
        const again = await this.#make(id, old.backend);
        this.#entries.set(id, { device: again, backend: old.backend });
      }
      throw addFailed(id, error);
    }
    const now = this.#entries.get(id);
    // Waiting for an address to be resolved lets others in.
    if (!exclusive && (now !== old || old.device.inUse)) {
      device.close();
      throw new CommandError(`Chardev '${id}' is busy`);
    }
    this.#drop(id);
    this.#entries.set(id, { device, backend });
    return await this.#made(device, backend, around);
  }

  /** chardev-remove. Throws CommandError. */
  remove(id: string): void {
    const device = this.#find(id);
    if (device.inUse) throw new CommandError(`Chardev '${id}' is busy`);
    this.#drop(id);
  }

  /** chardev-send-break. Throws CommandError. */
  async sendBreak(id: string): Promise<void> {
    await this.#find(id).sendBreak();
  }

  /** The ring buffer of that id. Throws CommandError. */
  ringbuf(id: string): RingbufChardev {
    const device = this.#entries.get(id)?.device;
    if (device === undefined) throw new CommandError(`Device '${id}' not found`);
    if (device instanceof RingbufChardev) return device;
    throw new CommandError(`${id} is not a ringbuf device`);
  }

  /** Makes `user` the frontend of device `id`. Throws CommandError when there is none, or it has one. */
  attach(id: string, user: ChannelUser): Channel {
    const device = this.#entries.get(id)?.device;
    if (device === undefined) throw new CommandError(`chardev "${id}" not found`);
    return device.attach(user);
  }

  /** query-chardev. */
  list(): { label: string; filename: string; "frontend-open": boolean }[] {
    return [...this.#entries.values()].map(({ device }) => ({
      label: device.id,
      filename: device.filename,
      "frontend-open": device.frontendOpen,
    }));
  }

  /** All devices with their classes, for the object tree. */
  qomObjects(): { name: string; type: string }[] {
    return [...this.#entries].map(([name, { backend }]) => ({
      name,
      type: `chardev-${backend.type}`,
    }));
  }

  /** query-chardev-backends: those that can be made. */
  backends(): { name: string }[] {
    return chardevBackends.map((name) => ({ name }));
  }

  /** Ends all devices: connections dropped, socket files removed, the terminal restored. */
  close(): void {
    // Multiplexers were made after their bases, and let go of them.
    for (const { device } of [...this.#entries.values()].reverse()) device.close();
    this.#entries.clear();
  }

  #find(id: string): Chardev {
    const entry = this.#entries.get(id);
    if (entry === undefined) throw new CommandError(`Chardev '${id}' not found`);
    return entry.device;
  }

  #drop(id: string): void {
    this.#entries.get(id)?.device.close();
    this.#entries.delete(id);
  }

  #make(
    id: string,
    backend: ChardevBackendValue,
  ): Promise<Chardev> {
    return makeChardev(id, backend, {
      context: this.context,
      daemonized: this.#daemonized,
      find: (base) => this.#entries.get(base)?.device,
      hasStdio: () =>
        [...this.#entries.values()].some(({ device }) => device instanceof StdioChardev),
    });
  }

  async #enter(
    id: string,
    backend: ChardevBackendValue,
    around: ChardevWaiting,
    duplicate: (id: string) => CommandError,
  ): Promise<ChardevMade> {
    if (this.#entries.has(id)) throw duplicate(id);
    const device = await this.#make(id, backend);
    if (this.#entries.has(id)) {
      device.close();
      throw duplicate(id);
    }
    this.#entries.set(id, { device, backend });
    return await this.#made(device, backend, around);
  }

  async #made(
    device: Chardev,
    backend: ChardevBackendValue,
    around: ChardevWaiting,
  ): Promise<ChardevMade> {
    if (device instanceof SocketChardev && backend.type === "socket" && backend.data.wait) {
      await device.waitForClient(around.stopped, around.info);
    }
    return device instanceof PtyChardev ? { pty: device.path } : {};
  }
}

/** The error of a device that could not be made, as QMP shows it. */
export function addFailed(id: string, error: unknown): unknown {
  if (!(error instanceof CommandError)) return error;
  return new CommandError(`Failed to add chardev '${id}': ${error.message}`, error.errorClass);
}

function sameResource(old: ChardevBackendValue, wanted: ChardevBackendValue): boolean {
  if (old.type === "stdio") return wanted.type === "stdio";
  return old.type === wanted.type && (old.type === "socket" || old.type === "udp");
}
