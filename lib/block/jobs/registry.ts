/** All jobs of a daemon, by id. */
import { CommandError, isIdentifier } from "../../base/mod.ts";
import type { EventSink } from "../../qmp/schema/core.ts";
import type { Context } from "../../sys/mod.ts";
import { Job, type JobObserver, type JobOptions, type JobWork } from "./job.ts";

/** The jobs. Those that were dismissed are gone. */
export class JobRegistry {
  /** In order of creation. */
  readonly #jobs = new Map<string, Job>();
  readonly #observer: JobObserver;

  constructor(parts: { context: Pick<Context, "log" | "trace">; events: EventSink }) {
    const { context, events } = parts;
    const transition = context.trace("job_state_transition");
    const verbs = context.trace("job_apply_verb");
    const completed = context.trace("job_completed");
    this.#observer = {
      moved: (job, from, to) => {
        if (transition.enabled) transition.emit(`job ${job.id} (${from}-->${to})`);
        events.emit("JOB_STATUS_CHANGE", { id: job.id, status: to });
        if (to === "null") this.#jobs.delete(job.id);
      },
      asked: ({ id, status }, verb) => {
        if (verbs.enabled) verbs.emit(`job ${id} in state ${status}; applying verb ${verb}`);
      },
      completed: ({ id }, error) => {
        if (completed.enabled) completed.emit(`job ${id} ${error ?? "without an error"}`);
      },
      pending: () => {},
      bug: (job, error) => {
        const text = error instanceof Error ? error.stack ?? error.message : String(error);
        context.log.error(`internal error in job '${job.id}': ${text}`);
      },
    };
  }

  /** A new job, not started yet. Throws CommandError when its id is bad or taken. */
  create(options: JobOptions, work: JobWork): Job {
    const { id } = options;
    if (!isIdentifier(id)) throw new CommandError(`Invalid job ID '${id}'`);
    if (this.#jobs.has(id)) throw new CommandError(`Job ID '${id}' already in use`);
    const job = new Job(options, work, this.#observer);
    this.#jobs.set(id, job);
    return job;
  }

  /** Throws CommandError when there is none of that id. */
  find(id: string): Job {
    const job = this.#jobs.get(id);
    if (job === undefined) throw new CommandError("Job not found");
    return job;
  }

  /** All jobs, newest first. */
  list(): Job[] {
    return [...this.#jobs.values()].reverse();
  }

  /** The daemon ends: whatever runs is cancelled; resolves when nothing runs any more and all are forgotten. */
  async close(): Promise<void> {
    const jobs = this.list();
    for (const job of jobs) {
      if (job.status !== "aborting" && job.status !== "concluded") job.cancel();
    }
    for (const job of jobs) {
      await job.concluded;
      if (job.status === "concluded") job.dismiss();
    }
  }
}
