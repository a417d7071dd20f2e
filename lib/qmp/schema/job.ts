/** Jobs and the creation of images (QAPI job.json, and block-core's BlockdevCreateOptions). */
import {
  array,
  bool,
  command,
  empty,
  enumeration,
  exactSize,
  type Infer,
  int,
  opt,
  size,
  str,
  struct,
  union,
} from "./core.ts";
import { BlockdevDriver, PreallocMode } from "./blockdev.ts";
import { BlockdevAmendOptionsQcow2, BlockdevCreateOptionsQcow2 } from "./qcow2.ts";
import { event } from "./registry.ts";

export const JobType = enumeration("JobType", [
  "commit",
  "stream",
  "mirror",
  "backup",
  "create",
  "amend",
  "snapshot-load",
  "snapshot-save",
  "snapshot-delete",
]);
export type JobTypeValue = Infer<typeof JobType>;

export const JobStatus = enumeration("JobStatus", [
  "undefined",
  "created",
  "running",
  "paused",
  "ready",
  "standby",
  "waiting",
  "pending",
  "aborting",
  "concluded",
  "null",
]);
export type JobStatusValue = Infer<typeof JobStatus>;

/** A job, as query-jobs shows it. Progress is in units of the job's own. */
export const JobInfo = struct("JobInfo", {
  id: str,
  type: JobType,
  status: JobStatus,
  "current-progress": int,
  "total-progress": int,
  error: opt(str),
});
export type JobInfoValue = Infer<typeof JobInfo>;

/** A new file. Sizes in bytes. */
export const BlockdevCreateOptionsFile = struct("BlockdevCreateOptionsFile", {
  filename: str,
  size,
  preallocation: opt(PreallocMode),
  nocow: opt(bool),
  "extent-size-hint": opt(exactSize),
});
export type BlockdevCreateOptionsFileValue = Infer<typeof BlockdevCreateOptionsFile>;

/** What blockdev-create makes: drivers without a branch of their own cannot create. */
export const BlockdevCreateOptions = union(
  "BlockdevCreateOptions",
  { driver: BlockdevDriver },
  "driver",
  { file: BlockdevCreateOptionsFile, qcow2: BlockdevCreateOptionsQcow2 },
);
export type BlockdevCreateOptionsValue = Infer<typeof BlockdevCreateOptions>;

/** What x-blockdev-amend changes. */
export const BlockdevAmendOptions = union(
  "BlockdevAmendOptions",
  { driver: BlockdevDriver },
  "driver",
  { qcow2: BlockdevAmendOptionsQcow2 },
);
export type BlockdevAmendOptionsValue = Infer<typeof BlockdevAmendOptions>;

const id = { id: str };

/** Commands on jobs, and blockdev-create, which is one. */
export const jobCommandTable = {
  "blockdev-create": command(
    struct("q_obj_blockdev-create-arg", { "job-id": str, options: BlockdevCreateOptions }),
    empty,
    {
      doc:
        "Starts a job that creates an image. It is never dismissed by itself, and what went wrong is in its `error`.",
      errors: [
        "`Driver does not support blockdev-create`",
        "`Invalid job ID 'J'`",
        "`Job ID 'J' already in use`",
        "in the job: `Could not create 'FILE': ...`, `Could not resize file: ...`, `Unsupported preallocation mode: metadata`, `Extent size hint is too large`, `Failed to get \"resize\" lock`",
      ],
    },
  ),
  "x-blockdev-amend": command(
    struct("q_obj_x-blockdev-amend-arg", {
      "job-id": str,
      "node-name": str,
      options: BlockdevAmendOptions,
      force: opt(bool),
    }),
    empty,
    {
      features: ["unstable"],
      doc: "Starts a job that changes the key slots of an encrypted image.",
      errors: [
        "`Cannot find device='N' nor node-name='N'`",
        "`Block driver 'D' not found or not supported`",
        "`x-blockdev-amend doesn't support changing the block driver`",
        "`Driver does not support x-blockdev-amend`",
        "in the job: `Amend options: ...`",
      ],
    },
  ),
  "query-jobs": command(empty, array(JobInfo), {
    doc: "All jobs, newest first.",
  }),
  "job-pause": command(struct("q_obj_job-pause-arg", id), empty, {
    doc: "Holds a job up.",
    errors: [
      "`Job not found`",
      "`Job 'J' in state 'S' cannot accept command verb 'V'`",
      "`Job is already paused`",
    ],
  }),
  "job-resume": command(struct("q_obj_job-resume-arg", id), empty, {
    doc: "Lets a job go on that job-pause holds up.",
    errors: ["`Job not found`", "`Can't resume a job that was not paused`"],
  }),
  "job-cancel": command(struct("q_obj_job-cancel-arg", id), empty, {
    doc: "Asks a job to give up as soon as it can.",
    errors: ["`Job not found`", "`Job 'J' in state 'S' cannot accept command verb 'V'`"],
  }),
  "job-complete": command(struct("q_obj_job-complete-arg", id), empty, {
    doc: "Asks a job that is ready to come to its end.",
    errors: [
      "`Job not found`",
      "`Job 'J' in state 'S' cannot accept command verb 'V'`",
      "`The active block job 'J' cannot be completed`",
    ],
  }),
  "job-finalize": command(struct("q_obj_job-finalize-arg", id), empty, {
    doc: "Lets a pending job take effect.",
    errors: ["`Job not found`", "`Job 'J' in state 'S' cannot accept command verb 'V'`"],
  }),
  "job-dismiss": command(struct("q_obj_job-dismiss-arg", id), empty, {
    doc: "Forgets a job that has concluded.",
    errors: ["`Job not found`", "`Job 'J' in state 'S' cannot accept command verb 'V'`"],
  }),
} as const;

/** Events of jobs. */
export const jobEventTable = {
  JOB_STATUS_CHANGE: event(
    struct("q_obj_JOB_STATUS_CHANGE-arg", { id: str, status: JobStatus }),
    { doc: "A job has come to another state." },
  ),
} as const;
