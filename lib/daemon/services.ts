/** What the daemon is made of, and how it comes to its end. Everything hangs off one Services. */
import { drivers } from "../block/drivers/mod.ts";
import { blockCommands, BlockGraph, driverRegistry } from "../block/mod.ts";
import { bitmapCommands } from "../block/bitmaps/mod.ts";
import { jobCommands, JobRegistry } from "../block/jobs/mod.ts";
import { chardevClasses, chardevHandlers, ChardevRegistry } from "../chardev/mod.ts";
import { exportHandlers, ExportRegistry } from "../export/mod.ts";
import { NbdControl, nbdHandlers } from "../nbd/mod.ts";
import { VhostUserBlk } from "../vhost/mod.ts";
import {
  CommandRegistry,
  compatibleVersion,
  controlHandlers,
  monitorClasses,
  monitorKind,
  type MonitorSurroundings,
  QmpServer,
} from "../qmp/mod.ts";
import { bitmapCommandTable } from "../qmp/schema/bitmaps.ts";
import { blockCommandTable } from "../qmp/schema/block.ts";
import { chardevCommands } from "../qmp/schema/chardev.ts";
import { controlCommands } from "../qmp/schema/control.ts";
import { exportCommandTable, nbdCommandTable } from "../qmp/schema/export.ts";
import { jobCommandTable } from "../qmp/schema/job.ts";
import { allEvents } from "../qmp/schema/mod.ts";
import { objectCommands } from "../qmp/schema/qom.ts";
import { traceCommands } from "../qmp/schema/trace.ts";
import { traceHandlers, type TraceRegistry } from "../observe/mod.ts";
import { objectHandlers, ObjectRegistry } from "../qom/mod.ts";
import { threadCommands } from "../qmp/schema/thread.ts";
import { statusCommands } from "../qmp/schema/status.ts";
import {
  iothreadKind,
  mainLoopKind,
  threadClasses,
  threadHandlers,
  ThreadHub,
} from "../thread/mod.ts";
import type { OwnedContext } from "../sys/mod.ts";
import { statusHandlers } from "./status.ts";
import { VERSION } from "./version.ts";

/** How long a client has for taking the last replies and events. */
const FAREWELL_NS = 1e9;

/** The parts of a daemon, connected. */
export class Services {
  readonly graph: BlockGraph;
  readonly jobs: JobRegistry;
  readonly exports: ExportRegistry;
  readonly nbd: NbdControl;
  readonly vhost: VhostUserBlk;
  readonly threads: ThreadHub;
  readonly commands: CommandRegistry = new CommandRegistry();
  readonly qmp: QmpServer;
  readonly chardevs: ChardevRegistry;
  readonly objects: ObjectRegistry;
  /** Resolves with the reason once somebody wants the daemon to stop. */
  readonly stopRequested: Promise<string>;
  /** What `stop` is doing, for people who wait for it. */
  stage = "";
  #requestStop: (reason: string) => void = () => {};

  /** `program`: what lines of log begin with. */
  constructor(readonly context: OwnedContext, tracing: TraceRegistry, program = "qsd") {
    this.stopRequested = new Promise((resolve) => this.#requestStop = resolve);
    const { commands } = this;
    const events = allEvents;
    const version = compatibleVersion(VERSION);
    this.qmp = new QmpServer({ context, commands, events, version });
    this.objects = new ObjectRegistry(context);
    this.chardevs = new ChardevRegistry(context);
    const registry = driverRegistry(drivers);
    this.graph = new BlockGraph({ context, drivers: registry, events: this.qmp });
    this.threads = new ThreadHub({
      context,
      graph: this.graph,
      program: new URL("./iothread_main.ts", import.meta.url),
      programName: program,
      tracing: () => tracing.state(),
      onFailure: (thread) => this.exports.threadFailed(thread),
    });
    tracing.onChange = () => this.threads.traceChanged();
    this.#connectObjects();
    this.jobs = new JobRegistry({ context, events: this.qmp });
    this.exports = new ExportRegistry({
      graph: this.graph,
      events: this.qmp,
      threads: this.threads,
    });
    const { graph, exports, jobs } = this;
    this.nbd = new NbdControl({ context, graph, exports });
    this.vhost = new VhostUserBlk(context);
    exports.register(this.vhost);
    const quit = () => this.quit();
    commands.register(controlCommands, controlHandlers({ commands, events, version, quit }));
    commands.register(objectCommands, objectHandlers(this.objects));
    commands.register(traceCommands, traceHandlers(tracing));
    const waiting = { stopped: this.stopRequested, info: (line: string) => context.log.info(line) };
    commands.register(chardevCommands, chardevHandlers(this.chardevs, waiting));
    commands.register(bitmapCommandTable, bitmapCommands(graph));
    commands.register(blockCommandTable, blockCommands(graph));
    commands.register(jobCommandTable, jobCommands({ context, drivers: registry, graph, jobs }));
    commands.register(exportCommandTable, exportHandlers(exports));
    commands.register(nbdCommandTable, nbdHandlers({ control: this.nbd, exports, graph }));
    commands.register(threadCommands, threadHandlers(graph, this.threads));
    commands.register(
      statusCommands,
      statusHandlers({ context, graph, exports, nbd: this.nbd, threads: this.threads }),
    );
  }

  /** What the object tree shows, and what can be made in it, beyond its own. */
  #connectObjects(): void {
    const { objects, chardevs, qmp: server } = this;
    objects.addBranch(chardevClasses, { name: "chardevs", list: () => chardevs.qomObjects() });
    const around: MonitorSurroundings = {
      server,
      attach: (id, user) => chardevs.attach(id, user),
      deleteBoth(id, chardev) {
        objects.delete(id);
        chardevs.remove(chardev);
      },
      later: (task) => this.context.loop.defer(task),
    };
    objects.register(monitorClasses, monitorKind(around));
    objects.register(threadClasses, iothreadKind(this.threads));
    objects.register([], mainLoopKind((properties) => this.context.configure(properties)));
  }

  /** Lets those who connect wait until `release`: they would see a daemon that is set up half-way. */
  hold(): void {
    this.qmp.hold();
    this.nbd.hold();
  }

  /** Serves everybody. */
  release(): void {
    this.nbd.release();
    this.qmp.release();
  }

  /** Asks for the stop; `stopRequested` resolves. Only the first reason counts. */
  requestStop(reason: string): void {
    this.#requestStop(reason);
  }

  /** The command `quit`: its reply comes after the events of the exports that it closes. */
  async quit(): Promise<void> {
    this.qmp.freeze();
    await this.#closeExports();
    await this.jobs.close();
    this.requestStop("quit");
  }

  async #closeExports(): Promise<void> {
    this.stage = "clients of exports to finish their requests";
    await this.exports.closeAll();
    this.stage = "the NBD server to stop";
    await this.nbd.close();
  }

  /**
   * The graceful stop: exports closed, jobs cancelled, requests drained, nodes flushed
   * and closed, monitors, then character devices and objects. Also right after a start that failed half-way.
   * `last` is called just before the event loop ends.
   */
  async stop(last: () => void = () => {}): Promise<void> {
    this.qmp.freeze();
    await this.#closeExports();
    // What a job has begun could take long, and be waited for: it is told first.
    this.stage = "jobs to give up";
    await this.jobs.close();
    this.stage = "requests to finish";
    (await this.graph.drain()).end();
    this.stage = "nodes to be flushed and closed";
    await this.graph.closeAll();
    this.stage = "monitors to send what is left";
    await this.qmp.flushed(FAREWELL_NS);
    this.qmp.close();
    this.stage = "character devices to close";
    this.chardevs.close();
    this.stage = "IOThreads to end";
    await this.threads.close();
    this.objects.close();
    this.stage = "the event loop to end";
    last();
    await this.context.close();
  }

  /**
   * For an end without a stop: removes the socket files, so that nobody takes the daemon for a running one. Parts
   * that may be in disorder are not touched.
   */
  abandon(): void {
    this.nbd.server?.stopListening();
    this.vhost.abandon();
    this.chardevs.close();
  }

  /** What it serves, in a few words. */
  summary(): string {
    const some = (count: number, what: string) => `${count} ${what}${count === 1 ? "" : "s"}`;
    return `Serving ${some(this.exports.list().length, "export")} of ${
      some(this.graph.nodes().length, "node")
    }`;
  }

  /** What a stop that does not end is waiting for, in words. */
  waitingFor(): string {
    const now = this.context.sys.monotonicNs();
    const requests = this.graph.requests().map(({ op, node, offset, length, startedNs }) =>
      `${op} of ${length} bytes at ${offset} on node '${node}' for ${
        ((now - startedNs) / 1e9).toFixed(1)
      } s`
    );
    const shown = requests.slice(0, 4).join("; ");
    return requests.length === 0
      ? this.stage
      : `${this.stage}; requests that have not completed: ${requests.length} (${shown})`;
  }
}
