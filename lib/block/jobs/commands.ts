/** QMP commands on jobs, and blockdev-create. */
import { CommandError } from "../../base/mod.ts";
import type { Handlers } from "../../qmp/schema/core.ts";
import type { BlockdevCreateOptionsValue, jobCommandTable } from "../../qmp/schema/job.ts";
import type { Context } from "../../sys/mod.ts";
import type { DriverRegistry } from "../graph_types.ts";
import type { Job } from "./job.ts";
import type { JobRegistry } from "./registry.ts";

/** What the handlers act on. */
export interface JobParts {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly jobs: JobRegistry;
}

/** The handlers of `jobCommandTable`. */
export function jobCommands(parts: JobParts): Handlers<typeof jobCommandTable> {
  const { jobs } = parts;
  const asking = (act: (job: Job) => void) => ({ id }: { id: string }) => {
    act(jobs.find(id));
    return {};
  };
  return {
    "blockdev-create": ({ "job-id": id, options }) => {
      createImage(parts, id, options);
      return {};
    },
    "query-jobs": () => jobs.list().map((job) => job.info()),
    "job-pause": asking((job) => job.pause()),
    "job-resume": asking((job) => job.resume()),
    "job-cancel": asking((job) => job.cancel()),
    "job-complete": asking((job) => job.complete()),
    "job-finalize": asking((job) => job.finalize()),
    "job-dismiss": asking((job) => job.dismiss()),
  };
}

function createImage(parts: JobParts, id: string, options: BlockdevCreateOptionsValue): void {
  const { context, drivers, jobs } = parts;
  const create = drivers.find(options.driver)?.create;
  if (create === undefined) throw new CommandError("Driver does not support blockdev-create");
  const job = jobs.create({ id, autoDismiss: false }, {
    type: "create",
    async run(control) {
      try {
        await create({ context }, options);
      } finally {
        // As the original has it: done is done, also when it failed.
        control.progress(1, 1);
      }
    },
  });
  job.start();
}
