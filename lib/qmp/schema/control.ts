/** Commands of the control plane itself (QAPI control.json, misc.json, introspect.json). */
import {
  any,
  array,
  bool,
  command,
  empty,
  enumeration,
  int,
  member,
  opt,
  type Schema,
  str,
  struct,
  union,
} from "./core.ts";

export const QMPCapability = enumeration("QMPCapability", ["oob"]);

export const VersionTriple = struct("VersionTriple", { major: int, minor: int, micro: int });
export const VersionInfo = struct("VersionInfo", { qemu: VersionTriple, package: str });

export const CommandInfo = struct("CommandInfo", { name: str });

export const SchemaMetaType = enumeration("SchemaMetaType", [
  "builtin",
  "enum",
  "array",
  "object",
  "alternate",
  "command",
  "event",
]);
export const JSONType = enumeration("JSONType", [
  "string",
  "number",
  "int",
  "boolean",
  "null",
  "object",
  "array",
  "value",
]);
export const SchemaInfoBuiltin = struct("SchemaInfoBuiltin", { "json-type": JSONType });
export const SchemaInfoEnumMember = struct("SchemaInfoEnumMember", {
  name: str,
  features: opt(array(str)),
});
export const SchemaInfoEnum = struct("SchemaInfoEnum", {
  members: array(SchemaInfoEnumMember),
  values: member(array(str), { features: ["deprecated"] }),
});
export const SchemaInfoArray = struct("SchemaInfoArray", { "element-type": str });
export const SchemaInfoObjectMember = struct("SchemaInfoObjectMember", {
  name: str,
  type: str,
  default: opt(any),
  features: opt(array(str)),
});
export const SchemaInfoObjectVariant = struct("SchemaInfoObjectVariant", { case: str, type: str });
export const SchemaInfoObject = struct("SchemaInfoObject", {
  members: array(SchemaInfoObjectMember),
  tag: opt(str),
  variants: opt(array(SchemaInfoObjectVariant)),
});
export const SchemaInfoAlternateMember = struct("SchemaInfoAlternateMember", { type: str });
export const SchemaInfoAlternate = struct("SchemaInfoAlternate", {
  members: array(SchemaInfoAlternateMember),
});
export const SchemaInfoCommand = struct("SchemaInfoCommand", {
  "arg-type": str,
  "ret-type": str,
  "allow-oob": opt(bool),
});
export const SchemaInfoEvent = struct("SchemaInfoEvent", { "arg-type": str });
export const SchemaInfo = union(
  "SchemaInfo",
  { name: str, "meta-type": SchemaMetaType, features: opt(array(str)) },
  "meta-type",
  {
    builtin: SchemaInfoBuiltin,
    enum: SchemaInfoEnum,
    array: SchemaInfoArray,
    object: SchemaInfoObject,
    alternate: SchemaInfoAlternate,
    command: SchemaInfoCommand,
    event: SchemaInfoEvent,
  },
);

/** An entry of query-qmp-schema, loosely: introspect.ts makes them. */
export type SchemaEntry = Record<string, unknown>;

/** The control plane's commands. */
export const controlCommands = {
  qmp_capabilities: command(
    struct("qmp_capabilities-arg", { enable: opt(array(QMPCapability)) }),
    empty,
    {
      doc: "Ends the negotiation of capabilities: other commands are accepted from now on.",
    },
  ),
  "query-version": command(empty, VersionInfo, {
    doc: "The level of QEMU that this daemon is compatible with, and what it is.",
  }),
  "query-commands": command(empty, array(CommandInfo), { doc: "All commands." }),
  "query-qmp-schema": command(empty, array(SchemaInfo as Schema<unknown> as Schema<SchemaEntry>), {
    doc: "All commands, events and their types, as data.",
  }),
  quit: command(empty, empty, { doc: "Stops the daemon." }),
} as const;
