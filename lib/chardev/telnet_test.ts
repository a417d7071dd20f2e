import assert from "node:assert/strict";
import { escapeTelnet, TelnetFilter } from "./telnet.ts";

const bytes = (text: string) => Uint8Array.from(text, (char) => char.charCodeAt(0));
const text = (data: Uint8Array) => String.fromCharCode(...data);

/** What is sent, and the data in it. */
const streams: readonly (readonly [string, string])[] = [
  ["plain", "plain"],
  ["a\xff\xffb", "a\xffb"],
  ["a\xff\xfd\x01b", "ab"],
  ["a\xff\xf6b", "ab"],
  ["a\xff\xfa\x18\x00xy\xff\xffz\xff\xf0b", "ab"],
  ["\xff\xfb\x00\xff\xfc\x01\xff\xfe\x03", ""],
];

Deno.test("commands are taken out of a telnet stream, wherever it is cut", () => {
  for (const [sent, data] of streams) {
    for (let cut = 0; cut <= sent.length; cut++) {
      const filter = new TelnetFilter();
      const first = text(filter.filter(bytes(sent.slice(0, cut))));
      assert.equal(first + text(filter.filter(bytes(sent.slice(cut)))), data);
    }
  }
});

Deno.test("the byte 255 is doubled on its way out, and survives the way back", () => {
  const all = Uint8Array.from({ length: 512 }, (_, i) => i & 255);
  const sent = escapeTelnet(all);
  assert.equal(sent.length, 514);
  assert.deepEqual(new TelnetFilter().filter(sent), all);
});
