/** The classes: who inherits from whom, and which properties they bring. */
import { CommandError } from "../base/mod.ts";
import type { ObjectPropertyInfoValue, ObjectTypeInfoValue } from "../qmp/schema/qom.ts";
import type { Property, QomClass } from "./types.ts";

/** The property that every object has. */
const TYPE: Property = { name: "type", type: "string", creatable: false };
/** The interface of what object-add makes. */
export const USER_CREATABLE = "user-creatable";

const basics: readonly QomClass[] = [
  { name: "object", abstract: true, properties: [TYPE] },
  { name: "interface", abstract: true },
  { name: USER_CREATABLE, parent: "interface", abstract: true },
  { name: "container", parent: "object" },
];

/** All classes, by name. */
export class ClassTable {
  readonly #classes = new Map<string, QomClass>();

  constructor() {
    this.add(basics);
  }

  /** Makes classes known; a parent before its heirs. */
  add(classes: readonly QomClass[]): void {
    for (const one of classes) this.#classes.set(one.name, one);
  }

  /** The class and those that it inherits from, itself first. */
  #line(name: string): QomClass[] {
    const line: QomClass[] = [];
    for (let at = this.#classes.get(name); at !== undefined;) {
      line.push(at);
      at = at.parent === undefined ? undefined : this.#classes.get(at.parent);
    }
    return line;
  }

  /** Whether `name` is `ancestor`, inherits from it, or has it as an interface. */
  is(name: string, ancestor: string): boolean {
    return this.#line(name).some((one) =>
      one.name === ancestor || (one.implements?.some((face) => this.is(face, ancestor)) ?? false)
    );
  }

  /** All properties of a class: those of the first ancestor first. */
  properties(name: string): readonly Property[] {
    return this.#line(name).reverse().flatMap((one) => one.properties ?? []);
  }

  /** qom-list-types: by name. */
  list(ancestor: string | undefined, abstract: boolean): ObjectTypeInfoValue[] {
    return [...this.#classes.values()]
      .filter((one) => abstract || one.abstract !== true)
      .filter((one) => ancestor === undefined || this.is(one.name, ancestor))
      .map(({ name, parent, abstract: isAbstract }) => ({
        name,
        ...(isAbstract ? { abstract: true } : {}),
        ...(parent === undefined ? {} : { parent }),
      }))
      .sort((a, b) => a.name < b.name ? -1 : 1);
  }

  /** qom-list-properties. Throws CommandError. */
  describe(name: string): ObjectPropertyInfoValue[] {
    if (!this.#classes.has(name)) {
      throw new CommandError(`Class '${name}' not found`, "DeviceNotFound");
    }
    if (!this.is(name, "object")) {
      throw new CommandError("Parameter 'typename' expects a QOM type");
    }
    return this.properties(name).map(({ name, type }) => ({ name, type }));
  }

  /** What `--object TYPE,help` prints (no type: the list of them). */
  help(name: string | undefined): string {
    if (name === undefined || !this.is(name, "object")) {
      const types = this.list(USER_CREATABLE, false).map((one) => `  ${one.name}\n`);
      return `List of user creatable objects:\n${types.join("")}`;
    }
    const lines = this.properties(name).filter((one) => one.creatable)
      .map((one) => `  ${one.name}=<${one.type}>\n`).sort();
    if (lines.length === 0) return `There are no options for ${name}.\n`;
    return `${name} options:\n${lines.join("")}`;
  }
}
