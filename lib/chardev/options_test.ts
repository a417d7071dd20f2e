import assert from "node:assert/strict";
import { writeJson } from "../qmp/json/mod.ts";
import { chardevHelp, describeChardev } from "./options.ts";

const MAX = "9007199254740991";
const between = (key: string, max: string) =>
  `Parameter '${key}' expects a value between 0 and ${max}`;
const socket = { backend: "socket", path: "s" };
const ringbuf = { backend: "ringbuf" };
const inet = { backend: "socket", host: "h", port: "1" };

/** Options, the one in question, and what is wrong with it; nothing where it is kept exactly. */
const numbers: readonly [Record<string, string>, string, string, string?][] = [
  [socket, "reconnect", MAX],
  [socket, "reconnect", "9007199254740993"],
  [socket, "reconnect", "9223372036854775807"],
  [
    socket,
    "reconnect",
    "18446744073709551616",
    "Value '18446744073709551616' is too large for parameter 'reconnect'",
  ],
  [socket, "reconnect", "-1", "Parameter 'reconnect' expects a number"],
  [ringbuf, "size", MAX],
  [ringbuf, "size", "9007199254740993"],
  [ringbuf, "size", "16E", "Value '16E' is out of range for parameter 'size'"],
  [ringbuf, "size", "x", "Parameter 'size' expects a non-negative number below 2^64"],
  [inet, "to", "65535"],
  [inet, "to", "65536", between("to", "65535")],
];
for (const [rest, key, value, problem] of numbers) {
  Deno.test(`--chardev ${key}=${value} is ${problem === undefined ? "kept" : "refused"}`, () => {
    const options = Object.entries({ ...rest, [key]: value }).map(([key, value]) => ({
      key,
      value,
    }));
    const describe = () => describeChardev({ id: "c", options }, () => {});
    if (problem === undefined) assert.ok(writeJson(describe()).includes(`"${key}": ${value}`));
    else assert.throws(describe, { name: "CommandError", message: problem });
  });
}

Deno.test("help lists the back ends; after one of them the keys that have an effect", () => {
  assert.match(chardevHelp("?"), /^Available chardev backend types: \n {2}serial\n/);
  const keys = chardevHelp("socket");
  assert.match(keys, /^chardev options:\n {2}abstract=<bool \(on\/off\)>\n/);
  assert.match(keys, /\n {2}path=<str>\n[^]*\n {2}size=<size>\n[^]*\n {2}to=<num>\n/);
  assert.doesNotMatch(keys, /websocket|cols/);
});
