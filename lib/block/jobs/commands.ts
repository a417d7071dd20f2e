/** QMP commands on jobs, and blockdev-create. */
import { CommandError, type MaybePromise } from "../../base/mod.ts";
import type { Handlers } from "../../qmp/schema/core.ts";
import type {
  BlockdevAmendOptionsValue,
  BlockdevCreateOptionsValue,
  jobCommandTable,
} from "../../qmp/schema/job.ts";
import type { Context } from "../../sys/mod.ts";
import { creationOf } from "../creation.ts";
import type { BlockGraph } from "../graph.ts";
import type { DriverRegistry } from "../graph_types.ts";
import type { Job, JobControl } from "./job.ts";
import type { JobRegistry } from "./registry.ts";

/** What the handlers act on. */
export interface JobParts {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly graph: BlockGraph;
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
    "x-blockdev-amend": (args) => {
      amendImage(parts, args);
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

/** Starts a job that takes its one step and is done, whether or not that worked, as the original has it. */
function startJob(
  { jobs }: JobParts,
  type: "create" | "amend",
  id: string,
  step: (control: JobControl) => MaybePromise<void>,
): void {
  const job = jobs.create({ id, autoDismiss: false }, {
    type,
    async run(control) {
      try {
        await step(control);
      } finally {
        control.progress(1, 1);
      }
    },
  });
  job.start();
}

function amendImage(
  parts: JobParts,
  args: {
    "job-id": string;
    "node-name": string;
    options: BlockdevAmendOptionsValue;
    force?: boolean;
  },
): void {
  const { options } = args;
  const node = parts.graph.lookup(undefined, args["node-name"]);
  if (node.driver !== options.driver) {
    throw new CommandError("x-blockdev-amend doesn't support changing the block driver");
  }
  const amend = async () => {
    const { instance } = node;
    if (instance.amend === undefined) {
      throw new CommandError("Driver does not support x-blockdev-amend");
    }
    await instance.amend(options, args.force === true);
  };
  if (node.place === undefined) {
    if (node.instance.amend === undefined) {
      throw new CommandError("Driver does not support x-blockdev-amend");
    }
    startJob(parts, "amend", args["job-id"], amend);
  } else {
    // The driver is in an IOThread: the node comes home for it.
    startJob(parts, "amend", args["job-id"], () => parts.graph.drained(node, amend));
  }
}

function createImage(parts: JobParts, id: string, options: BlockdevCreateOptionsValue): void {
  const { context, drivers, graph } = parts;
  const create = drivers.find(options.driver)?.create;
  if (create === undefined) throw new CommandError("Driver does not support blockdev-create");
  startJob(parts, "create", id, (control) => {
    // It is not held up in between: what it locks and writes to would be held up with it.
    const goOn = () => {
      if (control.cancelled) throw new CommandError("Operation canceled");
    };
    return create(creationOf(context, graph, goOn), options);
  });
}
