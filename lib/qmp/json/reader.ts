/**
 * Reads a stream of JSON values, one after another with or without separators, from pieces cut anywhere.
 *
 * A value is complete when its braces and brackets balance; errors of grammar are reported then, once for each
 * value, and errors of spelling at once. Texts and limits are QEMU's. Memory is bounded by
 * the limits: 64 MiB and 2 Mi tokens for each value, 1024 levels.
 */
import { CommandError } from "../../base/mod.ts";
import { Lexer, MAX_TOKEN_BYTES, type TokenKind } from "./lexer.ts";
import { decodeString, textForMessage } from "./strings.ts";
import { type JsonObject, jsonObject, type JsonValue, numberFromText } from "./value.ts";

/** Most tokens in one value. */
const MAX_TOKENS = 2 << 20;
/** Most braces and brackets open at once. */
const MAX_NESTING = 1024;

/** Receives what the reader finds, in order. */
export interface JsonSink {
  value(value: JsonValue): void;
  /** `message` is complete: "JSON parse error, ..." or one of the limits. */
  error(message: string): void;
}

/** What the parser waits for in an open object or list. */
const enum Expect {
  /** `{` was read: a key or `}`. */
  firstKey,
  key,
  colon,
  memberValue,
  /** After a member or an element: `,` or the end. */
  objectSeparator,
  /** `[` was read: a value or `]`. */
  firstElement,
  element,
  listSeparator,
}

interface Frame {
  expect: Expect;
  readonly object: JsonObject | undefined;
  readonly list: JsonValue[] | undefined;
  key: string;
}

/** The streaming reader. Its sink may be called during `feed` and `finish` only. */
export class JsonReader {
  readonly #lexer: Lexer;
  #stack: Frame[] = [];
  #braces = 0;
  #brackets = 0;
  #tokens = 0;
  #bytes = 0;
  #failure: string | undefined;
  #result: JsonValue | undefined;

  constructor(private readonly sink: JsonSink) {
    this.#lexer = new Lexer({
      token: (kind, bytes) => this.#token(kind, bytes),
      stray: (bytes) => this.#complain(`JSON parse error, stray '${textForMessage(bytes)}'`),
      tooLong: () => this.#complain("JSON token size limit exceeded"),
    });
  }

  /** Takes the next piece. */
  feed(bytes: Uint8Array): void {
    this.#lexer.feed(bytes);
  }

  /** There is no more input: reports a value that is not complete. */
  finish(): void {
    this.#lexer.finish();
    if (this.#tokens > 0) this.#complain(`JSON parse error, ${this.#failure ?? "premature EOI"}`);
  }

  /** Forgets an unfinished value (a new client). */
  reset(): void {
    this.#lexer.reset();
    this.#forget();
  }

  #forget(): void {
    this.#stack = [];
    this.#braces =
      this.#brackets =
      this.#tokens =
      this.#bytes =
        0;
    this.#failure = this.#result = undefined;
  }

  #complain(message: string): void {
    this.#forget();
    this.sink.error(message);
  }

  #token(kind: TokenKind, bytes: Uint8Array): void {
    if (kind === "{") this.#braces++;
    else if (kind === "}") this.#braces--;
    else if (kind === "[") this.#brackets++;
    else if (kind === "]") this.#brackets--;
    this.#tokens++;
    this.#bytes += bytes.length;
    if (this.#bytes > MAX_TOKEN_BYTES) return this.#complain("JSON token size limit exceeded");
    if (this.#tokens > MAX_TOKENS) return this.#complain("JSON token count limit exceeded");
    if (this.#braces + this.#brackets > MAX_NESTING) {
      return this.#complain("JSON nesting depth limit exceeded");
    }
    if (this.#failure === undefined) this.#parse(kind, bytes);
    const balanced = this.#braces === 0 && this.#brackets === 0;
    if (!balanced && this.#braces >= 0 && this.#brackets >= 0) return;
    const failure = this.#failure;
    const result = this.#result;
    this.#forget();
    if (failure !== undefined) this.sink.error(`JSON parse error, ${failure}`);
    else this.sink.value(result as JsonValue);
  }

  #parse(kind: TokenKind, bytes: Uint8Array): void {
    const top = this.#stack[this.#stack.length - 1];
    if (top === undefined) return this.#begin(kind, bytes);
    switch (top.expect) {
      case Expect.firstKey:
        return kind === "}" ? this.#close() : this.#begin(kind, bytes);
      case Expect.firstElement:
        return kind === "]" ? this.#close() : this.#begin(kind, bytes);
      case Expect.colon:
        if (kind !== ":") return this.#fail("missing : in object pair");
        top.expect = Expect.memberValue;
        return;
      case Expect.objectSeparator:
        if (kind === "}") return this.#close();
        if (kind !== ",") return this.#fail("expected separator in dict");
        top.expect = Expect.key;
        return;
      case Expect.listSeparator:
        if (kind === "]") return this.#close();
        if (kind !== ",") return this.#fail("expected separator in list");
        top.expect = Expect.element;
        return;
      default:
        return this.#begin(kind, bytes);
    }
  }

  /** A value begins with this token. */
  #begin(kind: TokenKind, bytes: Uint8Array): void {
    switch (kind) {
      case "{":
        this.#stack.push({
          expect: Expect.firstKey,
          object: jsonObject(),
          list: undefined,
          key: "",
        });
        return;
      case "[":
        this.#stack.push({ expect: Expect.firstElement, object: undefined, list: [], key: "" });
        return;
      case "string": {
        const string = decodeString(bytes);
        return "error" in string ? this.#fail(string.error) : this.#complete(string.text);
      }
      case "number":
        return this.#complete(numberFromText(textForMessage(bytes)));
      case "keyword":
        return this.#keyword(textForMessage(bytes));
      default:
        return this.#fail("expecting value");
    }
  }

  #keyword(word: string): void {
    if (word === "true") this.#complete(true);
    else if (word === "false") this.#complete(false);
    else if (word === "null") this.#complete(null);
    else this.#fail(`invalid keyword '${word}'`);
  }

  /** The innermost object or list has ended. */
  #close(): void {
    const frame = this.#stack.pop()!;
    this.#complete(frame.object ?? frame.list!);
  }

  /** A value is there: it goes where the frame around it wants one. */
  #complete(value: JsonValue): void {
    const top = this.#stack[this.#stack.length - 1];
    if (top === undefined) {
      this.#result = value;
      return;
    }
    if (top.list !== undefined) {
      top.list.push(value);
      top.expect = Expect.listSeparator;
    } else if (top.expect === Expect.memberValue) {
      if (top.key in top.object!) return this.#fail("duplicate key");
      top.object![top.key] = value;
      top.expect = Expect.objectSeparator;
    } else if (typeof value === "string") {
      top.key = value;
      top.expect = Expect.colon;
    } else this.#fail("key is not a string in object");
  }

  #fail(message: string): void {
    this.#failure = message;
  }
}

/** The one JSON value in `text`. Throws CommandError with QEMU's text: errors, no value, or more than one. */
export function parseJson(text: string): JsonValue {
  let found: JsonValue | undefined;
  let problem: string | undefined;
  const reader = new JsonReader({
    value(value) {
      if (found !== undefined) problem ??= "Expecting at most one JSON value";
      found = value;
    },
    error(message) {
      problem ??= found === undefined ? message : "Expecting at most one JSON value";
    },
  });
  reader.feed(new TextEncoder().encode(text));
  reader.finish();
  if (problem !== undefined) throw new CommandError(problem);
  if (found === undefined) throw new CommandError("Expecting a JSON value");
  return found;
}
