/** This process as a program: its arguments, its end, the signals sent to it. */

/** Signals that ask a program to stop. */
export type StopSignal = "SIGINT" | "SIGTERM" | "SIGHUP";
/** Signals that end a program which does not expect them. */
type StraySignal = "SIGUSR1" | "SIGALRM" | "SIGIO" | "SIGXFSZ";
/** Signals that can be handled: SIGWINCH tells of a terminal's new size. */
export type Signal = StopSignal | StraySignal | "SIGWINCH";

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

/** Takes a variable out of the environment, where permission for that name was given. */
export function unsetEnvironment(name: string): void {
  try {
    Deno.env.delete(name);
  } catch {
    // Then it could not be read either.
  }
}

/** Ends the process at once. */
export function exit(status: number): never {
  Deno.exit(status);
}

/** Calls `handler` for each of `signals` that comes in, until `close`. Their default effect is off meanwhile. */
export function onSignals<S extends Signal>(
  signals: readonly S[],
  handler: (signal: S) => void,
): { close(): void } {
  const listeners = signals.map((signal) => {
    const listener = () => handler(signal);
    Deno.addSignalListener(signal, listener);
    return () => Deno.removeSignalListener(signal, listener);
  });
  return { close: () => listeners.forEach((remove) => remove()) };
}

/**
 * Signals that come before there is anybody to act on them: a program's modules take longer to load than a user to
 * press Ctrl-C. From its making on they have no effect of their own; `handle` tells of those that have come, too.
 */
export class HeldSignals<S extends Signal> {
  readonly #held: S[] = [];
  #handler: (signal: S) => void = (signal) => void this.#held.push(signal);
  readonly #watch: { close(): void };

  constructor(signals: readonly S[]) {
    this.#watch = onSignals(signals, (signal) => this.#handler(signal));
  }

  /** Calls `handler` for each that has come, and for each that comes, until `close`. */
  handle(handler: (signal: S) => void): void {
    this.#handler = handler;
    this.#held.splice(0).forEach(handler);
  }

  /** From now on they have their default effect again; gives those that nobody has handled. */
  close(): readonly S[] {
    this.#watch.close();
    return this.#held.splice(0);
  }
}

/** Calls `handler` with whatever was thrown, or rejected, and caught by nobody, until `close`. */
export function onUncaught(handler: (error: unknown) => void): { close(): void } {
  const rejected = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    handler(event.reason);
  };
  const thrown = (event: ErrorEvent) => {
    event.preventDefault();
    handler(event.error ?? event.message);
  };
  globalThis.addEventListener("unhandledrejection", rejected);
  globalThis.addEventListener("error", thrown);
  return {
    close() {
      globalThis.removeEventListener("unhandledrejection", rejected);
      globalThis.removeEventListener("error", thrown);
    },
  };
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
