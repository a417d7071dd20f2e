/** The life of jobs, with work that the test leads by hand. */
import assert from "node:assert/strict";
import { BlockError } from "../../base/mod.ts";
import { type Job, type JobControl, JobRegistry, type JobWork } from "./mod.ts";

function setUp() {
  const events: string[] = [];
  const errors: string[] = [];
  const point = { name: "", enabled: false, emit: () => {} };
  const log = { error: (text: string) => void errors.push(text), warn() {}, info() {} };
  const jobs = new JobRegistry({
    context: { log, trace: () => point },
    events: { emit: (_name, data) => void events.push(String(data["status"])) },
  });
  return { jobs, events, errors };
}

/** Work that ends, or reaches a pause point, when the test says so. */
class Toy implements JobWork {
  readonly type = "create";
  readonly calls: string[] = [];
  control: JobControl | undefined;
  #steps: (() => void)[] = [];
  #end: (() => void) | undefined;
  #fail: ((error: unknown) => void) | undefined;

  async run(control: JobControl): Promise<void> {
    this.control = control;
    const ended = new Promise<void>((resolve, reject) => {
      this.#end = resolve;
      this.#fail = reject;
    });
    let over = false;
    ended.finally(() => over = true).catch(() => {});
    while (!over) {
      await Promise.race([ended, new Promise<void>((resolve) => this.#steps.push(resolve))]);
      if (!over) await control.pausePoint();
    }
    await ended;
  }
  prepare(): void {
    this.calls.push("prepare");
  }
  commit(): void {
    this.calls.push("commit");
  }
  abort(): void {
    this.calls.push("abort");
  }
  /** Lets the work come to its next pause point. */
  async step(): Promise<void> {
    this.#steps.splice(0).forEach((resolve) => resolve());
    for (let i = 0; i < 10; i++) await Promise.resolve();
  }
  end(): void {
    this.#end!();
  }
  fail(error: unknown): void {
    this.#fail!(error);
  }
}

function begin(how: { autoFinalize?: boolean; autoDismiss?: boolean } = {}) {
  const parts = setUp();
  const work = new Toy();
  const job = parts.jobs.create({ id: "j", autoDismiss: false, ...how }, work);
  job.start();
  return { ...parts, work, job };
}

const settled = async (job: Job) => {
  await job.concluded;
  return job.status;
};

Deno.test("a job that succeeds goes through every state and waits to be dismissed", async () => {
  const { jobs, events, work, job } = begin();
  assert.deepEqual(events, ["created", "running"]);
  work.control!.progress(3, 10);
  work.end();
  assert.equal(await settled(job), "concluded");
  assert.deepEqual(events, ["created", "running", "waiting", "pending", "concluded"]);
  assert.deepEqual(work.calls, ["prepare", "commit"]);
  assert.deepEqual(jobs.list().map((one) => one.info()), [{
    id: "j",
    type: "create",
    status: "concluded",
    "current-progress": 3,
    "total-progress": 10,
  }]);
  job.dismiss();
  assert.equal(events.at(-1), "null");
  assert.throws(() => jobs.find("j"), { message: "Job not found" });
});

Deno.test("a job with auto-dismiss forgets itself", async () => {
  const { jobs, events, work, job } = begin({ autoDismiss: true });
  work.end();
  assert.equal(await settled(job), "null");
  assert.equal(events.at(-1), "null");
  assert.deepEqual(jobs.list(), []);
});

Deno.test("a job that fails aborts and keeps its error; a bug of ours is logged too", async () => {
  const { events, work, job, errors } = begin();
  work.fail(new BlockError("EIO", "the disk is gone"));
  await settled(job);
  assert.deepEqual(events, ["created", "running", "aborting", "concluded"]);
  assert.deepEqual(work.calls, ["abort"]);
  assert.equal(job.info().error, "the disk is gone");
  assert.deepEqual(errors, []);
  const second = begin();
  second.work.fail(new TypeError("oops"));
  await settled(second.job);
  assert.equal(second.job.info().error, "oops");
  assert.match(second.errors[0]!, /^internal error in job 'j': TypeError: oops/);
});

Deno.test("a cancelled job gives up at its next pause point", async () => {
  const { events, work, job } = begin();
  job.cancel();
  job.cancel();
  assert.equal(job.status, "running");
  await work.step();
  await settled(job);
  assert.deepEqual(events, ["created", "running", "aborting", "concluded"]);
  assert.equal(job.info().error, "Operation canceled");
  assert.throws(() => job.cancel(), /in state 'concluded' cannot accept command verb 'cancel'/);
});

Deno.test("a cancelled job whose work ends without looking is cancelled all the same", async () => {
  const { work, job } = begin();
  job.cancel();
  work.end();
  await settled(job);
  assert.equal(job.info().error, "Operation canceled");
  assert.deepEqual(work.calls, ["abort"]);
});

Deno.test("pause holds the work at its next pause point until resume", async () => {
  const { events, work, job } = begin();
  assert.throws(() => job.resume(), { message: "Can't resume a job that was not paused" });
  job.pause();
  assert.throws(() => job.pause(), { message: "Job is already paused" });
  await work.step();
  assert.equal(job.status, "paused");
  job.resume();
  await work.step();
  assert.equal(job.status, "running");
  work.end();
  await settled(job);
  assert.deepEqual(events.slice(0, 4), ["created", "running", "paused", "running"]);
});

Deno.test("a ready job that is paused is in standby; cancelling wakes it first", async () => {
  const { events, work, job } = begin();
  work.control!.becomeReady();
  job.pause();
  await work.step();
  assert.equal(job.status, "standby");
  job.cancel();
  await settled(job);
  assert.deepEqual(events, [
    "created",
    "running",
    "ready",
    "standby",
    "ready",
    "aborting",
    "concluded",
  ]);
});

Deno.test("without auto-finalize the job is pending until finalize, or cancel", async () => {
  for (const [act, end] of [["finalize", undefined], ["cancel", "Operation canceled"]] as const) {
    const { work, job } = begin({ autoFinalize: false });
    assert.throws(() => job.finalize(), /in state 'running'/);
    work.end();
    while (job.status !== "pending") await Promise.resolve();
    assert.deepEqual(work.calls, []);
    job[act]();
    await settled(job);
    assert.equal(job.info().error, end);
    assert.deepEqual(work.calls, end === undefined ? ["prepare", "commit"] : ["abort"]);
  }
});

Deno.test("a job that was never started can be cancelled", async () => {
  const { jobs, events } = setUp();
  const work = new Toy();
  const job = jobs.create({ id: "j" }, work);
  job.cancel();
  await job.concluded;
  assert.deepEqual(events, ["created", "aborting", "concluded", "null"]);
  assert.equal(work.control, undefined);
});

Deno.test("ids are checked, and unique while the job is there", () => {
  const { jobs } = begin();
  for (const id of ["", "1", "a b", "a/b"]) {
    assert.throws(() => jobs.create({ id }, new Toy()), { message: `Invalid job ID '${id}'` });
  }
  assert.throws(() => jobs.create({ id: "j" }, new Toy()), {
    message: "Job ID 'j' already in use",
  });
});

Deno.test("closing cancels what runs and forgets everything", async () => {
  const { jobs, events, work } = begin();
  const closed = jobs.close();
  await work.step();
  await closed;
  assert.deepEqual(events, ["created", "running", "aborting", "concluded", "null"]);
  assert.deepEqual(jobs.list(), []);
});

Deno.test("traces tell what was asked of a job, how its work ended, and its moves", async () => {
  const lines: string[] = [];
  const log = { error() {}, warn() {}, info() {} };
  const trace = (name: string) => ({
    name,
    enabled: true,
    emit: (text: string) => void lines.push(`${name} ${text}`),
  });
  const jobs = new JobRegistry({ context: { log, trace }, events: { emit() {} } });
  const run = () => {
    throw new BlockError("EIO", "worn out", {});
  };
  const job = jobs.create({ id: "j", autoDismiss: false }, { type: "create", run } as JobWork);
  job.start();
  await job.concluded;
  assert.throws(() => job.pause());
  job.dismiss();
  assert.deepEqual(lines, [
    "job_state_transition job j (undefined-->created)",
    "job_state_transition job j (created-->running)",
    "job_completed job j worn out",
    "job_state_transition job j (running-->aborting)",
    "job_state_transition job j (aborting-->concluded)",
    "job_apply_verb job j in state concluded; applying verb pause",
    "job_apply_verb job j in state concluded; applying verb dismiss",
    "job_state_transition job j (concluded-->null)",
  ]);
});
