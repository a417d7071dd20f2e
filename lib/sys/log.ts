/** Messages for people, on stderr, in QEMU's form: "PROGRAM: message", "PROGRAM: warning: message". */
import type { Log } from "./types.ts";

/** A Log that gives finished lines (with their newline) to `write`. */
export function createLog(program: string, write: (line: string) => void): Log {
  return {
    error: (message) => write(`${program}: ${message}\n`),
    warn: (message) => write(`${program}: warning: ${message}\n`),
    info: (message) => write(`${program}: info: ${message}\n`),
  };
}

/** Writes to descriptor 2, whole lines. A stderr that is closed or full is not our failure. */
export function writeStderr(line: string): void {
  const bytes = new TextEncoder().encode(line);
  try {
    for (let done = 0; done < bytes.length;) done += Deno.stderr.writeSync(bytes.subarray(done));
  } catch {
    // Nobody can be told.
  }
}

/** A time (microseconds since the epoch) in UTC, as `2026-08-01T12:34:56.789012Z`. */
export function utcText(us: number): string {
  const micro = String(Math.floor(us % 1e6)).padStart(6, "0");
  return new Date(us / 1000).toISOString().replace(/\.\d+Z$/, `.${micro}Z`);
}
