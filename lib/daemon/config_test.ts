import assert from "node:assert/strict";
import { type Definition, parseConfig } from "./config.ts";
import { planReload } from "./config_reload.ts";

const parse = (text: string) => parseConfig("qsd.yaml", text);

const base = `
- object: {qom-type: secret, id: s, data: x}
- blockdev: {driver: file, node-name: disk, filename: d.raw}
- blockdev: {driver: raw, node-name: part, file: disk, size: 1048576}
- nbd-server: {addr: {type: unix, path: nbd}}
- export: {type: nbd, id: e, node-name: part}
- chardev: {backend: socket, id: m, path: qmp, server: on, wait: false}
- monitor: {chardev: m}
`;

Deno.test("definitions are read in order, validated, each with its line", async () => {
  const found = await parse(base);
  assert.deepEqual(found.map(({ key, where }) => [key, where]), [
    ["object:s", "qsd.yaml:2"],
    ["blockdev:disk", "qsd.yaml:3"],
    ["blockdev:part", "qsd.yaml:4"],
    ["nbd-server", "qsd.yaml:5"],
    ["export:e", "qsd.yaml:6"],
    ["chardev:m", "qsd.yaml:7"],
    ["monitor:m", "qsd.yaml:8"],
  ]);
  assert.equal(found[2]!.value["size"], 1048576);
  assert.deepEqual({ ...found[5]!.value }, {
    backend: "socket",
    id: "m",
    path: "qmp",
    server: "on",
    wait: "off",
  });
});

Deno.test("JSON, indented with tabs, is read too; an empty file defines nothing", async () => {
  const [one] = await parse(
    '[\n\t{"blockdev": {\n\t\t"driver": "null-co",\n\t\t"node-name": "n"}}\n]\n',
  );
  assert.equal(one!.key, "blockdev:n");
  assert.deepEqual(await parse(""), []);
  assert.deepEqual(await parse("# nothing\n"), []);
});

const wrong: readonly (readonly [string, RegExp])[] = [
  ["a: b\n", /^qsd.yaml:1: expected a list of definitions/],
  ["- blockdev: {driver: file\n", /^qsd.yaml:2: /],
  ["\n- disk: {}\n", /^qsd.yaml:2: expected one of object, chardev/],
  ["- {blockdev: {}, export: {}}\n", /^qsd.yaml:1: expected one of/],
  ["- blockdev: 3\n", /^qsd.yaml:1: blockdev: expected members/],
  [
    "- blockdev:\n    driver: raw\n    node-name: n\n    file:\n      driver: file\n      filename: 3\n",
    /^qsd.yaml:6: blockdev: .*'file.filename'/,
  ],
  [
    "- blockdev:\n    driver: raw\n    node-name: n\n    file: d\n    sise: 3\n",
    /^qsd.yaml:5: blockdev: Parameter 'sise' is unexpected/,
  ],
  ["- blockdev: {driver: null-co}\n", /^qsd.yaml:1: blockdev: Parameter 'node-name' is missing/],
  [
    "- blockdev: {driver: null-co, node-name: n}\n- blockdev: {driver: null-co, node-name: n}\n",
    /^qsd.yaml:2: blockdev:n is defined at qsd.yaml:1 already/,
  ],
  ["- blockdev:\n    driver: raw\n    driver: file\n", /^qsd.yaml:3: /],
  [
    "- blockdev: {driver: null-co, node-name: n, size: 99999999999999999999}\n",
    /^qsd.yaml:1: .*large/,
  ],
  [
    "- chardev: {backend: socket, id: c, addr: {a: 1}}\n",
    /^qsd.yaml:1: chardev: Parameter 'addr' expects/,
  ],
  [`- &a [${"*a, ".repeat(3)}*a]\n`, /^qsd.yaml:1: /],
  [`${"[".repeat(80)}${"]".repeat(80)}\n`, /^qsd.yaml:1: more than 64 levels/],
];

for (const [text, message] of wrong) {
  Deno.test(`a mistake is told with its line: ${JSON.stringify(text).slice(0, 60)}`, () =>
    assert.rejects(parse(text), { name: "CommandError", message }));
}

const keys = (list: readonly Definition[]) => list.map((one) => one.key);

async function planned(change: (text: string) => string, inPlace = true) {
  const plan = planReload(await parse(base), await parse(change(base)), inPlace);
  return [plan.reopen.map(([one]) => one.key), keys(plan.remove), keys(plan.add)];
}

Deno.test("a reload touches only what differs, and what stands on it", async () => {
  assert.deepEqual(await planned((text) => `${text}# a comment\n`), [[], [], []]);
  assert.deepEqual(
    await planned((text) => `${text}- export: {type: nbd, id: e2, node-name: disk}\n`),
    [[], [], ["export:e2"]],
  );
  assert.deepEqual(
    await planned((text) => text.replace("size: 1048576", "size: 512")),
    [["blockdev:part"], [], []],
  );
  assert.deepEqual(
    await planned((text) => text.replace("filename: d.raw", "filename: e.raw"), false),
    [
      [],
      ["blockdev:disk", "blockdev:part", "export:e"],
      ["blockdev:disk", "blockdev:part", "export:e"],
    ],
  );
  assert.deepEqual(
    await planned((text) => text.replace("path: nbd", "path: nbd2")),
    [[], ["nbd-server", "export:e"], ["nbd-server", "export:e"]],
  );
  assert.deepEqual(
    await planned((text) => text.replace(/^- export.*\n/m, "")),
    [[], ["export:e"], []],
  );
});
