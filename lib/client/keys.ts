/** What a terminal in raw mode sends, as keys. Pure. */

/** A key: a printable text, or a name such as `left`, `ctrl-a`, `alt-b`. */
export type Key = { readonly text: string } | { readonly name: string };

const sequences: Readonly<Record<string, string>> = {
  "[A": "up",
  "[B": "down",
  "[C": "right",
  "[D": "left",
  "[H": "home",
  "[F": "end",
  "OA": "up",
  "OB": "down",
  "OC": "right",
  "OD": "left",
  "OH": "home",
  "OF": "end",
  "[1~": "home",
  "[3~": "delete",
  "[4~": "end",
  "[7~": "home",
  "[8~": "end",
  "[1;5C": "alt-f",
  "[1;5D": "alt-b",
  "[1;3C": "alt-f",
  "[1;3D": "alt-b",
};

const control: Readonly<Record<number, string>> = {
  9: "tab",
  10: "enter",
  13: "enter",
  127: "backspace",
};

/** Longest escape sequence that is waited for. */
const MAX_SEQUENCE = 16;

/** Turns bytes, cut anywhere, into keys. */
export class KeyReader {
  readonly #decoder = new TextDecoder();
  #escape: string | undefined;

  constructor(private readonly sink: (key: Key) => void) {}

  feed(bytes: Uint8Array): void {
    let text = "";
    const flush = () => {
      if (text !== "") this.sink({ text });
      text = "";
    };
    for (const char of this.#decoder.decode(bytes, { stream: true })) {
      const code = char.codePointAt(0)!;
      if (this.#escape !== undefined) this.#inEscape(char);
      else if (code >= 32 && code !== 127 && !(code >= 0x80 && code < 0xa0)) text += char;
      else {
        flush();
        if (code === 27) this.#escape = "";
        else this.sink({ name: control[code] ?? `ctrl-${String.fromCharCode(code + 96)}` });
      }
    }
    flush();
  }

  #inEscape(char: string): void {
    const sequence = this.#escape! + char;
    if (sequence.length === 1 && char !== "[" && char !== "O") {
      this.#escape = char === "\x1b" ? "" : undefined;
      const name = char === "\x7f" ? "alt-backspace" : `alt-${char}`;
      if (char !== "\x1b") this.sink({ name });
      return;
    }
    const complete = sequence.length > 1 && /[@-~]/.test(char);
    this.#escape = complete || sequence.length > MAX_SEQUENCE ? undefined : sequence;
    const name = sequences[sequence];
    if (complete && name !== undefined) this.sink({ name });
  }
}
