/** The objects `iothread` and `main-loop`: event loops and their properties, which can be changed while they run. */
import { CommandError } from "../base/mod.ts";
import type { ObjectKind, Property, QomClass, QomObject } from "../qom/mod.ts";
import { int } from "../qmp/schema/core.ts";
import type { IothreadPropertiesValue, MainLoopPropertiesValue } from "../qmp/schema/qom.ts";
import type { ThreadHub } from "./hub.ts";
import type { LoopProperties } from "./messages.ts";

const number = (name: keyof LoopProperties): Property => ({
  name,
  type: "int",
  writable: int,
  creatable: true,
});

/** `iothread`, `main-loop` and what they inherit from. */
export const threadClasses: readonly QomClass[] = [
  {
    name: "event-loop-base",
    parent: "object",
    abstract: true,
    implements: ["user-creatable"],
    properties: [number("thread-pool-min"), number("aio-max-batch"), number("thread-pool-max")],
  },
  {
    name: "iothread",
    parent: "event-loop-base",
    properties: [number("poll-max-ns"), number("poll-grow"), number("poll-shrink")],
  },
  { name: "main-loop", parent: "event-loop-base" },
];

/** As in QEMU. */
const DEFAULT_PROPERTIES: LoopProperties = {
  "poll-max-ns": 32768,
  "poll-grow": 0,
  "poll-shrink": 0,
  "aio-max-batch": 0,
  "thread-pool-min": 0,
  "thread-pool-max": 64,
};

type Given = { readonly [name in keyof LoopProperties]?: number | undefined };

/** `old` with what is `given`. Throws CommandError. */
function checked(old: LoopProperties, given: Given): LoopProperties {
  const next: LoopProperties = { ...old };
  for (const name of Object.keys(old) as (keyof LoopProperties)[]) {
    const value = given[name];
    if (value === undefined) continue;
    if (value < 0) {
      throw new CommandError(`${name} value must be in range [0, 9223372036854775807]`);
    }
    next[name] = value;
  }
  if (next["thread-pool-max"] === 0 || next["thread-pool-min"] > next["thread-pool-max"]) {
    throw new CommandError("bad thread-pool-min/thread-pool-max values");
  }
  return next;
}

/** An object whose properties are those of a loop. */
class LoopObject implements QomObject {
  constructor(
    private properties: LoopProperties,
    private readonly apply: (properties: LoopProperties) => void,
    readonly busy: () => boolean,
    readonly remove: () => void,
  ) {}

  get(property: string): unknown {
    return this.properties[property as keyof LoopProperties];
  }

  set(property: string, value: unknown): void {
    this.properties = checked(this.properties, { [property]: Number(value) });
    this.apply(this.properties);
  }
}

/** Makes IOThreads. */
export function iothreadKind(hub: ThreadHub): ObjectKind<IothreadPropertiesValue> {
  return {
    type: "iothread",
    make(id, options) {
      const properties = checked(DEFAULT_PROPERTIES, numbers(options));
      const thread = hub.add(id, properties);
      return new LoopObject(
        properties,
        (next) => thread.configure(next),
        () => hub.inUse(thread),
        () => hub.remove(thread),
      );
    },
  };
}

/** Makes the object that stands for the main context's loop: one at most, and it stays. */
export function mainLoopKind(
  apply: (properties: LoopProperties) => void,
): ObjectKind<MainLoopPropertiesValue> {
  let made = false;
  return {
    type: "main-loop",
    make(_id, options) {
      const properties = checked(DEFAULT_PROPERTIES, numbers(options));
      if (made) throw new CommandError("only one main-loop instance allowed");
      made = true;
      apply(properties);
      return new LoopObject(properties, apply, () => true, () => {});
    },
  };
}

/** The properties among `options`. */
function numbers(options: object): Given {
  const names = Object.keys(DEFAULT_PROPERTIES);
  const given = Object.entries(options).filter(([name]) => names.includes(name));
  return Object.fromEntries(given.map(([name, value]) => [name, Number(value)]));
}
