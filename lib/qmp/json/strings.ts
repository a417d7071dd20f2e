/** The text of a JSON string token: escapes and (modified) UTF-8, with QEMU's error texts. */

/** What is wrong with a string, or its text. */
export type StringResult = { text: string } | { error: string };

const simpleEscapes: Readonly<Record<number, string>> = {
  0x22: '"',
  0x27: "'",
  0x5c: "\\",
  0x2f: "/",
  0x62: "\b",
  0x66: "\f",
  0x6e: "\n",
  0x72: "\r",
  0x74: "\t",
};

const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Decodes for people: NUL ends the text, whatever is not UTF-8 becomes U+FFFD. */
export function textForMessage(bytes: Uint8Array): string {
  const nul = bytes.indexOf(0);
  return utf8.decode(nul < 0 ? bytes : bytes.subarray(0, nul));
}

/** Whether QEMU takes this code point in a string: no surrogates, no non-characters, nothing above U+10FFFF. */
function isCharacter(code: number): boolean {
  if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return false;
  return !(code >= 0xfdd0 && code <= 0xfdef) && (code & 0xfffe) !== 0xfffe;
}

/** `token` is the string with its quotes. */
export function decodeString(token: Uint8Array): StringResult {
  const body = token.subarray(1, token.length - 1);
  let plain = true;
  for (let i = 0; i < body.length && plain; i++) plain = body[i]! < 0x80 && body[i] !== 0x5c;
  if (plain) return { text: utf8.decode(body) };
  const parts: string[] = [];
  let at = 0;
  while (at < body.length) {
    const byte = body[at]!;
    if (byte === 0x5c) {
      const escape = decodeEscape(body, at);
      if ("error" in escape) return escape;
      parts.push(escape.text);
      at += escape.length;
    } else if (byte < 0x80) {
      const start = at;
      while (at < body.length && body[at]! < 0x80 && body[at] !== 0x5c) at++;
      parts.push(utf8.decode(body.subarray(start, at)));
    } else {
      const { code, length } = decodeUtf8(body, at);
      if (code < 0) return { error: "invalid UTF-8 sequence in string" };
      parts.push(String.fromCodePoint(code));
      at += length;
    }
  }
  return { text: parts.join("") };
}

function decodeEscape(body: Uint8Array, at: number): { text: string; length: number } | {
  error: string;
} {
  const letter = body[at + 1]!;
  const simple = simpleEscapes[letter];
  if (simple !== undefined) return { text: simple, length: 2 };
  if (letter !== 0x75) return { error: "invalid escape sequence in string" };
  const first = hex4(body, at + 2);
  let code = first;
  let length = 6;
  if (first >= 0xd800 && first <= 0xdbff && body[at + 6] === 0x5c && body[at + 7] === 0x75) {
    const second = hex4(body, at + 8);
    if (second >= 0xdc00 && second <= 0xdfff) {
      code = 0x10000 + ((first & 0x3ff) << 10) + (second & 0x3ff);
      length = 12;
    }
  }
  if (code < 0 || !isCharacter(code)) {
    // QEMU shows up to four characters after the `u`, the closing quote included.
    const shown = new Uint8Array(6).fill(0x22);
    const rest = body.subarray(at, at + 6);
    shown.set(rest);
    const text = textForMessage(shown.subarray(0, Math.min(6, rest.length + 1)));
    return { error: `${text} is not a valid Unicode character` };
  }
  return { text: String.fromCodePoint(code), length };
}

/** Four hex digits at `at`, or -1. */
function hex4(bytes: Uint8Array, at: number): number {
  let value = 0;
  for (let i = at; i < at + 4; i++) {
    const byte = bytes[i];
    if (byte === undefined) return -1;
    const digit = parseInt(String.fromCharCode(byte), 16);
    if (Number.isNaN(digit)) return -1;
    value = value * 16 + digit;
  }
  return value;
}

/** One multi-byte sequence; `code` is -1 if it is not valid. C0 80 is NUL, as in modified UTF-8. */
function decodeUtf8(bytes: Uint8Array, at: number): { code: number; length: number } {
  const bad = { code: -1, length: 1 };
  const lead = bytes[at]!;
  const length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc0 || lead >= 0xf8) return bad;
  let code = lead & (0xff >> (length + 1));
  for (let i = 1; i < length; i++) {
    const byte = bytes[at + i];
    if (byte === undefined || (byte & 0xc0) !== 0x80) return bad;
    code = (code << 6) | (byte & 0x3f);
  }
  if (length === 2 && lead === 0xc0 && code === 0) return { code, length };
  const least = length === 2 ? 0x80 : length === 3 ? 0x800 : 0x10000;
  return code >= least && isCharacter(code) ? { code, length } : bad;
}
