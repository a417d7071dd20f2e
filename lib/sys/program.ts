/** This process as a program: its arguments, its end, the signals sent to it. */

/** Signals that ask a program to stop. */
export type StopSignal = "SIGINT" | "SIGTERM" | "SIGHUP";

/** Arguments of the command line, without the program's name. */
export function programArguments(): string[] {
  return [...Deno.args];
}

/** Variable of the environment; undefined also where permission for that name was not given. */
export function environment(name: string): string | undefined {
  try {
    return Deno.env.get(name);
  } catch {
    return undefined;
  }
}

/** Ends the process at once. */
export function exit(status: number): never {
  Deno.exit(status);
}

/** Calls `handler` for each of `signals` that comes in, until `close`. Their default effect is off meanwhile. */
export function onSignals(
  signals: readonly StopSignal[],
  handler: (signal: StopSignal) => void,
): { close(): void } {
  const listeners = signals.map((signal) => {
    const listener = () => handler(signal);
    Deno.addSignalListener(signal, listener);
    return () => Deno.removeSignalListener(signal, listener);
  });
  return { close: () => listeners.forEach((remove) => remove()) };
}

/** Writes all of `text` to standard output; false if it could not be written (a closed pipe, for example). */
export function writeStdout(text: string): boolean {
  const bytes = new TextEncoder().encode(text);
  try {
    for (let done = 0; done < bytes.length;) done += Deno.stdout.writeSync(bytes.subarray(done));
    return true;
  } catch {
    return false;
  }
}
