/** The object tree: qom-list, -get, -set, -list-types, -list-properties; object-add's refusals; help of --object. */
import {
  type Case,
  type Difference,
  parity,
  says,
  type Step,
  together,
  type Transcript,
} from "./mould.ts";
import { qomGet as get, qomSet as set } from "./steps.ts";

const list = (path: unknown): Step => ({ execute: "qom-list", arguments: { path } });
const types = (args: Record<string, unknown> = {}): Step => ({
  execute: "qom-list-types",
  arguments: args,
});
const properties = (typename: unknown): Step => ({
  execute: "qom-list-properties",
  arguments: { typename },
});
const add = (args: Record<string, unknown>): Step => ({ execute: "object-add", arguments: args });
const del = (id: unknown): Step => ({ execute: "object-del", arguments: { id } });

const of = (name: string, ...steps: Step[]): Case => ({
  name,
  args: ["--object", "secret,id=s1,data=abc", "--chardev", "null,id=n"],
  steps,
});

/** Children in the order of their names; the original shows them as its hash table has them. */
const sorted: Difference = {
  reason: "the order of children means nothing",
  expect: (theirs: Transcript) => ({
    ...theirs,
    steps: theirs.steps.map((step) => {
      const { return: list } = step as { return: { name: string }[] };
      const [type, ...children] = list;
      return {
        ...(step as object),
        return: [type, ...children.sort((a, b) => a.name < b.name ? -1 : 1)],
      };
    }),
  }),
};

parity("qom-list of children in no order", [
  { ...of("the character devices", list("/chardevs")), differs: sorted },
]);
together("qom-list", [
  of("the root and the objects", list("/"), list("/objects")),
  of("objects", list("/objects/s1"), list("/chardevs/n")),
  of("partial paths", list("objects"), list("s1"), list("objects/s1"), list("n")),
  of("blanks between slashes do not count", list("//objects//"), list("/objects/"), list("//")),
  of("the empty path fits everything", list("")),
  of("nothing there", list("/nope"), list("nope"), list("/objects/zz"), list("zz/s1")),
  of("a property is no object", list("/objects/s1/data"), list("/objects/s1/type")),
  of("names of JavaScript are no objects", list("/__proto__"), list("/objects/constructor")),
  of("wrong types", list(3), list(null), { execute: "qom-list" }, {
    execute: "qom-list",
    arguments: { path: "/", more: 1 },
  }),
  of(
    "objects come and go",
    add({ "qom-type": "secret", id: "s1x", data: "x" }),
    list("/objects/s1x"),
    del("s1x"),
    list("/objects/s1x"),
  ),
]);

together("qom-get", [
  of(
    "every property of a secret",
    ...["type", "iv", "keyid", "loaded", "format", "file", "data"].map((one) =>
      get("/objects/s1", one)
    ),
  ),
  of("children are paths", get("/", "objects"), get("/objects", "s1"), get("/chardevs", "n")),
  of("the type", get("/", "type"), get("/objects", "type"), get("/chardevs/n", "type")),
  of("by a partial path", get("s1", "data")),
  of("no such property", get("/objects/s1", "nope"), get("/objects", "nope"), get("/", "nope")),
  of("no such object", get("/nope", "type")),
  of("names of JavaScript", get("/objects/s1", "__proto__"), get("/", "constructor")),
]);

parity("qom-set", [
  of("data can be changed and read", set("/objects/s1", "data", "x"), get("/objects/s1", "data")),
  of("file, iv, keyid, format", ...["file", "iv", "keyid"].map((one) => set("s1", one, "v"))),
  of("format", set("s1", "format", "base64"), get("s1", "format"), set("s1", "format", "foo")),
  of("wrong types", set("s1", "format", 3), set("s1", "data", 3), set("s1", "data", null)),
  of("what cannot be set", set("s1", "type", "x"), set("s1", "loaded", true), set("/", "type", 1)),
  of("children cannot be set", set("/objects", "s1", "x"), set("/", "objects", "/")),
  of("nothing there", set("/objects/s1", "nope", 1), set("/nope", "x", 1)),
  of("no value", { execute: "qom-set", arguments: { path: "/", property: "type" } }),
]);

together("qom-list-types", [
  of(
    "of chardevs",
    ...["file", "null", "socket", "stdio"].map((one) => types({ implements: `chardev-${one}` })),
  ),
  of("of secrets", types({ implements: "secret" }), types({ implements: "container" })),
  of("of nothing", types({ implements: "nope" }), types({ implements: "__proto__" })),
  of("wrong types", types({ implements: 1 }), types({ abstract: "yes" }), types({ more: 1 })),
]);

together("qom-list-properties", [
  of("of secrets", properties("secret"), properties("secret_common")),
  of("of the basics", properties("container"), properties("object"), properties("chardev-null")),
  of("an interface", properties("user-creatable"), properties("interface")),
  of("unknown", properties("nope"), properties(""), properties("toString")),
  of("wrong types", properties(1), { execute: "qom-list-properties" }),
]);

parity("object-add and -del", [
  of("in QEMU, not in the daemon", add({ "qom-type": "can-bus", id: "x" })),
  of("unknown to everyone", add({ "qom-type": "nope", id: "x" }), add({ "qom-type": 3, id: "x" })),
  of("bad ids", add({ "qom-type": "secret", id: "1", data: "x" }), add({ "qom-type": "secret" })),
  of("duplicate", add({ "qom-type": "secret", id: "s1", data: "x" })),
  of("duplicates come before the object's own mistakes", add({ "qom-type": "secret", id: "s1" })),
  of(
    "a member that only reads",
    add({ "qom-type": "secret", id: "x", data: "x", loaded: true }),
    add({ "qom-type": "secret", id: "x", loaded: false }),
    add({ "qom-type": "secret", id: "1", loaded: false }),
  ),
  of("delete", del("s1"), del("s1"), del(""), del(1), list("s1")),
]);

const ended = (name: string, ...args: string[]): Case => ({ name, args });
parity("--object help", [
  ended("of a type", "--object", "secret,help"),
  ended("with a question mark", "--object", "secret,?"),
  ended("among other options", "--object", "secret,id=x,help"),
  ended("before other options", "--object", "secret,help,foo=1"),
  ended("of a type without options", "--object", "container,help"),
  ended("syntax comes first", "--object", "help,foo"),
  ended("as a value it is no help", "--object", "qom-type=help"),
  ended("in JSON it is no help", "--object", '{"qom-type":"help"}'),
  ended("in QEMU, not in the daemon", "--object", "can-bus,id=x"),
  {
    ...ended("known to the original, not to qsd", "--object", "pr-manager-helper,id=x,path=/nope"),
    differs: says(
      "a type whose feature is still to come is refused as one that was not built in",
      () =>
        "qemu-storage-daemon: --object pr-manager-helper,id=x,path=/nope: " +
        "invalid object type: pr-manager-helper\n",
    ),
  },
]);
