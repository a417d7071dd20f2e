/** What an object and its class are. */
import type { MaybePromise } from "../base/mod.ts";
import type { Schema } from "../qmp/schema/core.ts";

/** A property of a class. */
export interface Property {
  readonly name: string;
  /** QOM's name of its type: string, bool, int, an enumeration's name, or child<CLASS>. */
  readonly type: string;
  /** What qom-set takes; absent: only object-add sets it, or nothing does. */
  readonly writable?: Schema<unknown>;
  /** Whether it can be given when the object is made (help shows those). */
  readonly creatable: boolean;
}

/** A class. */
export interface QomClass {
  readonly name: string;
  readonly parent?: string;
  readonly abstract?: boolean;
  /** Interfaces that it (and whatever inherits from it) has. */
  readonly implements?: readonly string[];
  /** Those beyond its parent's. */
  readonly properties?: readonly Property[];
}

/** A user-creatable object. */
export interface QomObject {
  /** The value of a property of its class. */
  get(property: string): unknown;
  /** Sets a writable property; the value has been checked. */
  set?(property: string, value: unknown): void;
  /** Bytes, of secrets. */
  readonly secret?: Uint8Array;
  /** Whether something uses it, so that it cannot be deleted. Absent: only those who hold it (ObjectRegistry.hold). */
  busy?(): boolean;
  /** The object goes away. */
  remove?(): MaybePromise<void>;
}

/** A kind of object that object-add makes. `O` is the branch of ObjectOptions. */
export interface ObjectKind<O> {
  /** Its class, by name. */
  readonly type: string;
  /** Makes the object. Throws CommandError. */
  make(id: string, options: O): QomObject;
}

/** Something else that the tree shows: character devices, for example. */
export interface QomBranch {
  /** The name of its container, below the root. */
  readonly name: string;
  /** The objects in it. Their class has no properties but its type. */
  list(): readonly { readonly name: string; readonly type: string }[];
}
