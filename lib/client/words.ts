/** A line of the client as words: blanks, quotes, and JSON that may hold both. Pure. */

/** A word, and where it stands in the line (in UTF-16 units). */
export interface Word {
  readonly text: string;
  readonly start: number;
  readonly end: number;
}

/** The words of a line; `problem` says what is not closed. */
export interface Line {
  readonly words: readonly Word[];
  readonly problem: string | undefined;
}

/** Splits a line. Quotes and backslashes are as in a shell; JSON (`{...}`, `[...]`) is one piece as it is. */
export function splitLine(line: string): Line {
  const words: Word[] = [];
  let problem: string | undefined;
  let at = 0;
  while (at < line.length) {
    if (line[at] === " " || line[at] === "\t") {
      at++;
      continue;
    }
    const start = at;
    let text = "";
    while (at < line.length && line[at] !== " " && line[at] !== "\t") {
      const piece = pieceAt(line, at, text === "" || text.endsWith("="));
      problem ??= piece.problem;
      text += piece.text;
      at = piece.end;
    }
    words.push({ text, start, end: at });
  }
  return { words, problem };
}

interface Piece {
  readonly text: string;
  readonly end: number;
  readonly problem?: string;
}

function pieceAt(line: string, at: number, mayBeJson: boolean): Piece {
  const char = line[at]!;
  if (mayBeJson && (char === "{" || char === "[")) return jsonPiece(line, at);
  if (char === "'" || char === '"') return quoted(line, at, char);
  if (char === "\\" && at + 1 < line.length) return { text: line[at + 1]!, end: at + 2 };
  return { text: char, end: at + 1 };
}

function quoted(line: string, at: number, quote: string): Piece {
  let text = "";
  for (let i = at + 1; i < line.length; i++) {
    if (line[i] === quote) return { text, end: i + 1 };
    if (quote === '"' && line[i] === "\\" && (line[i + 1] === '"' || line[i + 1] === "\\")) i++;
    text += line[i];
  }
  return { text, end: line.length, problem: `a quote (${quote}) is not closed` };
}

function jsonPiece(line: string, at: number): Piece {
  let depth = 0;
  let quote = "";
  for (let i = at; i < line.length; i++) {
    const char = line[i]!;
    if (quote !== "") {
      if (char === "\\") i++;
      else if (char === quote) quote = "";
    } else if (char === '"' || char === "'") quote = char;
    else if (char === "{" || char === "[") depth++;
    else if ((char === "}" || char === "]") && --depth === 0) {
      return { text: line.slice(at, i + 1), end: i + 1 };
    }
  }
  return { text: line.slice(at), end: line.length, problem: "a brace or bracket is not closed" };
}
