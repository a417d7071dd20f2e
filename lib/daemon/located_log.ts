/** Messages with the option that they are about, as QEMU's error location. */
import { type Log, writeStderr } from "../sys/mod.ts";

/** "PROGRAM: OPTION: message"; without the option when none is being worked on. */
export class LocatedLog implements Log {
  /** The option as typed, while it is worked on. */
  location: string | undefined;

  constructor(
    readonly program: string,
    private readonly write: (line: string) => void = writeStderr,
  ) {}

  error(message: string): void {
    this.write(`${this.prefix}${message}\n`);
  }

  warn(message: string): void {
    this.write(`${this.prefix}warning: ${message}\n`);
  }

  /** A warning about a line of a file. */
  warnOfLine(file: string, line: number, message: string): void {
    this.write(`${this.program}:${file}:${line}: warning: ${message}\n`);
  }

  info(message: string): void {
    this.write(`${this.prefix}info: ${message}\n`);
  }

  /** A line of its own that helps with the message before. */
  hint(line: string): void {
    this.write(`${line}\n`);
  }

  private get prefix(): string {
    return this.location === undefined
      ? `${this.program}: `
      : `${this.program}: ${this.location}: `;
  }
}
