/** The states of a job: which follows which, and what may be asked of it in each. Pure. */
import { assert, CommandError } from "../../base/mod.ts";
import type { JobStatusValue } from "../../qmp/schema/job.ts";

/** What can be asked of a job. */
export type JobVerb =
  | "cancel"
  | "pause"
  | "resume"
  | "set-speed"
  | "complete"
  | "finalize"
  | "dismiss";

const moves: Readonly<Record<JobStatusValue, readonly JobStatusValue[]>> = {
  undefined: ["created"],
  created: ["running", "aborting", "null"],
  running: ["paused", "ready", "waiting", "aborting"],
  paused: ["running"],
  ready: ["standby", "waiting", "aborting"],
  standby: ["ready"],
  waiting: ["pending", "aborting"],
  pending: ["aborting", "concluded"],
  aborting: ["aborting", "concluded"],
  concluded: ["null"],
  null: [],
};

const live: readonly JobStatusValue[] = ["created", "running", "paused", "ready", "standby"];
const verbs: Readonly<Record<JobVerb, readonly JobStatusValue[]>> = {
  cancel: [...live, "waiting", "pending"],
  pause: live,
  resume: live,
  "set-speed": live,
  complete: ["ready", "standby"],
  finalize: ["pending"],
  dismiss: ["concluded"],
};

/** Whether a job may go from one state straight to another. */
export function mayMove(from: JobStatusValue, to: JobStatusValue): boolean {
  return moves[from].includes(to);
}

/** A forbidden move is a mistake of ours. */
export function assertMove(from: JobStatusValue, to: JobStatusValue): void {
  assert(mayMove(from, to), `a job may not go from ${from} to ${to}`);
}

/** Whether a job takes `verb` in that state. */
export function accepts(status: JobStatusValue, verb: JobVerb): boolean {
  return verbs[verb].includes(status);
}

/** Throws CommandError where `verb` is not to be asked of the job now. */
export function checkVerb(id: string, status: JobStatusValue, verb: JobVerb): void {
  if (accepts(status, verb)) return;
  throw new CommandError(`Job '${id}' in state '${status}' cannot accept command verb '${verb}'`);
}
