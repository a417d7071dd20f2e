import assert from "node:assert/strict";
import { parseJson, writeJson } from "../qmp/json/mod.ts";
import { allCommands, allEvents } from "../qmp/schema/mod.ts";
import { introspect } from "../qmp/schema/introspect.ts";
import { parseArguments } from "./arguments.ts";
import { commonPrefix, complete } from "./complete.ts";
import { Editor } from "./editor.ts";
import { type Key, KeyReader } from "./keys.ts";
import { Prompt } from "./prompt.ts";
import { ServerSchema } from "./server_schema.ts";
import { clip, harmless, humanSize, humanTime, inColumns, readableJson } from "./text.ts";
import { splitLine } from "./words.ts";

const commands = Object.entries(allCommands).map(([name, definition]) => ({ name, definition }));
const schema = new ServerSchema(
  parseJson(writeJson(introspect(commands, allEvents))),
);

const words = (line: string) => splitLine(line).words.map((word) => word.text);
const parsed = (command: string, line: string) =>
  writeJson(parseArguments(schema, command, words(line)));

Deno.test("a line is split as a shell would, and JSON is one word", () => {
  assert.deepEqual(words(`a "b c" d\\ e 'f"g' x={"k": "v w"} [1, 2]`), [
    "a",
    "b c",
    "d e",
    'f"g',
    'x={"k": "v w"}',
    "[1, 2]",
  ]);
  assert.match(splitLine('a "b').problem!, /not closed/);
  assert.match(splitLine("{'a': [1").problem!, /not closed/);
});

Deno.test("arguments are typed by the daemon's schema, through unions and dotted members", () => {
  assert.equal(
    parsed("blockdev-add", "driver=raw node-name=n size=10M read-only=on file=f cache.direct=on"),
    '{"driver": "raw", "node-name": "n", "size": 10485760, "read-only": true, "file": "f", "cache": {"direct": true}}',
  );
  assert.equal(
    parsed("blockdev-add", "driver=raw file.driver=file file.filename=123"),
    '{"driver": "raw", "file": {"driver": "file", "filename": "123"}}',
  );
  assert.equal(parsed("qmp_capabilities", "enable=oob"), '{"enable": ["oob"]}');
  assert.equal(parsed("qmp_capabilities", "enable.0=oob"), '{"enable": ["oob"]}');
  assert.equal(
    parsed("block_resize", `{"node-name":"n"} size=18446744073709551615`),
    '{"node-name": "n", "size": 18446744073709551615}',
  );
  assert.equal(parseArguments(schema, "query-version", []), undefined);
});

Deno.test("arguments that cannot be meant are refused with what there is", () => {
  const refused = (command: string, line: string, text: RegExp) =>
    assert.throws(() => parsed(command, line), { name: "CommandError", message: text });
  refused("block_resize", "nodename=x", /no member 'nodename'; there are: device, node-name, size/);
  refused("block_resize", "size=big", /'size' expects an integer/);
  refused("block_resize", "big", /neither member=value nor JSON/);
  refused("block_resize", "size=1 size=2", /given twice/);
  refused("blockdev-add", "driver=nothing", /'driver' expects one of/);
  refused("blockdev-add", "cache=on", /expects members/);
  refused("blockdev-add", "driver=raw read-only=perhaps", /on or off/);
  refused("qmp_capabilities", "enable.1=oob", /'enable.0' is missing/);
  refused("no-such-command", "a=b", /has not been found/);
});

const offers = (line: string) => complete(schema, line, line.length).candidates;

Deno.test("Tab offers commands, members of the chosen variant that are not given yet, and values", () => {
  assert.deepEqual(offers("block_re"), ["block_resize "]);
  assert.deepEqual(offers(".q"), [".quit "]);
  assert.ok(offers("").length >= commands.length);
  assert.deepEqual(offers("block_resize size=1 "), ["device=", "node-name="]);
  assert.ok(!offers("blockdev-add ").includes("filename="));
  assert.ok(offers("blockdev-add driver=file ").includes("filename="));
  assert.deepEqual(offers("blockdev-add cache.d"), ["cache.direct="]);
  assert.deepEqual(offers("blockdev-add driver=raw file.driver=file file.filen"), [
    "file.filename=",
  ]);
  assert.deepEqual(offers("blockdev-add read-only=o"), ["read-only=on ", "read-only=off "]);
  assert.deepEqual(offers("no-such-command "), []);
  assert.equal(commonPrefix(["node-name=", "node="]), "node");
});

function typing(history: string[], bytes: string): Editor {
  const editor = new Editor(history);
  const reader = new KeyReader((key) => void editor.key(key));
  // One at a time: sequences and characters are cut anywhere.
  for (const byte of new TextEncoder().encode(bytes)) reader.feed(Uint8Array.of(byte));
  return editor;
}

Deno.test("the usual keys edit the line, and characters are never cut", () => {
  assert.equal(typing([], "hello\x1b[D\x1b[D\x7fX").text, "heXlo");
  assert.equal(typing([], "aä😀b\x1b[D\x7f").text, "aäb");
  assert.equal(typing([], "one two three\x17\x17").text, "one ");
  assert.equal(typing([], "one two\x01\x0b\x19\x19").text, "one twoone two");
  assert.equal(typing([], "one two\x1bb\x1bd").text, "one ");
  assert.equal(typing([], "abc\x01\x04").text, "bc");
  assert.equal(typing([], "abc\x1b[1~\x1b[3~").text, "bc");
});

Deno.test("the history is walked and searched, and the line being typed comes back", () => {
  const lines = ["first", "second", "third"];
  assert.equal(typing(lines, "new\x1b[A\x1b[A").text, "second");
  assert.equal(typing(lines, "new\x1b[A\x1b[A\x1b[B\x1b[B").text, "new");
  assert.equal(typing(lines, "\x12ir").text, "third");
  assert.equal(typing(lines, "\x12ir\x12").text, "first");
  assert.equal(typing(lines, "\x12ir\x07").text, "");
});

Deno.test("keys that mean something to the shell are told", () => {
  const editor = new Editor([]);
  const event = (key: Key) => editor.key(key)?.kind;
  assert.equal(event({ name: "ctrl-d" }), "end");
  editor.insert("x");
  assert.equal(event({ name: "ctrl-d" }), undefined);
  assert.equal(event({ name: "tab" }), "complete");
  assert.equal(event({ name: "ctrl-c" }), "interrupt");
  assert.deepEqual(editor.key({ name: "enter" }), { kind: "line", text: "x" });
});

Deno.test("a line of several rows is erased as a whole before it is drawn again", () => {
  let out = "";
  const prompt = new Prompt((text) => out += text, () => 10);
  prompt.draw("> ", "0123456789abc", 13);
  assert.equal(out, "> 0123456789abc\r\x1b[5C");
  out = "";
  prompt.hide();
  assert.equal(out, "\x1b[1A\r\x1b[J");
});

Deno.test("text from the daemon cannot steer the terminal", () => {
  assert.equal(harmless("a\x1b[2Jb\n"), "a\\x1b[2Jb\\x0a");
});

Deno.test("sizes, times and columns are for people", () => {
  assert.deepEqual([0, 1023, 1536, 1 << 30, 1.23e12].map(humanSize), [
    "0 B",
    "1023 B",
    "1.5 KiB",
    "1 GiB",
    "1.12 TiB",
  ]);
  assert.deepEqual([0.02, 3, 245, 12000, 300000].map(humanTime), [
    "20 ms",
    "3.0 s",
    "4 min 05 s",
    "3 h 20 min",
    "3 d 11 h",
  ]);
  assert.equal(clip("abcdef", 4), "abc…");
  assert.deepEqual(inColumns(["a", "bb", "ccc", "d"], 10), ["a    ccc", "bb   d"]);
});

Deno.test("readable JSON is JSON", () => {
  const value = parseJson(
    `{"a": [1, {"b": "${"x".repeat(60)}"}], "long-name": 1e3, "big": 18446744073709551615}`,
  );
  for (const width of [10, 40, 80, 200]) {
    assert.equal(writeJson(parseJson(readableJson(value, width))), writeJson(value));
  }
});
