/**
 * Seeded fuzzing of the JSON reader, keyval and the validator: every result is a value or a CommandError, never
 * an assertion, a TypeError or an overflow. QSD_FUZZ_CASES sets the number of cases, QSD_FUZZ_SEED the seed.
 */
import assert from "node:assert/strict";
import { parseValue } from "../cli/mod.ts";
import { parseQemuOpts } from "../cli/mod.ts";
import { CommandError } from "../base/mod.ts";
import { chance } from "../base/mod.ts";
import { almost } from "./arbitrary.ts";
import { JsonReader, parseJson, writeJson } from "./json/mod.ts";
import { allCommands, allEvents } from "./schema/mod.ts";
import { introspect } from "./schema/introspect.ts";
import { visitJson } from "./schema/visit_json.ts";

function setting(name: string, byDefault: number): number {
  const permission = Deno.permissions.querySync({ name: "env", variable: name });
  return permission.state === "granted" ? Number(Deno.env.get(name) ?? byDefault) : byDefault;
}
const cases = setting("QSD_FUZZ_CASES", 3000);
const firstSeed = setting("QSD_FUZZ_SEED", 1);

function onlyCommandErrors(seed: number, run: () => void): void {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof CommandError, `seed ${seed}: ${String(error)}`);
    assert.notEqual(error.message, "", `seed ${seed}`);
  }
}

const jsonPieces = [
  ..."{}[]:,\"'\\-+.eE0123456789 \n\r\t%aftn_\x00\x1f\x7f",
  "true",
  "null",
  '"a"',
  "'b'",
  '"\\u',
  "d83d",
  "\\ude00",
  "1e3",
  "99999999999999999999",
  '{"execute":"query-version"}',
  "\u00e9",
  "\xff",
  "\xfe",
  "\xc0\x80",
];

Deno.test("any bytes, cut anywhere, give the same values and errors from the JSON reader", () => {
  for (let seed = firstSeed; seed < firstSeed + cases; seed++) {
    const pick = chance(seed);
    let text = "";
    for (let n = pick(40); n >= 0; n--) text += jsonPieces[pick(jsonPieces.length)];
    const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0) & 0xff);
    const outcome = (cuts: () => number) => {
      const out: string[] = [];
      const reader = new JsonReader({
        value: (value) => void out.push(`value ${writeJson(value)}`),
        error: (message) => void out.push(message),
      });
      for (let at = 0; at < bytes.length;) {
        const length = cuts();
        reader.feed(bytes.subarray(at, at + length));
        at += length;
      }
      reader.finish();
      return out;
    };
    const whole = outcome(() => bytes.length);
    assert.deepEqual(outcome(() => 1 + pick(4)), whole, `seed ${seed}`);
    for (const line of whole.filter((each) => each.startsWith("value "))) {
      const written = line.slice(6);
      // Doubles that are integral are written like integers, as QEMU does: -0.0 comes back as 0.
      const again = writeJson(parseJson(written));
      const sameZero = (text: string) => text.replace(/-0(?![0-9.])/g, "0");
      assert.equal(sameZero(again), sameZero(written), `seed ${seed}`);
      JSON.parse(written);
    }
  }
});

const keyvalPieces = [
  ...",=.{}?\0\u00e9 ",
  "driver",
  "file",
  "null-co",
  "raw",
  "help",
  "node-name",
  "cache",
  "direct",
  "0",
  "1",
  "99999999999999999999",
  "on",
  "__proto__",
  "constructor",
  "__a.b_c",
  "id",
  "no",
];

Deno.test("any text gives a value or a CommandError from keyval and from QemuOpts", () => {
  const schemas = Object.values(allCommands).map(({ arguments: args }) => args);
  for (let seed = firstSeed; seed < firstSeed + cases; seed++) {
    const pick = chance(seed);
    let text = "";
    for (let n = pick(24); n >= 0; n--) text += keyvalPieces[pick(keyvalPieces.length)];
    const schema = schemas[pick(schemas.length)]!;
    onlyCommandErrors(seed, () => parseValue(text, pick(2) ? "driver" : undefined, schema));
    onlyCommandErrors(seed, () => void parseQemuOpts(text, "backend"));
  }
});

Deno.test("a key of very many fragments is refused, not overflowed", () => {
  const schema = allCommands["blockdev-add"]!.arguments;
  const deep = `driver=raw,${"file.".repeat(30_000)}x=1`;
  assert.throws(() => parseValue(deep, "driver", schema), CommandError);
});

Deno.test("arguments made from the schema, with mistakes, give a value or a CommandError", () => {
  const schemas = Object.values(allCommands).map(({ arguments: args }) => args);
  let accepted = 0;
  for (let seed = firstSeed; seed < firstSeed + cases; seed++) {
    const pick = chance(seed);
    const schema = schemas[pick(schemas.length)]!;
    const value = almost(schema, pick);
    onlyCommandErrors(seed, () => {
      const typed = visitJson(schema, value);
      accepted++;
      // What is accepted has been copied: it is accepted again, and is the same.
      assert.deepEqual(visitJson(schema, typed), typed);
    });
  }
  assert.ok(accepted > cases / 20, `only ${accepted} of ${cases} were accepted`);
  assert.ok(accepted < cases * 0.95, `${accepted} of ${cases} were accepted`);
});

Deno.test("introspection describes every type that it names, once", () => {
  const list = Object.entries(allCommands).map(([name, definition]) => ({ name, definition }));
  const entries = introspect(list, allEvents);
  const names = entries.map((entry) => entry["name"] as string);
  assert.equal(new Set(names).size, names.length);
  const known = new Set(names);
  const mentioned = JSON.stringify(entries).matchAll(
    /"(?:arg-type|ret-type|element-type|type)":"([^"]+)"/g,
  );
  for (const [, type] of mentioned) assert.ok(known.has(type!), type);
  for (const command of Object.keys(allCommands)) assert.ok(known.has(command));
});
