/** One line being edited, with history: keys in, text and cursor out. Pure; shell.ts draws it. */
import type { Key } from "./keys.ts";

/** What the editor asks its owner to do. */
export type EditorEvent =
  | { readonly kind: "line"; readonly text: string }
  | { readonly kind: "complete" }
  | { readonly kind: "interrupt" }
  | { readonly kind: "end" }
  | { readonly kind: "clear" };

const isWord = (char: string | undefined) => char !== undefined && /[\p{L}\p{N}_-]/u.test(char);

/** Where the character before `at` begins (surrogates stay together). */
function before(text: string, at: number): number {
  if (at === 0) return 0;
  return at > 1 && /[\udc00-\udfff]/.test(text[at - 1]!) ? at - 2 : at - 1;
}

function after(text: string, at: number): number {
  if (at >= text.length) return text.length;
  return /[\ud800-\udbff]/.test(text[at]!) ? Math.min(at + 2, text.length) : at + 1;
}

function wordBefore(text: string, at: number): number {
  while (at > 0 && !isWord(text[at - 1])) at--;
  while (at > 0 && isWord(text[at - 1])) at--;
  return at;
}

function wordAfter(text: string, at: number): number {
  while (at < text.length && !isWord(text[at])) at++;
  while (at < text.length && isWord(text[at])) at++;
  return at;
}

/** The line. */
export class Editor {
  text = "";
  /** In UTF-16 units. */
  cursor = 0;
  /** While Ctrl-R searches: what is searched for. */
  search: string | undefined;
  #killed = "";
  /** Place in the history; its length is the line that is being typed. */
  #at: number;
  #typed = "";

  /** `history`: oldest first; the owner adds lines. */
  constructor(private readonly history: readonly string[]) {
    this.#at = history.length;
  }

  /** Takes a key; says what its owner has to do, if anything. */
  key(key: Key): EditorEvent | undefined {
    if (this.search !== undefined) {
      const searching = this.#searchKey(key);
      if (searching) return undefined;
    }
    if ("text" in key) {
      this.insert(key.text);
      return undefined;
    }
    if (this.#edit(key.name)) return undefined;
    switch (key.name) {
      case "enter": {
        const { text } = this;
        this.set("");
        return { kind: "line", text };
      }
      case "tab":
        return { kind: "complete" };
      case "ctrl-c":
        return { kind: "interrupt" };
      case "ctrl-d":
        if (this.text === "") return { kind: "end" };
        this.replace(this.cursor, after(this.text, this.cursor), "");
        return undefined;
      case "ctrl-l":
        return { kind: "clear" };
      case "ctrl-r":
        this.search = "";
        return undefined;
      default:
        return undefined;
    }
  }

  /** Starts over with `text`, at the end of the history. */
  set(text: string): void {
    this.text = text;
    this.cursor = text.length;
    this.#at = this.history.length;
  }

  insert(text: string): void {
    this.replace(this.cursor, this.cursor, text);
  }

  /** Puts `text` in the place of [from, to), the cursor behind it. */
  replace(from: number, to: number, text: string): void {
    this.text = this.text.slice(0, from) + text + this.text.slice(to);
    this.cursor = from + text.length;
  }

  #kill(from: number, to: number): void {
    this.#killed = this.text.slice(from, to);
    this.replace(from, to, "");
  }

  /** Moving and deleting; false where the key does something else. */
  #edit(name: string): boolean {
    const { text, cursor } = this;
    const moves: Readonly<Record<string, () => number>> = {
      left: () => before(text, cursor),
      "ctrl-b": () => before(text, cursor),
      right: () => after(text, cursor),
      "ctrl-f": () => after(text, cursor),
      home: () => 0,
      "ctrl-a": () => 0,
      end: () => text.length,
      "ctrl-e": () => text.length,
      "alt-b": () => wordBefore(text, cursor),
      "alt-f": () => wordAfter(text, cursor),
    };
    const edits: Readonly<Record<string, () => void>> = {
      backspace: () => this.replace(before(text, cursor), cursor, ""),
      "ctrl-h": () => this.replace(before(text, cursor), cursor, ""),
      delete: () => this.replace(cursor, after(text, cursor), ""),
      "ctrl-u": () => this.#kill(0, cursor),
      "ctrl-k": () => this.#kill(cursor, text.length),
      "ctrl-w": () => this.#kill(text.slice(0, cursor).search(/\S*\s*$/), cursor),
      "alt-backspace": () => this.#kill(wordBefore(text, cursor), cursor),
      "alt-d": () => {
        this.#kill(cursor, wordAfter(text, cursor));
        this.cursor = cursor;
      },
      "ctrl-y": () => this.insert(this.#killed),
      up: () => this.#travel(-1),
      "ctrl-p": () => this.#travel(-1),
      down: () => this.#travel(1),
      "ctrl-n": () => this.#travel(1),
    };
    if (Object.hasOwn(moves, name)) this.cursor = moves[name]!();
    else if (Object.hasOwn(edits, name)) edits[name]!();
    else return false;
    return true;
  }

  #travel(step: number): void {
    const to = this.#at + step;
    if (to < 0 || to > this.history.length) return;
    if (this.#at === this.history.length) this.#typed = this.text;
    const text = to === this.history.length ? this.#typed : this.history[to]!;
    this.set(text);
    this.#at = to;
  }

  /** A key while searching; false: the search is over, and the key is still to be used. */
  #searchKey(key: Key): boolean {
    if ("text" in key) this.search += key.text;
    else if (key.name === "backspace") this.search = this.search!.slice(0, -1);
    else if (key.name === "ctrl-r") {
      this.#find(this.#at - 1);
      return true;
    } else {
      this.search = undefined;
      // What was found stays in the line; only Ctrl-C and Ctrl-G give it up.
      if (key.name !== "ctrl-g" && key.name !== "ctrl-c") return false;
      this.set("");
      return true;
    }
    this.#find(this.history.length - 1);
    return true;
  }

  #find(from: number): void {
    if (this.search === "") return;
    for (let at = Math.min(from, this.history.length - 1); at >= 0; at--) {
      if (!this.history[at]!.includes(this.search!)) continue;
      this.set(this.history[at]!);
      this.#at = at;
      return;
    }
  }
}
