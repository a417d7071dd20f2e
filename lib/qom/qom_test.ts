/** Texts as qemu-storage-daemon 7.2.22 has them. */
import assert from "node:assert/strict";
import { createCipheriv } from "node:crypto";
import { parseValue } from "../cli/mod.ts";
import { ObjectOptions } from "../qmp/schema/qom.ts";
import { LinuxSys } from "../sys/mod.ts";
import { objectHandlers, ObjectRegistry } from "./mod.ts";
import { resolvePath } from "./tree.ts";

const key = Uint8Array.from({ length: 32 }, (_, i) => i);
const iv = Uint8Array.from({ length: 16 }, (_, i) => 255 - i);
const base64 = (bytes: Uint8Array) => btoa(String.fromCharCode(...bytes));

function withObjects(run: (objects: ObjectRegistry, add: (text: string) => void) => void): void {
  const sys = new LinuxSys();
  const objects = new ObjectRegistry({ sys });
  try {
    run(objects, (text) => objects.add(parseValue(text, "qom-type", ObjectOptions)));
  } finally {
    objects.close();
    sys.dispose();
  }
}

Deno.test("secrets from data, base64, a file, and encrypted with another secret", () =>
  withObjects((objects, add) => {
    const text = (id: string) => new TextDecoder().decode(objects.secret(id));
    add("secret,id=a,data=hello");
    add("secret,id=b,data=aGVsbG8=,format=base64");
    const file = Deno.makeTempFileSync();
    Deno.writeTextFileSync(file, "from a file");
    add(`secret,id=c,file=${file}`);
    Deno.removeSync(file);
    add(`secret,id=k,data=${base64(key)},format=base64`);
    const cipher = createCipheriv("aes-256-cbc", key, iv);
    const sealed = new Uint8Array([...cipher.update("sealed"), ...cipher.final()]);
    add(`secret,id=d,data=${base64(sealed)},format=base64,keyid=k,iv=${base64(iv)}`);
    assert.deepEqual(["a", "b", "c", "d"].map(text), ["hello", "hello", "from a file", "sealed"]);
  }));

Deno.test("what cannot be made is refused in the original's words", () =>
  withObjects((objects, add) => {
    add(`secret,id=k,data=${base64(key)},format=base64`);
    add("secret,id=short,data=abc");
    const block = base64(new Uint8Array(16));
    const refused: readonly (readonly [string, string])[] = [
      ["foo", "Parameter 'qom-type' does not accept value 'foo'"],
      ["secret", "Parameter 'id' is missing"],
      ["secret,id=1", "Parameter 'id' expects an identifier"],
      ["secret,id=a", "Either 'file' or 'data' must be provided"],
      ["secret,id=a,data=x,file=y", "'file' and 'data' are mutually exclusive"],
      ["secret,id=a,data=x,foo=1", "Parameter 'foo' is unexpected"],
      ["secret,id=a,data=x,format=foo", "Parameter 'format' does not accept value 'foo'"],
      ["secret,id=a,data=a!b,format=base64", "Base64 data contains invalid characters"],
      [
        "secret,id=a,file=/nonexist",
        "Unable to read /nonexist: Failed to open file “/nonexist”: No such file or directory",
      ],
      ["secret,id=a,data=x,keyid=b", "No secret with id 'b'"],
      ["secret,id=a,data=x,keyid=short", "Key should be 32 bytes in length"],
      ["secret,id=a,data=xx,keyid=k", "IV is required to decrypt secret"],
      ["secret,id=a,data=xx,keyid=k,iv=AAAA", "IV should be 16 bytes in length not 3"],
      [
        `secret,id=a,data=YWJj,keyid=k,iv=${base64(iv)},format=base64`,
        "Length 3 must be a multiple of block size 16",
      ],
      [
        "secret,id=k",
        "attempt to add duplicate property 'k' to object (type 'container')",
      ],
    ];
    for (const [text, message] of refused) assert.throws(() => add(text), { message }, text);
    assert.throws(
      () => add(`secret,id=a,data=${block},keyid=k,iv=${base64(iv)},format=base64`),
      /^CommandError: Incorrect number of padding bytes \(\d+\) found on decrypted data$/,
    );
    assert.throws(() => objects.delete("zz"), { message: "object 'zz' not found" });
  }));

Deno.test("an object that is held cannot be deleted", () =>
  withObjects((objects, add) => {
    add("secret,id=a,data=x");
    const hold = objects.hold("a");
    assert.throws(() => objects.delete("a"), {
      message: "object 'a' is in use, can not be deleted",
    });
    hold.release();
    objects.delete("a");
    assert.throws(() => objects.secret("a"), { message: "No secret with id 'a'" });
  }));

Deno.test("help lists types and properties", () =>
  withObjects(({ classes }) => {
    assert.equal(classes.help(undefined), "List of user creatable objects:\n  secret\n");
    assert.equal(classes.help("nope"), classes.help(undefined));
    assert.equal(
      classes.help("secret"),
      "secret options:\n  data=<string>\n  file=<string>\n  format=<QCryptoSecretFormat>\n" +
        "  iv=<string>\n  keyid=<string>\n",
    );
    assert.equal(classes.help("container"), "There are no options for container.\n");
  }));

Deno.test("the tree shows objects and branches; a partial path must fit exactly once", () =>
  withObjects((objects, add) => {
    add("secret,id=a,data=x");
    add("secret,id=chardevs,data=y");
    objects.addBranch([{ name: "chardev-null", parent: "object" }], {
      name: "chardevs",
      list: () => [{ name: "n", type: "chardev-null" }, { name: "a", type: "chardev-null" }],
    });
    const at = (path: string) => resolvePath(objects.tree(), path).path;
    assert.equal(at("/"), "/");
    assert.equal(at("n"), "/chardevs/n");
    assert.equal(at("objects/a"), "/objects/a");
    for (const path of ["a", "chardevs", ""]) {
      assert.throws(() => at(path), { message: `Path '${path}' is ambiguous` });
    }
    assert.throws(() => at("/n"), {
      message: "Device '/n' not found",
      errorClass: "DeviceNotFound",
    });
  }));

Deno.test("qom-list-get gives several objects with their values", () =>
  withObjects((objects, add) => {
    add("secret,id=a,data=x");
    const commands = objectHandlers(objects);
    assert.deepEqual(commands["qom-list-get"]({ paths: ["/objects", "a"] }), [
      {
        properties: [
          { name: "type", type: "string", value: "container" },
          { name: "a", type: "child<secret>", value: "/objects/a" },
        ],
      },
      {
        properties: [
          { name: "type", type: "string", value: "secret" },
          { name: "iv", type: "string", value: "" },
          { name: "keyid", type: "string", value: "" },
          { name: "loaded", type: "bool", value: true },
          { name: "format", type: "QCryptoSecretFormat", value: "raw" },
          { name: "file", type: "string", value: "" },
          { name: "data", type: "string", value: "x" },
        ],
      },
    ]);
    assert.throws(() => commands["qom-list-get"]({ paths: ["a", "zz"] }), {
      message: "Device 'zz' not found",
    });
  }));

Deno.test("qom-set changes what is read, not the bytes that were loaded", () =>
  withObjects((objects, add) => {
    add("secret,id=a,data=x");
    const commands = objectHandlers(objects);
    commands["qom-set"]({ path: "a", property: "data", value: "new" });
    assert.equal(commands["qom-get"]({ path: "a", property: "data" }), "new");
    assert.equal(new TextDecoder().decode(objects.secret("a")), "x");
  }));
