/** The command x-qsd-status. */
import type { BlockGraph } from "../block/mod.ts";
import { addressText, type ExportRegistry } from "../export/mod.ts";
import type { NbdControl } from "../nbd/mod.ts";
import type { Handlers, Infer } from "../qmp/schema/core.ts";
import type { statusCommands, XQsdCounters, XQsdStatusValue } from "../qmp/schema/status.ts";
import type { Context } from "../sys/mod.ts";
import type { IoThread, ThreadHub } from "../thread/mod.ts";
import { VERSION } from "./version.ts";

/** What is looked at. */
export interface StatusParts {
  readonly context: Context;
  readonly graph: BlockGraph;
  readonly exports: ExportRegistry;
  readonly nbd: NbdControl;
  readonly threads: ThreadHub;
}

/** Handlers of statusCommands. The uptime counts from this call. */
export function statusHandlers(parts: StatusParts): Handlers<typeof statusCommands> {
  const { sys } = parts.context;
  const started = sys.monotonicNs();
  return {
    "x-qsd-status": async () => {
      const { graph, nbd, threads } = parts;
      await Promise.all([
        graph.places.refresh(),
        nbd.server?.refresh(),
        ...parts.exports.list().map(({ instance }) => instance.refresh?.()),
      ]);
      const iothreads = await Promise.all(threads.list().map(iothread));
      const now = sys.monotonicNs();
      return {
        version: VERSION,
        pid: sys.pid,
        uptime: (now - started) / 1e9,
        nodes: nodes(parts.graph),
        exports: exportsOf(parts),
        ...serverOf(parts.nbd),
        requests: [...graph.requests(), ...graph.places.requests].map((
          { op, node, offset, length, startedNs },
        ) => ({
          op,
          "node-name": node,
          offset,
          length,
          age: (now - startedNs) / 1e9,
        })),
        iothreads: iothreads.flatMap((one) => one ?? []),
      };
    },
  };
}

async function iothread(
  thread: IoThread,
): Promise<XQsdStatusValue["iothreads"][number] | undefined> {
  try {
    return { id: thread.name, ...thread.properties, ...await thread.counters() };
  } catch (error) {
    if (thread.failed) return undefined;
    throw error;
  }
}

function nodes(graph: BlockGraph): XQsdStatusValue["nodes"] {
  return graph.nodes().toReversed().map((node) => ({
    "node-name": node.name,
    driver: node.driver,
    ...filenameOf(node.options),
    size: node.size,
    "read-only": node.readOnly,
    direct: node.common.direct,
    "no-flush": node.common.noFlush,
    "monitor-owned": node.monitorOwned,
    ...(node.place === undefined ? {} : { iothread: node.place.name }),
    children: node.children.map((edge) => ({ name: edge.name, "node-name": edge.node.name })),
    bitmaps: (node.bitmaps?.all() ?? []).map((bitmap) => ({
      name: bitmap.name,
      count: bitmap.bits.count * bitmap.granularity,
      recording: bitmap.recording,
      persistent: bitmap.persistent,
      inconsistent: bitmap.inconsistent,
    })),
  }));
}

function filenameOf(options: Readonly<Record<string, unknown>>): { filename?: string } {
  const { filename } = options;
  return typeof filename === "string" ? { filename } : {};
}

type Numbers = Readonly<Record<string, unknown>>;

function countersFrom(numbers: Numbers): Infer<typeof XQsdCounters> {
  const of = (name: string) => typeof numbers[name] === "number" ? numbers[name] : 0;
  return {
    requests: of("requests"),
    errors: of("errors"),
    "bytes-read": of("bytesRead"),
    "bytes-written": of("bytesWritten"),
    "in-flight": of("inFlight"),
  };
}

function exportsOf({ exports, nbd }: StatusParts): XQsdStatusValue["exports"] {
  const served = nbd.server === undefined ? [] : [...nbd.server.list()];
  return exports.list().map(({ id, type, backend, instance, shuttingDown, iothread }) => {
    const name = served.find((one) => one.backend === backend)?.name;
    const numbers = instance.statistics?.();
    return {
      id,
      type,
      "node-name": backend.node.name,
      ...(name === undefined ? {} : { name }),
      ...(instance.address === undefined ? {} : { address: instance.address }),
      "in-use": instance.inUse,
      "shutting-down": shuttingDown,
      ...(iothread === undefined ? {} : { iothread: iothread.name }),
      ...(numbers === undefined ? {} : { counters: countersFrom(numbers) }),
    };
  });
}

function serverOf({ server }: NbdControl): Pick<XQsdStatusValue, "nbd-server"> {
  if (server === undefined) return {};
  const addresses = server.localAddresses().flatMap((address) => addressText(address) ?? []);
  const clients = server.clients().map(({ peer, export: name, counters, unsent }) => ({
    peer,
    ...(name === undefined ? {} : { export: name }),
    ...(counters === undefined ? {} : { counters: countersFrom({ ...counters }) }),
    unsent: unsent.bytes,
    stalled: unsent.stalledNs / 1e9,
  }));
  return { "nbd-server": { addresses, clients } };
}
