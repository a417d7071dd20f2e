/** Texts as qemu-storage-daemon 7.2.22 gave them for the same input. */
import assert from "node:assert/strict";
import { CommandError } from "../../base/mod.ts";
import { parseValue } from "../../cli/mod.ts";
import { parseJson } from "../json/mod.ts";
import { BlockdevOptions, BlockdevRef } from "./blockdev.ts";
import {
  array,
  exactInt,
  exactSize,
  exactUint64,
  int,
  type Schema,
  size,
  struct,
  uint16,
  uint32,
  uint64,
} from "./core.ts";
import { MonitorOptions } from "./monitor.ts";
import { visitJson } from "./visit_json.ts";
import { parseSize, visitKeyval } from "./visit_keyval.ts";

const refusedJson: readonly (readonly [string, string])[] = [
  ['{"driver":"null-co","size":1e1}', "Invalid parameter type for 'size', expected: integer"],
  ['{"driver":"null-co","size":10.0}', "Invalid parameter type for 'size', expected: integer"],
  ['{"driver":"null-co","size":"1"}', "Invalid parameter type for 'size', expected: integer"],
  [
    '{"driver":"null-co","size":9223372036854775808}',
    "Invalid parameter type for 'size', expected: integer",
  ],
  ['{"driver":"null-co","latency-ns":1.5}', "Parameter 'latency-ns' expects uint64"],
  ['{"driver":"null-co","latency-ns":"x"}', "Parameter 'latency-ns' expects uint64"],
  ['{"driver":"null-co","latency-ns":1e3}', "Parameter 'latency-ns' expects uint64"],
  ['{"node-name":"a"}', "Parameter 'driver' is missing"],
  ['{"driver":1}', "Invalid parameter type for 'driver', expected: string"],
  ['{"driver":null}', "Invalid parameter type for 'driver', expected: string"],
  ['{"driver":"xx"}', "Parameter 'driver' does not accept value 'xx'"],
  ['{"driver":"raw"}', "Parameter 'file' is missing"],
  ['{"driver":"raw","file":1}', "Invalid parameter type for 'file', expected: BlockdevRef"],
  ['{"driver":"raw","file":[]}', "Invalid parameter type for 'file', expected: BlockdevRef"],
  ['{"driver":"raw","file":{"driver":"file"}}', "Parameter 'file.filename' is missing"],
  [
    '{"driver":"raw","file":{"driver":"file","filename":5}}',
    "Invalid parameter type for 'file.filename', expected: string",
  ],
  [
    '{"driver":"raw","file":{"driver":"raw","file":{"driver":"file","filename":"x","zz":1}}}',
    "Parameter 'file.file.zz' is unexpected",
  ],
  ['{"driver":"null-co","cache":5}', "Invalid parameter type for 'cache', expected: object"],
  [
    '{"driver":"null-co","cache":{"direct":1}}',
    "Invalid parameter type for 'cache.direct', expected: boolean",
  ],
  ['{"driver":"null-co","cache":{"x":1}}', "Parameter 'cache.x' is unexpected"],
  ['{"driver":"null-co","discard":"x"}', "Parameter 'discard' does not accept value 'x'"],
  ['{"driver":"null-co","discard":1}', "Invalid parameter type for 'discard', expected: string"],
  ['{"driver":"raw","offset":"x","zz":1}', "Parameter 'file' is missing"],
  ['{"driver":"null-co","__proto__":1}', "Parameter '__proto__' is unexpected"],
  ["{", "JSON parse error, premature EOI"],
  ['{"driver":}', "JSON parse error, expecting value"],
  ["{} x", "Expecting at most one JSON value"],
  ['{"driver":"file","filename":"a', `JSON parse error, stray '"a'`],
];

const refusedKeyval: readonly (readonly [string, string])[] = [
  ["driver", "Parameter 'driver' does not accept value 'driver'"],
  ["", "Parameter 'driver' is missing"],
  [",", "Invalid parameter ''"],
  ["null-co,,a=1", "Invalid parameter ''"],
  ["=x", "Invalid parameter ''"],
  ["driver=null-co,=x", "Invalid parameter ''"],
  ["driver=null-co,a", "Expected '=' after parameter 'a'"],
  ["driver=null-co,0=x", "Invalid parameter '0'"],
  ["driver=null-co,a..b=x", "Invalid parameter 'a..b'"],
  ["driver=null-co,.b=x", "Invalid parameter '.b'"],
  ["driver=null-co,size=1M", "Parameter 'size' expects integer"],
  ["driver=null-co,size=", "Parameter 'size' expects integer"],
  ["driver=null-co,read-only=maybe", "Parameter 'read-only' expects 'on' or 'off'"],
  ["driver=null-co,cache=5", "Invalid parameter type for 'cache', expected: object"],
  ["driver=null-co,cache.direct=5", "Parameter 'cache.direct' expects 'on' or 'off'"],
  ["driver=null-co,cache.x=5", "Parameter 'cache.x' is unexpected"],
  ["driver=null-co,size.x=5", "Parameters 'size.*' are unexpected"],
  ["driver=null-co,size.0=5,size.1=6", "Parameters 'size.*' are unexpected"],
  ["driver=null-co,size.1=6", "Parameter 'size.0' missing"],
  ["driver=null-co,a.0=5,a.x=6", "Parameters 'a.*' used inconsistently"],
  ["driver=null-co,a=5,a.x=6", "Parameters 'a.*' used inconsistently"],
  ["driver=null-co,a.x=5,a=6", "Parameters 'a.*' used inconsistently"],
  ["driver=null-co,latency-ns=x", "Parameter 'latency-ns' expects integer"],
  ["help", "Help is not available for this option"],
  ["?", "Help is not available for this option"],
  ["driver=null-co,help", "Help is not available for this option"],
  ["driver=help", "Parameter 'driver' does not accept value 'help'"],
  ["raw,file.filename=x", "Parameter 'file.driver' is missing"],
  ["raw,file.0=x", "Invalid parameter type for 'file', expected: BlockdevRef"],
  ["driver=raw,file.driver.x=file", "Parameters 'file.driver.*' are unexpected"],
  ["driver=null-co,Ä=1", "Invalid parameter 'Ä'"],
  ["driver=null-co,a b=1", "Invalid parameter 'a b'"],
  ["driver=null-co,__a_b=1", "Parameter '__a_b' is unexpected"],
  ["driver=null-co,__a.b_c=1", "Parameter '__a.b_c' is unexpected"],
  ["driver=null-co,discard.x=1", "Parameters 'discard.*' are unexpected"],
  [`null-co,${"a".repeat(130)}=1`, `Parameter '${"a".repeat(130)}' is too long`],
  [`null-co,x.${"a".repeat(130)}=1`, `Parameter fragment '${"a".repeat(130)}' is too long`],
];

for (const [text, message] of [...refusedJson, ...refusedKeyval]) {
  Deno.test(`--blockdev ${text.slice(0, 60)}: ${message.slice(0, 60)}`, () => {
    assert.throws(() => parseValue(text, "driver", BlockdevOptions), {
      name: "CommandError",
      message,
    });
  });
}

Deno.test("integers of every width: refused by name, or beyond what a number holds", () => {
  const wide = struct("wide", { max: uint32 });
  const all = struct("all", { list: array(uint16), one: uint16 });
  const bad = (schema: typeof wide | typeof all, text: string) => {
    try {
      visitJson(schema, parseJson(text));
      return "accepted";
    } catch (error) {
      return (error as Error).message;
    }
  };
  assert.equal(bad(wide, '{"max":4294967296}'), "Parameter 'max' expects uint32_t");
  assert.equal(bad(wide, '{"max":-1}'), "Parameter 'max' expects uint32_t");
  assert.equal(bad(wide, '{"max":1e3}'), "Parameter 'max' expects uint64");
  assert.equal(bad(all, '{"list":[65536],"one":0}'), "Parameter 'null' expects uint16_t");
  assert.equal(bad(all, '{"list":["x"],"one":0}'), "Parameter 'list[0]' expects uint64");
  assert.equal(bad(all, '{"list":[],"one":-1}'), "Parameter 'one' expects uint16_t");
  assert.throws(() => visitJson(struct("n", { n: int }), parseJson('{"n":9007199254740993}')), {
    message: "Parameter 'n' expects a value between -9007199254740991 and 9007199254740991",
  });
  assert.throws(() => visitJson(struct("n", { n: uint64 }), parseJson('{"n":-1}')), {
    message: "Parameter 'n' expects a value between 0 and 9007199254740991",
  });
});

const between = (name: string, min: number) =>
  `Parameter '${name}' expects a value between ${min} and 9007199254740991`;
const signed = between("n", -9007199254740991);
const unsigned = between("n", 0);
/** Type, text, and what JSON and keyval say to it: exactly this value, or these words. */
type Outcome = number | bigint | string;
const limits: readonly (readonly [Schema<number | bigint>, string, Outcome, Outcome])[] = [
  [int, "9007199254740991", 9007199254740991, 9007199254740991],
  [int, "-9007199254740991", -9007199254740991, -9007199254740991],
  [int, "9007199254740992", signed, signed],
  [int, "9007199254740993", signed, signed],
  [int, "-9007199254740992", signed, signed],
  [int, "9223372036854775807", signed, signed],
  [int, "-9223372036854775808", signed, signed],
  [
    int,
    "9223372036854775808",
    "Invalid parameter type for 'n', expected: integer",
    "Parameter 'n' expects integer",
  ],
  ...[uint64, size].flatMap((type): (typeof limits[number])[] => [
    [type, "9007199254740991", 9007199254740991, 9007199254740991],
    [type, "9007199254740992", unsigned, unsigned],
    [type, "18446744073709551615", unsigned, unsigned],
  ]),
  [
    uint64,
    "18446744073709551616",
    "Parameter 'n' expects uint64",
    "Parameter 'n' expects integer",
  ],
  [size, "18446744073709551616", "Parameter 'n' expects uint64", "Parameter 'n' expects size"],
  [uint64, "-1", unsigned, unsigned],
  [size, "-1", unsigned, "Parameter 'n' expects size"],
  [size, "-0", 0, "Parameter 'n' expects size"],
  [exactInt, "9007199254740993", 9007199254740993n, 9007199254740993n],
  [exactInt, "-9223372036854775808", -(2n ** 63n), -(2n ** 63n)],
  [exactInt, "9223372036854775807", 2n ** 63n - 1n, 2n ** 63n - 1n],
  [
    exactInt,
    "9223372036854775808",
    "Invalid parameter type for 'n', expected: integer",
    "Parameter 'n' expects integer",
  ],
  [exactUint64, "9007199254740991", 9007199254740991, 9007199254740991],
  [exactUint64, "18446744073709551615", 2n ** 64n - 1n, 2n ** 64n - 1n],
  [exactUint64, "-1", 2n ** 64n - 1n, 2n ** 64n - 1n],
  [exactUint64, "-9223372036854775808", 2n ** 63n, 2n ** 63n],
  [exactSize, "18446744073709551615", 2n ** 64n - 1n, 2n ** 64n - 1n],
];
for (const [type, text, json, keyval] of limits) {
  Deno.test(`${type.meta.kind === "int" && type.meta.name} ${text}: exact, or refused by name and limit`, () => {
    const schema = struct("limit", { n: type });
    const outcome = (visitIt: () => { n: number | bigint }) => {
      try {
        return visitIt().n;
      } catch (error) {
        assert.ok(error instanceof CommandError);
        return error.message;
      }
    };
    assert.equal(outcome(() => visitJson(schema, parseJson(`{"n":${text}}`))), json);
    assert.equal(outcome(() => visitKeyval(schema, { n: text })), keyval);
  });
}

Deno.test("an alternate in a list is called null; other paths are whole", () => {
  const lists = struct("lists", { children: array(BlockdevRef) });
  const message = (text: string) => {
    try {
      visitJson(lists, parseJson(text));
      return "accepted";
    } catch (error) {
      return (error as Error).message;
    }
  };
  assert.equal(
    message('{"children":[1]}'),
    "Invalid parameter type for 'null', expected: BlockdevRef",
  );
  assert.equal(
    message('{"children":[{"driver":"xx"}]}'),
    "Parameter 'driver' does not accept value 'xx'",
  );
  assert.equal(
    message('{"children":[{"driver":"raw"}]}'),
    "Parameter 'children[0].file' is missing",
  );
  assert.throws(() => visitKeyval(lists, { children: [{ driver: "raw" }] }), {
    message: "Parameter 'children.0.file' is missing",
  });
});

Deno.test("keyval values: doubled commas, equal signs, last one wins, dotted keys, base prefixes", () => {
  const value = parseValue(
    "raw,file.driver=file,file.filename=a,,b=c,size=1,size=0x10,offset=010,",
    "driver",
    BlockdevOptions,
  );
  assert.deepEqual(value, {
    driver: "raw",
    file: { driver: "file", filename: "a,b=c" },
    size: 16,
    offset: 8,
  });
  assert.deepEqual(parseValue("c,pretty=y", "chardev", MonitorOptions), {
    chardev: "c",
    pretty: true,
  });
  assert.deepEqual(parseValue("{'chardev':'c'}", "chardev", MonitorOptions), { chardev: "c" });
});

Deno.test("sizes take suffixes and fractions", () => {
  const cases: readonly [string, bigint | undefined][] = [
    ["1", 1n],
    ["1k", 1024n],
    ["1.5M", 1572864n],
    ["2G", 2147483648n],
    ["1b", 1n],
    ["0x10", 16n],
    ["1.5", undefined],
    ["x", undefined],
    ["-1", undefined],
    ["", undefined],
    ["1kk", undefined],
  ];
  for (const [text, want] of cases) assert.equal(parseSize(text), want, text);
  assert.deepEqual(visitKeyval(struct("s", { s: size }), { s: "1M" }), { s: 1 << 20 });
});
