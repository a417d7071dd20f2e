/**
 * Replies to good and bad input, byte for byte as qemu-storage-daemon 7.2.22 gave them when it was asked
 * (testdata/replies-7.2.json: input as latin1, then the lines that came back after the negotiation's; the
 * version is masked, and each input is followed by a 0xFF byte and a `quit`).
 */
import assert from "node:assert/strict";
import recorded from "./testdata/replies-7.2.json" with { type: "json" };
import { FakeTime, settle, testServer } from "./testing.ts";
import { parseJson, writeJson } from "./json/mod.ts";

/** Inputs whose recorded replies are not JSON, or that we answer better on purpose. */
const different = new Set([
  '{"execute":"query-version","id":1e400}', // the original echoes `inf`
  '{"foo":1,"execute":2}', // two mistakes: which one is told is hash order there
]);

const latin1 = (text: string) => Uint8Array.from(text, (char) => char.charCodeAt(0));
const version = writeJson({ qemu: { major: 7, minor: 2, micro: 22 }, package: "qsd 0.0.0" });

/** Order of members is the original's hash order: compared without it. */
function canonical(line: string): string {
  const sort = (value: unknown): unknown =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(
        Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1).map(([k, v]) => [k, sort(v)]),
      )
      : value;
  return writeJson(sort(parseJson(line)));
}

/** The replies to `input`, cut into pieces of `size` bytes. */
async function repliesTo(input: string, size: number): Promise<string[]> {
  const { connect } = testServer(new FakeTime());
  const channel = connect();
  channel.type('{"execute":"qmp_capabilities"}\n');
  await settle();
  channel.lines();
  const bytes = latin1(`${input}\xff\n{"execute":"quit"}`);
  for (let at = 0; at < bytes.length; at += size) {
    channel.type(bytes.subarray(at, at + size));
    await settle();
  }
  return channel.lines();
}

for (const [input, expected] of recorded as [string, string[]][]) {
  if (different.has(input)) continue;
  Deno.test(`answers as the original: ${JSON.stringify(input).slice(0, 80)}`, async () => {
    for (const size of [1 << 20, 1]) {
      const lines = (await repliesTo(input, size)).map((line) =>
        line.replace(version, '"VERSION"')
      );
      assert.deepEqual(lines.map(canonical), expected.map(canonical), `pieces of ${size}`);
    }
  });
}
