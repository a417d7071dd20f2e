/**
 * One job: its life from created to null. What it does is its `JobWork`; here is when. Every move is told by
 * JOB_STATUS_CHANGE, also of states that last no time. Commands and the work run in one thread: between two awaits
 * the state stands still, and after each await it is looked at anew.
 */
import { assert, BlockError, CommandError, type MaybePromise } from "../../base/mod.ts";
import type { JobInfoValue, JobStatusValue, JobTypeValue } from "../../qmp/schema/job.ts";
import { assertMove, checkVerb, type JobVerb } from "./state.ts";

/** What a job does. */
export interface JobWork {
  readonly type: JobTypeValue;
  /** The work itself. A CommandError or BlockError makes the job fail. */
  run(control: JobControl): Promise<void>;
  /** Once it is finalized: what can still fail (changes of the graph, prepared). */
  prepare?(): MaybePromise<void>;
  /** It has succeeded: takes effect, and cannot fail. */
  commit?(): void;
  /** It has failed or was cancelled: what was made is undone. */
  abort?(): MaybePromise<void>;
  /** job-complete, of work that becomes ready. */
  complete?(): void;
}

/** What the work sees of its job. */
export interface JobControl {
  /** It has been asked to give up: `pausePoint` throws, and so may the work. */
  readonly cancelled: boolean;
  /** Says how far it is, in units of its own. */
  progress(current: number, total: number): void;
  /** A place where the job can be held up; throws once it is cancelled. */
  pausePoint(): MaybePromise<void>;
  /** The work could end at any time now (mirror): job-complete is taken from here on. */
  becomeReady(): void;
}

/** How a job is wanted. */
export interface JobOptions {
  readonly id: string;
  /** Takes effect without job-finalize [true]. */
  readonly autoFinalize?: boolean;
  /** Is forgotten without job-dismiss [true]. */
  readonly autoDismiss?: boolean;
}

/** What a job tells those around it. */
export interface JobObserver {
  moved(job: Job, from: JobStatusValue, to: JobStatusValue): void;
  /** A verb (job-pause...) is asked of it, which its state may refuse. */
  asked(job: Job, verb: JobVerb): void;
  /** Its work has ended; `error` says how, if it failed. */
  completed(job: Job, error: string | undefined): void;
  /** It waits for job-finalize. */
  pending(job: Job): void;
  /** Something that is no error of the outside world ended the work. */
  bug(job: Job, error: unknown): void;
}

const cancelledError = () => new CommandError("Operation canceled");

/** A job. */
export class Job implements JobControl {
  readonly id: string;
  readonly type: JobTypeValue;
  /** Settled when it has concluded. */
  readonly concluded: Promise<void>;
  #status: JobStatusValue = "undefined";
  #current = 0;
  #total = 1;
  #error: string | undefined;
  #cancelled = false;
  /** job-pause was given. */
  #userPaused = false;
  #wake: (() => void) | undefined;
  #finalize: (() => void) | undefined;
  #concludedNow: () => void = () => {};

  constructor(
    private readonly options: JobOptions,
    private readonly work: JobWork,
    private readonly observer: JobObserver,
  ) {
    this.id = options.id;
    this.type = work.type;
    this.concluded = new Promise((resolve) => this.#concludedNow = resolve);
    this.#move("created");
  }

  get status(): JobStatusValue {
    return this.#status;
  }
  get cancelled(): boolean {
    return this.#cancelled;
  }

  /** As query-jobs shows it. */
  info(): JobInfoValue {
    const info: JobInfoValue = {
      id: this.id,
      type: this.type,
      status: this.#status,
      "current-progress": this.#current,
      "total-progress": this.#total,
    };
    if (this.#error !== undefined) info.error = this.#error;
    return info;
  }

  // --- what can be asked of it; each throws CommandError where its state forbids it ---

  /** job-pause. */
  pause(): void {
    this.#check("pause");
    if (this.#userPaused) throw new CommandError("Job is already paused");
    this.#userPaused = true;
  }

  /** job-resume. */
  resume(): void {
    if (!this.#userPaused) throw new CommandError("Can't resume a job that was not paused");
    this.#check("resume");
    this.#userPaused = false;
    this.#wake?.();
  }

  /** job-cancel: at the next point where the work can stop. */
  cancel(): void {
    this.#check("cancel");
    this.#cancelled = true;
    this.#userPaused = false;
    if (this.#status === "created") this.#live();
    this.#wake?.();
    this.#finalize?.();
  }

  /** job-complete. */
  complete(): void {
    this.#check("complete");
    if (this.work.complete === undefined) {
      throw new CommandError(`The active block job '${this.id}' cannot be completed`);
    }
    this.work.complete();
  }

  /** job-finalize. */
  finalize(): void {
    this.#check("finalize");
    this.#finalize?.();
  }

  /** job-dismiss. The registry then forgets it. */
  dismiss(): void {
    this.#check("dismiss");
    this.#move("null");
  }

  #check(verb: JobVerb): void {
    this.observer.asked(this, verb);
    checkVerb(this.id, this.#status, verb);
  }

  // --- for the work ---

  progress(current: number, total: number): void {
    this.#current = current;
    this.#total = total;
  }

  becomeReady(): void {
    this.#move("ready");
  }

  pausePoint(): MaybePromise<void> {
    if (this.#cancelled) throw cancelledError();
    return this.#userPaused ? this.#hold() : undefined;
  }

  async #hold(): Promise<void> {
    const before = this.#status;
    this.#move(before === "ready" ? "standby" : "paused");
    while (this.#userPaused) {
      await new Promise<void>((resolve) => this.#wake = resolve);
      this.#wake = undefined;
    }
    this.#move(before);
    if (this.#cancelled) throw cancelledError();
  }

  // --- its life ---

  /** Sets it going: it is running when this returns. What follows is told by events and `concluded`. */
  start(): void {
    assert(this.#status === "created");
    this.#move("running");
    this.#live();
  }

  async #live(): Promise<void> {
    try {
      if (this.#cancelled) throw cancelledError();
      await this.work.run(this);
      if (this.#cancelled) throw cancelledError();
      this.observer.completed(this, undefined);
      this.#move("waiting");
      this.#move("pending");
      if (this.options.autoFinalize === false) await this.#untilFinalized();
      if (this.#cancelled) throw cancelledError();
      await this.work.prepare?.();
      this.work.commit?.();
    } catch (error) {
      await this.#fail(error);
    }
    this.#move("concluded");
    this.#concludedNow();
    if (this.options.autoDismiss !== false) this.#move("null");
  }

  async #untilFinalized(): Promise<void> {
    this.observer.pending(this);
    await new Promise<void>((resolve) => this.#finalize = resolve);
    this.#finalize = undefined;
  }

  async #fail(error: unknown): Promise<void> {
    this.#error = error instanceof Error ? error.message : String(error);
    const outside = error instanceof CommandError || error instanceof BlockError;
    if (!outside) this.observer.bug(this, error);
    this.observer.completed(this, this.#error);
    this.#move("aborting");
    try {
      await this.work.abort?.();
    } catch (later) {
      this.observer.bug(this, later);
    }
  }

  #move(to: JobStatusValue): void {
    const from = this.#status;
    assertMove(from, to);
    this.#status = to;
    this.observer.moved(this, from, to);
  }
}
