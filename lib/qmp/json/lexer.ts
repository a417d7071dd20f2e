/**
 * Splits a stream of bytes into JSON tokens, wherever the pieces are cut. Knows QEMU's extensions (strings in
 * single quotes) and its way of going on after an error: what follows is skipped up to a bracket, a brace, a
 * comma, a colon or the end of the line; a byte that is never allowed (0xFF) is an error of its own.
 */

/** What a token is: a structural character, or the class of a longer one. */
export type TokenKind = "{" | "}" | "[" | "]" | ":" | "," | "string" | "number" | "keyword";

/** Receives tokens. `bytes` (with the quotes of a string) is only valid during the call. */
export interface TokenSink {
  /** `length` counts the token's bytes. */
  token(kind: TokenKind, bytes: Uint8Array): void;
  /** Bytes that are no token: the text as it goes into the message. */
  stray(bytes: Uint8Array): void;
  /** A token above `MAX_TOKEN_BYTES`; what it had so far is forgotten. */
  tooLong(): void;
}

/** Largest token, in bytes (QEMU's limit). */
export const MAX_TOKEN_BYTES = 64 << 20;

const enum State {
  start,
  recovery,
  keyword,
  string,
  escape,
  minus,
  zero,
  digits,
  point,
  fraction,
  exponent,
  exponentSign,
  exponentDigits,
}

/** What a character means at the start of a token. */
const enum Class {
  stray,
  blank,
  structural,
  quote,
  letter,
  minus,
  zero,
  digit,
}

const classOf = new Uint8Array(256);
for (const blank of [0x20, 0x09, 0x0a, 0x0d]) classOf[blank] = Class.blank;
for (const char of "{}[]:,") classOf[char.charCodeAt(0)] = Class.structural;
for (const char of "\"'") classOf[char.charCodeAt(0)] = Class.quote;
for (let byte = 0x61; byte <= 0x7a; byte++) classOf[byte] = Class.letter;
for (let byte = 0x31; byte <= 0x39; byte++) classOf[byte] = Class.digit;
classOf[0x30] = Class.zero;
classOf[0x2d] = Class.minus;

const isDigit = (byte: number) => byte >= 0x30 && byte <= 0x39;
/** Bytes that no string and no skipped text may hold. */
const isForbidden = (byte: number) => byte < 0x20 || byte >= 0xfe;

const stateOfClass: Readonly<Record<number, State>> = {
  [Class.quote]: State.string,
  [Class.letter]: State.keyword,
  [Class.minus]: State.minus,
  [Class.zero]: State.zero,
  [Class.digit]: State.digits,
};

/** The tokenizer. Feed it, and say when there is no more. */
export class Lexer {
  #state: State = State.start;
  #quote = 0;
  /** The beginning of a token that began in an earlier piece. */
  #partial = new Uint8Array(0);
  #partialLength = 0;

  constructor(private readonly sink: TokenSink) {}

  /** Takes the next piece; empty pieces are fine. */
  feed(bytes: Uint8Array): void {
    const end = bytes.length;
    let start = 0; // of the current token, in this piece
    let at = 0;
    while (at < end) {
      if (this.#state === State.start || this.#state === State.recovery) {
        start = at;
        this.#begin(bytes, at++);
        continue;
      }
      if (this.#state === State.string) {
        while (at < end && isPlain(bytes[at]!, this.#quote)) at++;
        if (at === end) break;
      }
      const next = this.#step(bytes[at]!);
      if (next === Step.more) {
        at++;
      } else if (next === Step.endHere) {
        at++;
        this.#finishToken(bytes, start, at);
      } else if (next === Step.endBefore) {
        this.#finishToken(bytes, start, at);
      } else {
        at++;
        this.#strayToken(bytes, start, at);
      }
    }
    if (this.#state !== State.start && this.#state !== State.recovery) {
      this.#keep(bytes.subarray(start, end));
    }
  }

  /** There is no more input: an unfinished token is complete, or a stray one. */
  finish(): void {
    const state = this.#state;
    if (state === State.start || state === State.recovery) return;
    const nothing = new Uint8Array(0);
    if (
      state === State.keyword || state === State.zero || state === State.digits ||
      state === State.fraction || state === State.exponentDigits
    ) {
      this.#finishToken(nothing, 0, 0);
    } else this.#strayToken(nothing, 0, 0);
    this.#state = State.start;
  }

  /** Forgets an unfinished token. */
  reset(): void {
    this.#state = State.start;
    this.#dropPartial();
  }

  #begin(bytes: Uint8Array, at: number): void {
    const byte = bytes[at]!;
    if (this.#state === State.recovery) {
      const ends = byte === 0x0a || byte === 0x0d || classOf[byte] === Class.structural;
      if (!ends) {
        if (isForbidden(byte) && byte !== 0x09) this.sink.stray(bytes.subarray(at, at + 1));
        return;
      }
      this.#state = State.start;
    }
    const kind = classOf[byte]!;
    if (kind === Class.blank) return;
    if (kind === Class.structural) {
      this.sink.token(String.fromCharCode(byte) as TokenKind, bytes.subarray(at, at + 1));
    } else if (kind === Class.stray) {
      this.#state = State.recovery;
      this.sink.stray(bytes.subarray(at, at + 1));
    } else {
      this.#quote = byte;
      this.#state = stateOfClass[kind]!;
    }
  }

  /** Takes one byte within a token, changes the state and says what became of the token. */
  #step(byte: number): Step {
    switch (this.#state) {
      case State.string:
        if (byte === this.#quote) return Step.endHere;
        if (byte === 0x5c) return this.#to(State.escape);
        return isForbidden(byte) ? Step.stray : Step.more;
      case State.escape:
        return isForbidden(byte) ? Step.stray : this.#to(State.string);
      case State.keyword:
        return classOf[byte] === Class.letter ? Step.more : Step.endBefore;
      default:
        return this.#stepNumber(byte);
    }
  }

  #stepNumber(byte: number): Step {
    const digit = isDigit(byte);
    const exponent = byte === 0x65 || byte === 0x45;
    switch (this.#state) {
      case State.minus:
        if (byte === 0x30) return this.#to(State.zero);
        return digit ? this.#to(State.digits) : Step.stray;
      case State.zero:
      case State.digits:
        if (digit) return this.#state === State.zero ? Step.stray : Step.more;
        if (byte === 0x2e) return this.#to(State.point);
        return exponent ? this.#to(State.exponent) : Step.endBefore;
      case State.point:
        return digit ? this.#to(State.fraction) : Step.stray;
      case State.fraction:
        if (digit) return Step.more;
        return exponent ? this.#to(State.exponent) : Step.endBefore;
      case State.exponent:
        if (byte === 0x2b || byte === 0x2d) return this.#to(State.exponentSign);
        return digit ? this.#to(State.exponentDigits) : Step.stray;
      case State.exponentSign:
        return digit ? this.#to(State.exponentDigits) : Step.stray;
      default:
        return digit ? Step.more : Step.endBefore;
    }
  }

  #to(state: State): Step {
    this.#state = state;
    return Step.more;
  }

  #finishToken(bytes: Uint8Array, start: number, end: number): void {
    const kind = this.#state === State.string
      ? "string"
      : this.#state === State.keyword
      ? "keyword"
      : "number";
    const token = this.#whole(bytes, start, end);
    this.#state = State.start;
    this.sink.token(kind, token);
  }

  #strayToken(bytes: Uint8Array, start: number, end: number): void {
    const token = this.#whole(bytes, start, end);
    this.#state = State.recovery;
    this.sink.stray(token);
  }

  /** The token's bytes: those kept from earlier pieces and [start, end) of this one. */
  #whole(bytes: Uint8Array, start: number, end: number): Uint8Array {
    if (this.#partialLength === 0) return bytes.subarray(start, end);
    // The kept part of a token always ends where a piece ended, so that its rest begins at 0.
    const rest = bytes.subarray(0, end);
    const joined = new Uint8Array(this.#partialLength + rest.length);
    joined.set(this.#partial.subarray(0, this.#partialLength));
    joined.set(rest, this.#partialLength);
    this.#dropPartial();
    return joined;
  }

  #keep(bytes: Uint8Array): void {
    const needed = this.#partialLength + bytes.length;
    if (needed > MAX_TOKEN_BYTES) {
      this.#dropPartial();
      this.#state = State.recovery;
      this.sink.tooLong();
      return;
    }
    if (needed > this.#partial.length) {
      const grown = new Uint8Array(Math.max(needed, this.#partial.length * 2, 256));
      grown.set(this.#partial.subarray(0, this.#partialLength));
      this.#partial = grown;
    }
    this.#partial.set(bytes, this.#partialLength);
    this.#partialLength = needed;
  }

  #dropPartial(): void {
    this.#partialLength = 0;
    if (this.#partial.length > 1 << 16) this.#partial = new Uint8Array(0);
  }
}

const enum Step {
  /** The byte belongs to the token, which goes on. */
  more,
  /** The byte is the token's last. */
  endHere,
  /** The token ended before this byte. */
  endBefore,
  /** The byte makes it no token at all. */
  stray,
}

/** A byte of a string that needs no thought. */
function isPlain(byte: number, quote: number): boolean {
  return byte >= 0x20 && byte < 0xfe && byte !== 0x5c && byte !== quote;
}
