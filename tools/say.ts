/** Lines for the person at the terminal. */

const encoder = new TextEncoder();

function write(stream: { writeSync(bytes: Uint8Array): number }, text: string): void {
  const bytes = encoder.encode(`${text}\n`);
  for (let at = 0; at < bytes.length;) at += stream.writeSync(bytes.subarray(at));
}

/** Writes a line to standard output. */
export function say(text: string): void {
  write(Deno.stdout, text);
}

/** Writes a line to standard error. */
export function complain(text: string): void {
  write(Deno.stderr, text);
}
