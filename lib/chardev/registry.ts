/** All character devices, by id. */
import { CommandError } from "../base/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import type { Context } from "../sys/mod.ts";
import type { Chardev } from "./chardev.ts";
import {
  chardevBackends,
  type ChardevDescription,
  describeChardev,
  type FlatOptions,
} from "./options.ts";
import { FileChardev, NullChardev } from "./simple.ts";
import { SocketChardev } from "./socket.ts";
import { StdioChardev } from "./stdio.ts";

/** What goes with making a device from the command line. */
export interface ChardevSurroundings {
  /** The process is in the background: there is no terminal. */
  readonly daemonized: boolean;
  /** A device that waits for its client gives up waiting when this resolves. */
  readonly stopped: Promise<unknown>;
  /** Lines for people: of a device that waits, with the location that the caller knows. */
  readonly info: (line: string) => void;
}

/** The devices. */
export class ChardevRegistry {
  private readonly devices = new Map<string, Chardev>();

  constructor(private readonly context: Context) {}

  /**
   * Makes the device that `--chardev` describes; with wait=on, resolves once a client is there or the daemon is
   * to stop. Throws CommandError.
   */
  async add(options: FlatOptions, around: ChardevSurroundings): Promise<void> {
    const description = describeChardev(options);
    const { id } = description;
    const duplicate = () =>
      new CommandError(`attempt to add duplicate property '${id}' to object (type 'container')`);
    if (this.devices.has(id)) throw duplicate();
    const device = await this.make(description, around);
    if (this.devices.has(id)) {
      device.close();
      throw duplicate();
    }
    device.qomType = `chardev-${description.kind}`;
    this.devices.set(id, device);
    if (device instanceof SocketChardev && description.kind === "socket" && description.wait) {
      await device.waitForClient(around.stopped, around.info);
    }
  }

  /** Makes `user` the frontend of device `id`. Throws CommandError when there is none, or it has one. */
  attach(id: string, user: ChannelUser): Channel {
    const device = this.devices.get(id);
    if (device === undefined) throw new CommandError(`chardev "${id}" not found`);
    return device.attach(user);
  }

  /** query-chardev. */
  list(): { label: string; filename: string; "frontend-open": boolean }[] {
    return [...this.devices.values()].map((device) => ({
      label: device.id,
      filename: device.filename,
      "frontend-open": device.inUse,
    }));
  }

  /** All devices with their classes, for the object tree. */
  qomObjects(): { name: string; type: string }[] {
    return [...this.devices.values()].map(({ id, qomType }) => ({ name: id, type: qomType }));
  }

  /** query-chardev-backends: those that can be made. */
  backends(): { name: string }[] {
    return chardevBackends.map((name) => ({ name }));
  }

  /** Ends all devices: connections dropped, socket files removed, the terminal restored. */
  close(): void {
    for (const device of this.devices.values()) device.close();
    this.devices.clear();
  }

  private async make(
    description: { id: string } & ChardevDescription,
    around: ChardevSurroundings,
  ): Promise<Chardev> {
    const { context } = this;
    const { id } = description;
    switch (description.kind) {
      case "null":
        return new NullChardev(context, id);
      case "file":
        return new FileChardev(context, id, description.path, description.append);
      case "stdio":
        if (around.daemonized) throw new CommandError("cannot use stdio with -daemonize");
        for (const device of this.devices.values()) {
          if (device instanceof StdioChardev) {
            throw new CommandError("cannot use stdio by multiple character devices");
          }
        }
        return new StdioChardev(context, id, description.signal);
      case "socket":
        return await SocketChardev.open(context, id, description);
    }
  }
}
