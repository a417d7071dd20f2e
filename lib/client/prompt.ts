/** Draws the line being edited on a terminal: it may take several rows, and other output goes above it. Pure. */
import { charColumns, columns } from "./text.ts";

/** Columns and rows, from 0. */
interface Place {
  readonly row: number;
  readonly column: number;
}

/** Where the cursor stands after `text` when lines wrap at `width`. */
function placeAfter(text: string, width: number): Place {
  let row = 0;
  let column = 0;
  for (const char of text) {
    const wide = charColumns(char);
    // A wide character does not begin in the last column.
    if (column + wide > width) {
      row++;
      column = 0;
    }
    column += wide;
  }
  return column >= width ? { row: row + 1, column: 0 } : { row, column };
}

/** The drawn line. `write` gets text for the terminal. */
export class Prompt {
  /** Row of the cursor within what is drawn; undefined: nothing is drawn. */
  #row: number | undefined;

  constructor(
    private readonly write: (text: string) => void,
    private readonly width: () => number,
  ) {}

  /** Draws `label` and `text` with the cursor at `cursor` (UTF-16 units), over what was drawn before. */
  draw(label: string, text: string, cursor: number): void {
    const width = this.width();
    const shown = label + text;
    const end = placeAfter(shown, width);
    const place = placeAfter(label + text.slice(0, cursor), width);
    const full = end.column === 0 && columns(shown) > 0;
    const up = end.row - place.row;
    this.write(
      this.#erase() + shown + (full ? "\n" : "") + (up > 0 ? `\x1b[${up}A` : "") + "\r" +
        (place.column > 0 ? `\x1b[${place.column}C` : ""),
    );
    this.#row = place.row;
  }

  /** Takes the line away, to write something in its place. */
  hide(): void {
    this.write(this.#erase());
    this.#row = undefined;
  }

  /** Leaves the line as it stands and goes below it. `text` is all that was drawn. */
  leave(label: string, text: string): void {
    this.draw(label, text, text.length);
    this.write("\r\n");
    this.#row = undefined;
  }

  #erase(): string {
    if (this.#row === undefined) return "";
    return (this.#row > 0 ? `\x1b[${this.#row}A` : "") + "\r\x1b[J";
  }
}
