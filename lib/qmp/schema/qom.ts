/**
 * User-creatable objects and the object tree (QAPI qom.json, crypto.json). Only types that work are listed; the
 * others that QEMU knows are refused by name.
 */
import {
  any,
  array,
  bool,
  command,
  empty,
  enumeration,
  type Infer,
  int,
  member,
  opt,
  type Schema,
  str,
  struct,
  union,
} from "./core.ts";

export const QCryptoSecretFormat = enumeration("QCryptoSecretFormat", ["raw", "base64"]);
export const SecretProperties = struct("SecretProperties", {
  loaded: opt(bool, { features: ["deprecated"] }),
  format: opt(QCryptoSecretFormat),
  keyid: opt(str),
  iv: opt(str),
  data: opt(str),
  file: opt(str),
});
export type SecretPropertiesValue = Infer<typeof SecretProperties>;

/** What happens when the client of a monitor object leaves: nothing, or it and its character device go. */
export const MonitorQmpCloseAction = enumeration("MonitorQMPCloseAction", ["none", "delete"]);
/** A QMP monitor made at run time (QEMU 11.1). */
export const MonitorQmpProperties = struct("MonitorQMPProperties", {
  chardev: str,
  pretty: opt(bool),
  "close-action": opt(MonitorQmpCloseAction),
});
export type MonitorQmpPropertiesValue = Infer<typeof MonitorQmpProperties>;

/** What the event loops of `iothread` and `main-loop` have in common. */
const eventLoopMembers = {
  "aio-max-batch": opt(int),
  "thread-pool-min": opt(int),
  "thread-pool-max": opt(int),
};
export const MainLoopProperties = struct("MainLoopProperties", eventLoopMembers);
export type MainLoopPropertiesValue = Infer<typeof MainLoopProperties>;
export const IothreadProperties = struct("IothreadProperties", {
  ...eventLoopMembers,
  "poll-max-ns": opt(int),
  "poll-grow": opt(int),
  "poll-shrink": opt(int),
});
export type IothreadPropertiesValue = Infer<typeof IothreadProperties>;

/** Types that QEMU's schema names and this daemon does not have. */
const absentObjectTypes = [
  "authz-list",
  "authz-listfile",
  "authz-pam",
  "authz-simple",
  "can-bus",
  "can-host-socketcan",
  "colo-compare",
  "cryptodev-backend",
  "cryptodev-backend-builtin",
  "cryptodev-backend-lkcf",
  "cryptodev-vhost-user",
  "dbus-vmstate",
  "filter-buffer",
  "filter-dump",
  "filter-mirror",
  "filter-redirector",
  "filter-replay",
  "filter-rewriter",
  "input-barrier",
  "input-linux",
  "memory-backend-epc",
  "memory-backend-file",
  "memory-backend-memfd",
  "memory-backend-ram",
  "pef-guest",
  "pr-manager-helper",
  "qtest",
  "rng-builtin",
  "rng-egd",
  "rng-random",
  "s390-pv-guest",
  "secret_keyring",
  "sev-guest",
  "thread-context",
  "throttle-group",
  "tls-cipher-suites",
  "tls-creds-anon",
  "tls-creds-psk",
  "tls-creds-x509",
  "x-remote-object",
  "x-vfio-user-server",
] as const;

export const ObjectType = enumeration(
  "ObjectType",
  ["iothread", "main-loop", "monitor-qmp", "secret"],
  {},
  {
    values: absentObjectTypes,
    message: (type) => `invalid object type: ${type}`,
  },
);
/** `--object` and object-add. */
export const ObjectOptions = union(
  "ObjectOptions",
  { "qom-type": ObjectType, id: str },
  "qom-type",
  {
    iothread: IothreadProperties,
    "main-loop": MainLoopProperties,
    "monitor-qmp": MonitorQmpProperties,
    secret: SecretProperties,
  },
);
export type ObjectOptionsValue = Infer<typeof ObjectOptions>;

/** A property of an object or of a type. */
export const ObjectPropertyInfo = struct("ObjectPropertyInfo", {
  name: str,
  type: str,
  description: opt(str),
  "default-value": opt(any),
});
export type ObjectPropertyInfoValue = Infer<typeof ObjectPropertyInfo>;

/** A type. */
export const ObjectTypeInfo = struct("ObjectTypeInfo", {
  name: str,
  abstract: opt(bool),
  parent: opt(str),
});
export type ObjectTypeInfoValue = Infer<typeof ObjectTypeInfo>;

/** A property with its value, where it can be read. */
export const ObjectPropertyValue = struct("ObjectPropertyValue", {
  name: str,
  type: str,
  value: opt(any),
});
/** All properties of one object. */
export const ObjectPropertiesValues = struct("ObjectPropertiesValues", {
  properties: array(ObjectPropertyValue),
});

/** Commands on objects. */
export const objectCommands = {
  "object-add": command(ObjectOptions, empty, {
    doc: "Makes an object.",
    errors: [
      "`invalid object type: T`: QEMU has it, this daemon has not",
      "`Parameter 'id' expects an identifier`",
      "`attempt to add duplicate property 'ID' to object (type 'container')`",
      "of secrets: `Either 'file' or 'data' must be provided`, `'file' and 'data' are mutually exclusive`, `Unable to read FILE: ...`, `Base64 data contains invalid characters`, `No secret with id 'X'`, `Key should be 32 bytes in length`, `IV is required to decrypt secret`",
      "of event loops: `poll-max-ns value must be in range [0, 9223372036854775807]`, `bad thread-pool-min/thread-pool-max values`, `only one main-loop instance allowed`",
      "of monitors: `chardev \"X\" not found`, `Device 'X' is in use`",
    ],
  }),
  "object-del": command(struct("q_obj_object-del-arg", { id: str }), empty, {
    doc: "Removes an object that nothing uses.",
    errors: ["`object 'ID' not found`", "`object 'ID' is in use, can not be deleted`"],
  }),
  "qom-list": command(
    struct("q_obj_qom-list-arg", { path: str }),
    array(ObjectPropertyInfo),
    {
      doc:
        "The properties of the object at a path; those of type `child<T>` are objects below it. A path that does not begin with `/` is looked for everywhere.",
      errors: ["DeviceNotFound `Device 'PATH' not found`; `Path 'PATH' is ambiguous`"],
    },
  ),
  "qom-get": command(
    struct("q_obj_qom-get-arg", { path: str, property: str }),
    any,
    {
      doc: "The value of one property.",
      errors: [
        "DeviceNotFound `Device 'PATH' not found`; `Path 'PATH' is ambiguous`",
        "`Property 'T.P' not found`",
      ],
    },
  ),
  "qom-set": command(
    struct("q_obj_qom-set-arg", {
      path: str,
      property: str,
      value: member(any as Schema<unknown>),
    }),
    empty,
    {
      doc: "Sets one property.",
      errors: [
        "DeviceNotFound `Device 'PATH' not found`; `Path 'PATH' is ambiguous`",
        "`Property 'T.P' not found`",
        "`Property 'T.P' is not writable`",
      ],
    },
  ),
  "qom-list-get": command(
    struct("q_obj_qom-list-get-arg", { paths: array(str) }),
    array(ObjectPropertiesValues),
    {
      doc: "The properties of several objects with their values (QEMU 10.1).",
      errors: ["DeviceNotFound `Device 'PATH' not found`; `Path 'PATH' is ambiguous`"],
    },
  ),
  "qom-list-types": command(
    struct("q_obj_qom-list-types-arg", { implements: opt(str), abstract: opt(bool) }),
    array(ObjectTypeInfo),
    {
      doc:
        "The types of objects that there are; with `implements`, those that are or have that type.",
    },
  ),
  "qom-list-properties": command(
    struct("q_obj_qom-list-properties-arg", { typename: str }),
    array(ObjectPropertyInfo),
    {
      doc: "The properties that objects of a type have.",
      errors: ["DeviceNotFound `Class 'T' not found`", "`Parameter 'typename' expects a QOM type`"],
    },
  ),
} as const;
