/** Goal: an image gets opened what its policy allows, and no more. Pure: nothing is opened here. */
import assert from "node:assert/strict";
import type { Sys } from "../sys/mod.ts";
import { directoryOf, nested, protocolOf, resolveName } from "./filenames.ts";
import { impliedName, impliedOptions } from "./implied.ts";
import { probeFormat } from "./probe.ts";

/** A system where /dev/sda is a disk and all else is not there. */
const sys = {
  stat: (path: string) => path === "/dev/sda" ? { kind: "block" } : -2,
} as unknown as Sys;

const backing = (filename: string, format?: string) =>
  impliedOptions(sys, { kind: "backing", filename, format }, "images/");
const data = (filename: string) =>
  impliedOptions(sys, { kind: "data-file", filename }, "images/").options;
const file = (filename: string) => ({ driver: "file", filename });

Deno.test("a backing file lies beside its image unless its name says where", () => {
  const qcow2 = (name: string) => backing(name, "qcow2").options;
  assert.deepEqual(qcow2("b.img"), { driver: "qcow2", file: file("images/b.img") });
  assert.deepEqual(qcow2("../b.img"), { driver: "qcow2", file: file("images/../b.img") });
  assert.deepEqual(qcow2("/b.img"), { driver: "qcow2", file: file("/b.img") });
  assert.deepEqual(qcow2("file:b.img"), { driver: "qcow2", file: file("b.img") });
  assert.deepEqual(qcow2("/dev/sda").file, { driver: "host_device", filename: "/dev/sda" });
  assert.throws(() => impliedName({ kind: "backing", filename: "b.img" }, undefined), {
    message: "Cannot generate a base directory with the extra options given",
  });
});

Deno.test("a format is probed for a backing file without one, and for nothing else", () => {
  assert.equal(backing("b.img").probe, true);
  assert.equal(backing("b.img", "").probe, true);
  assert.equal(backing("b.img", "raw").probe, false);
  assert.equal(backing('json:{"driver":"null-co"}').probe, false);
  assert.equal(data("d.img").driver, "file");
});

Deno.test("a backing file is opened read-only, whatever its name asks for", () => {
  const asked = { driver: "raw", "read-only": false, file: { ...file("b"), "read-only": false } };
  for (
    const name of [JSON.stringify(asked), JSON.stringify({ ...asked, "auto-read-only": true })]
  ) {
    const { options } = backing(`json:${name}`);
    assert.deepEqual(options, { driver: "raw", file: file("b") });
  }
});

Deno.test("the name of a backing file gets hold of no node of the daemon and names none", () => {
  const refused = (options: unknown, message: RegExp) =>
    assert.throws(() => backing(`json:${JSON.stringify(options)}`), message);
  refused({ driver: "raw", file: "secret" }, /cannot refer to node 'secret'/);
  refused({ driver: "qcow2", file: file("a"), backing: "secret" }, /cannot refer to node/);
  refused({ driver: "raw", file: { driver: "raw", file: "secret" } }, /cannot refer to node/);
  refused({ driver: "qcow2", file: file("a"), "data-file": "secret" }, /cannot refer to node/);
  refused({ "driver": "raw", "file.driver": "raw", "file.file": "secret" }, /cannot refer/);
  refused({ driver: "null-co", "node-name": "mine" }, /cannot give a node a name/);
});

Deno.test("a data file is a plain file, whatever its name looks like (CVE-2024-4467)", () => {
  for (const name of ['json:{"driver":"file","filename":"x"}', "nbd://host/x", "null-co://"]) {
    assert.deepEqual(data(name), file(name));
  }
  assert.deepEqual(data("/dev/sda"), file("/dev/sda"));
});

Deno.test("names that are no options are refused in words", () => {
  const refused = (name: string, message: string | RegExp, format?: string) =>
    assert.throws(() => backing(name, format), typeof message === "string" ? { message } : message);
  refused("json:[]", "Invalid JSON object given");
  refused("json:{broken", "Could not parse the JSON options: JSON parse error");
  refused('json:{"driver":"foo"}', "Unknown driver 'foo'");
  refused('json:{"file":1,"file.driver":"file"}', "Parameters are used inconsistently");
  refused("foo:bar", "Unknown protocol 'foo'", "raw");
  refused("b.img", "Unknown driver 'foo'", "foo");
  refused("null-co://x", "The only allowed filename for this driver is 'null-co://'", "raw");
  refused("json:{}", /driver/);
  refused('json:{"__proto__":{"driver":"null-co"}}', /driver/);
});

Deno.test("names are taken apart as in QEMU", () => {
  assert.equal(protocolOf("nbd:x"), "nbd");
  assert.equal(protocolOf("./a:b"), undefined);
  assert.equal(protocolOf("a/b:c"), undefined);
  assert.equal(directoryOf("a/b/c"), "a/b/");
  assert.equal(directoryOf("c"), "");
  assert.equal(directoryOf("/c"), "/");
  assert.equal(resolveName("a/", "/b"), "/b");
  assert.deepEqual(nested({ "a.b": 1, "a.c.d": 2 }), {
    __proto__: null,
    a: { __proto__: null, b: 1, c: { __proto__: null, d: 2 } },
  });
});

Deno.test("formats are told by their first bytes, also those that cannot be opened", () => {
  const probe = (text: string, name = "x") =>
    probeFormat(Uint8Array.from([...text], (character) => character.charCodeAt(0)), name);
  assert.equal(probe(""), "raw");
  assert.equal(probe("QFI\xfb\0\0\0\x03"), "qcow2");
  assert.equal(probe("QFI\xfb\0\0\0\x02"), "qcow2");
  assert.equal(probe("QFI\xfb\0\0\0\x01"), "qcow");
  assert.equal(probe("QFI\xfb"), "raw");
  assert.equal(probe("KDMV"), "vmdk");
  assert.equal(probe("\n# Disk DescriptorFile\nversion=1\n"), "vmdk");
  assert.equal(probe("LUKS\xba\xbe\0\x01"), "luks");
  assert.equal(probe("vhdxfile"), "vhdx");
  assert.equal(probe("\0".repeat(64) + "\x7f\x10\xda\xbe"), "vdi");
  assert.equal(probe("anything", "x.dmg"), "dmg");
});
