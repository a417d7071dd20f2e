/**
 * --config: making what its files define, and x-qsd-reload: making it so again after they changed. A reload is
 * a transaction as far as the parts allow: what can be told beforehand refuses it with nothing done, and what
 * fails midway is undone, the last step first.
 */
import { CommandError } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { BlockExportOptionsValue, NbdServerOptionsValue } from "../qmp/schema/export.ts";
import type { MonitorOptionsValue } from "../qmp/schema/monitor.ts";
import type { ObjectOptionsValue } from "../qmp/schema/qom.ts";
import type { XQsdReloadReportValue } from "../qmp/schema/reload.ts";
import { type Definition, readConfig } from "./config.ts";
import type { Monitor } from "../qmp/mod.ts";
import type { Services } from "./services.ts";

/** Makes a character device or a monitor, which --chardev and --monitor make too. */
export interface Makers {
  /** `wait`: for a client, where the device says so. */
  chardev(id: string, options: Readonly<Record<string, string>>, wait: boolean): Promise<void>;
  monitor(options: MonitorOptionsValue): Monitor;
}

/** Whether `text` stands anywhere in a value. */
function mentions(value: unknown, text: string): boolean {
  if (typeof value === "string") return value === text;
  if (typeof value !== "object" || value === null) return false;
  return Object.values(value).some((inner) => mentions(inner, text));
}

/** Whether `one` needs `other`, which was defined before it. */
function dependsOn(one: Definition, other: Definition): boolean {
  if (other.kind === "nbd-server") return one.kind === "export" && one.value["type"] === "nbd";
  const name = other.key.slice(other.kind.length + 1);
  const { id: _id, ...rest } = one.value;
  return one.key !== other.key && mentions(rest, name);
}

/** What a reload will do. */
interface Plan {
  readonly reopen: readonly (readonly [Definition, Definition])[];
  /** Old ones to be removed, in the order of their definition. */
  readonly remove: readonly Definition[];
  readonly add: readonly Definition[];
}

/** Compares two states. `inPlace`: changed nodes are reopened, not replaced. */
export function planReload(
  old: readonly Definition[],
  wanted: readonly Definition[],
  inPlace: boolean,
): Plan {
  const next = new Map(wanted.map((one) => [one.key, one]));
  const reopen: [Definition, Definition][] = [];
  const gone = new Set<Definition>();
  for (const one of old) {
    const now = next.get(one.key);
    const changed = now !== undefined && now.text !== one.text;
    if (changed && inPlace && one.kind === "blockdev") reopen.push([one, now]);
    else if (changed || now === undefined || [...gone].some((other) => dependsOn(one, other))) {
      gone.add(one);
    }
  }
  const kept = new Set(old.filter((one) => !gone.has(one)).map((one) => one.key));
  return {
    reopen,
    remove: old.filter((one) => gone.has(one)),
    add: wanted.filter((one) => !kept.has(one.key)),
  };
}

/** The definitions that the files of --config made. */
export class Configuration {
  readonly #files: string[] = [];
  #now: Definition[] = [];
  /** The monitors among them, by key. */
  readonly #monitors = new Map<string, Monitor>();
  #busy = false;

  constructor(private readonly services: Services, private readonly makers: Makers) {}

  /** `--config FILE`. Throws CommandError. */
  async load(file: string): Promise<void> {
    // By its full path: --daemonize changes the directory.
    const full = this.services.context.sys.realpath(file);
    const path = typeof full === "string" ? full : file;
    for (const one of await readConfig(this.services.context.sys, file)) {
      await this.#located(one, () => this.#make(one, true));
      this.#now.push(one);
    }
    this.#files.push(path);
  }

  /** x-qsd-reload. Throws CommandError. */
  async reload(mode: "safe" | "hard"): Promise<XQsdReloadReportValue> {
    if (this.#files.length === 0) throw new CommandError("The daemon was started without --config");
    if (this.#busy) throw new CommandError("A reload is under way");
    this.#busy = true;
    try {
      const wanted: Definition[] = [];
      for (const file of this.#files) {
        wanted.push(...await readConfig(this.services.context.sys, file));
      }
      try {
        return await this.#carryOut(planReload(this.#now, wanted, true), wanted, mode);
      } catch (error) {
        // A node that cannot change in place is replaced, with all that stands on it.
        if (!(error instanceof CannotReopen)) throw error;
        return await this.#carryOut(planReload(this.#now, wanted, false), wanted, mode);
      }
    } finally {
      this.#busy = false;
    }
  }

  async #carryOut(
    plan: Plan,
    wanted: Definition[],
    mode: "safe" | "hard",
  ): Promise<XQsdReloadReportValue> {
    this.#refuse(plan, mode);
    const undo: (() => Promise<void>)[] = [];
    try {
      await this.#reopen(plan, undo);
      for (const one of plan.remove.toReversed()) {
        await this.#located(one, () => this.#unmake(one, mode));
        undo.push(() => this.#make(one));
      }
      for (const one of plan.add) {
        await this.#located(one, () => this.#make(one));
        undo.push(() => this.#unmake(one, "hard"));
      }
    } catch (error) {
      if (error instanceof CannotReopen) throw error;
      throw await this.#undone(error, undo);
    }
    this.#now = wanted;
    const before = new Set(plan.remove.map((one) => one.key));
    const after = new Set(plan.add.map((one) => one.key));
    return {
      added: [...after].filter((key) => !before.has(key)),
      removed: [...before].filter((key) => !after.has(key)),
      reopened: plan.reopen.map(([one]) => one.key),
      replaced: [...before].filter((key) => after.has(key)),
      unchanged: wanted.length - plan.add.length - plan.reopen.length,
    };
  }

  /** What can be told before anything is touched. */
  #refuse({ remove }: Plan, mode: "safe" | "hard"): void {
    for (const one of remove) {
      const monitor = one.kind === "monitor" ? this.#monitors.get(one.key) : undefined;
      if (monitor !== undefined && monitor === this.services.qmp.current) {
        throw new CommandError(`${one.where}: ${one.key} would have to go, but it is what asks`);
      }
      const found = one.kind === "export"
        ? this.services.exports.find(one.value["id"] as string)
        : undefined;
      if (mode === "safe" && found?.instance.inUse) {
        throw new CommandError(`${one.where}: ${one.key} is in use; mode=hard disconnects clients`);
      }
    }
  }

  async #reopen({ reopen }: Plan, undo: (() => Promise<void>)[]): Promise<void> {
    if (reopen.length === 0) return;
    const { graph } = this.services;
    // A reopen leaves discard as it is where it is not named.
    const options = (which: 0 | 1) =>
      reopen.map((pair) =>
        ({ discard: "ignore", ...pair[which].value }) as unknown as BlockdevOptionsValue
      );
    try {
      await graph.reopen(options(1));
    } catch (error) {
      throw new CannotReopen(error instanceof Error ? error.message : String(error));
    }
    undo.push(() => graph.reopen(options(0)));
  }

  /** Undoes what was done; the error that is then reported says how that went. */
  async #undone(error: unknown, undo: readonly (() => Promise<void>)[]): Promise<CommandError> {
    const failed: string[] = [];
    for (const step of undo.toReversed()) {
      await step().catch((why) => failed.push(why instanceof Error ? why.message : String(why)));
    }
    const what = error instanceof Error ? error.message : String(error);
    const how = failed.length === 0
      ? "nothing was changed"
      : `and not all could be undone: ${failed.join("; ")}`;
    return new CommandError(`${what} (${how})`);
  }

  async #located(one: Definition, act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      const hints = error instanceof CommandError ? error.hints : [];
      throw new CommandError(`${one.where}: ${one.key}: ${message}`, "GenericError", hints);
    }
  }

  /** Only a start waits for clients of character devices: a reload would hold up all monitors. */
  async #make({ kind, key, value }: Definition, wait = false): Promise<void> {
    const { services, makers } = this;
    const typed = value as unknown;
    switch (kind) {
      case "object":
        return services.objects.add(typed as ObjectOptionsValue);
      case "chardev":
        return await makers.chardev(value["id"] as string, typed as Record<string, string>, wait);
      case "blockdev":
        await services.graph.add(typed as BlockdevOptionsValue, { monitorOwned: true });
        return;
      case "nbd-server":
        return await services.nbd.start(typed as NbdServerOptionsValue);
      case "export":
        await services.exports.add(typed as BlockExportOptionsValue);
        return;
      case "monitor":
        this.#monitors.set(key, makers.monitor(typed as MonitorOptionsValue));
        return;
    }
  }

  async #unmake({ kind, key, value }: Definition, mode: "safe" | "hard"): Promise<void> {
    const { services } = this;
    const id = value["id"] as string;
    switch (kind) {
      case "object":
        return services.objects.delete(id);
      case "chardev":
        return services.chardevs.remove(id);
      case "blockdev":
        return await services.graph.del(value["node-name"] as string);
      case "nbd-server":
        return await services.nbd.stop();
      case "export": {
        const found = services.exports.find(id);
        services.exports.del(id, mode);
        await found?.gone;
        return;
      }
      case "monitor":
        services.qmp.removeMonitor(this.#monitors.get(key)!);
        this.#monitors.delete(key);
        return;
    }
  }
}

/** Changed nodes cannot take their new options as they are. */
class CannotReopen extends Error {}
