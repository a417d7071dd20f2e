/** What tests of the whole composition share. */
import assert from "node:assert/strict";
import { traceEvents, TraceRegistry } from "../observe/mod.ts";
import { createContext, type Log } from "../sys/mod.ts";
import { Services } from "./services.ts";

/** How long `until` waits, in nanoseconds: far longer than anything takes. */
const PATIENCE = 20e9;

/** Services, and what they logged: "KIND: MESSAGE". */
export interface LoggedServices {
  readonly services: Services;
  readonly lines: string[];
}

/** The services of a daemon. */
export function loggedServices(): LoggedServices {
  const lines: string[] = [];
  const line = (kind: string) => (message: string) => void lines.push(`${kind}: ${message}`);
  const log: Log = { error: line("error"), warn: line("warning"), info: line("info") };
  const tracing = new TraceRegistry(traceEvents, { write: () => {}, realtimeUs: () => 0 });
  return { services: new Services(createContext({ name: "main", log }), tracing), lines };
}

/** Waits for a condition; fails when it does not come true. */
export async function until({ context }: Services, condition: () => boolean): Promise<void> {
  const end = context.sys.monotonicNs() + PATIENCE;
  while (!condition()) {
    assert(context.sys.monotonicNs() < end, `${condition} never came true`);
    await new Promise<void>((go) => context.loop.timer(5e6, go));
  }
}
