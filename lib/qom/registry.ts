/** The user-creatable objects of the daemon, by id, and the tree in which they are seen. */
import { badIdentifier, CommandError, isIdentifier } from "../base/mod.ts";
import type { ObjectOptionsValue } from "../qmp/schema/qom.ts";
import type { Context } from "../sys/mod.ts";
import { ClassTable } from "./classes.ts";
import { secretClasses, secretKind } from "./secret_object.ts";
import { container, leaf, type TreeNode } from "./tree.ts";
import type { ObjectKind, QomBranch, QomClass, QomObject } from "./types.ts";

interface Entry {
  readonly type: string;
  readonly object: QomObject;
  /** Those who hold it: it cannot be deleted. */
  users: number;
}

/** The objects. */
export class ObjectRegistry {
  readonly classes: ClassTable = new ClassTable();
  private readonly objects = new Map<string, Entry>();
  private readonly kinds = new Map<string, ObjectKind<never>>();
  private readonly branches: QomBranch[] = [];

  constructor(context: Pick<Context, "sys">) {
    this.register(secretClasses, secretKind(context, (id) => this.secret(id)));
  }

  /** Makes a kind of object known, with its classes. */
  register<O>(classes: readonly QomClass[], kind: ObjectKind<O>): void {
    this.classes.add(classes);
    this.kinds.set(kind.type, kind);
  }

  /** Shows other things in the tree, with their classes. */
  addBranch(classes: readonly QomClass[], branch: QomBranch): void {
    this.classes.add(classes);
    this.branches.push(branch);
  }

  /** Makes an object. Throws CommandError. */
  add(options: ObjectOptionsValue): void {
    const { id, "qom-type": type } = options;
    if (!isIdentifier(id)) throw badIdentifier();
    const kind = this.kinds.get(type);
    if (kind === undefined) throw new CommandError(`invalid object type: ${type}`);
    if (this.objects.has(id)) {
      throw new CommandError(
        `attempt to add duplicate property '${id}' to object (type 'container')`,
      );
    }
    const object = kind.make(id, options as never);
    this.objects.set(id, { type, object, users: 0 });
  }

  /** Removes an object. Throws CommandError when there is none, or it is held. */
  delete(id: string): void {
    const entry = this.find(id);
    if (entry.users > 0 || entry.object.busy?.() === true) {
      throw new CommandError(`object '${id}' is in use, can not be deleted`);
    }
    this.objects.delete(id);
    entry.object.remove?.();
  }

  /** The bytes of secret `id`, now. Throws CommandError. */
  secret(id: string): Uint8Array {
    const bytes = this.objects.get(id)?.object.secret;
    if (bytes === undefined) throw new CommandError(`No secret with id '${id}'`);
    return bytes;
  }

  /** Keeps object `id` from being deleted until `release` is called (once). Throws CommandError. */
  hold(id: string): { release(): void } {
    const entry = this.find(id);
    entry.users++;
    return { release: () => void entry.users-- };
  }

  /** The whole tree, as it is now. */
  tree(): TreeNode {
    const objects = [...this.objects].sort(byName)
      .map(([id, { type, object }]) => [id, leaf(`/objects/${id}`, type, object)] as const);
    const branches = this.branches.map(({ name, list }) => {
      const children = list().map((one) =>
        [one.name, leaf(`/${name}/${one.name}`, one.type)] as const
      );
      return [name, container(`/${name}`, new Map(children.sort(byName)))] as const;
    });
    return container(
      "/",
      new Map([["objects", container("/objects", new Map(objects))], ...branches]),
    );
  }

  /** Lets go of all objects. */
  close(): void {
    for (const { object } of this.objects.values()) object.remove?.();
    this.objects.clear();
  }

  private find(id: string): Entry {
    const entry = this.objects.get(id);
    if (entry === undefined) throw new CommandError(`object '${id}' not found`);
    return entry;
  }
}

const byName = ([a]: readonly [string, unknown], [b]: readonly [string, unknown]) =>
  a < b ? -1 : a > b ? 1 : 0;
