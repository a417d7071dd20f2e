/** Asks a daemon for its status: x-qsd-status where there is such a command, else what QEMU's commands tell. */
import { isJsonObject, type JsonObject, type JsonValue } from "../qmp/json/mod.ts";
import { type QmpConnection, QmpError } from "./connection.ts";
import type { CounterStatus, NodeStatus, StatusModel } from "./status_view.ts";
import { humanTime } from "./text.ts";

const list = (value: JsonValue | undefined): JsonObject[] =>
  Array.isArray(value) ? value.filter(isJsonObject) : [];
const text = (value: JsonValue | undefined): string => typeof value === "string" ? value : "";
const maybe = (value: JsonValue | undefined) => typeof value === "string" ? value : undefined;
const count = (value: JsonValue | undefined): number =>
  typeof value === "number" || typeof value === "bigint" ? Number(value) : 0;
const real = (value: JsonValue | undefined): number =>
  isJsonObject(value) ? 0 : Number((value as { value?: number } | undefined)?.value ?? value ?? 0);

/** A status as shown, and as the daemon told it. */
export interface Status {
  readonly model: StatusModel;
  readonly json: JsonObject;
}

/** Runs a command; undefined where the daemon does not have it. */
async function ask(connection: QmpConnection, command: string): Promise<JsonValue | undefined> {
  try {
    return await connection.execute(command);
  } catch (error) {
    if (error instanceof QmpError && error.errorClass === "CommandNotFound") return undefined;
    throw error;
  }
}

/** The status now. Throws CommandError. */
export async function askStatus(connection: QmpConnection): Promise<Status> {
  const own = await ask(connection, "x-qsd-status");
  const jobs = await ask(connection, "query-jobs");
  const jobList = jobs === undefined ? undefined : list(jobs).map((job) => ({
    id: text(job["id"]),
    type: text(job["type"]),
    status: text(job["status"]),
    current: count(job["current-progress"]),
    total: count(job["total-progress"]),
    error: maybe(job["error"]),
  }));
  const withJobs = jobs === undefined ? {} : { jobs };
  if (isJsonObject(own)) {
    return { model: { ...ownModel(own), jobs: jobList }, json: { ...own, ...withJobs } };
  }
  const nodes = await connection.execute("query-named-block-nodes");
  const exports = await connection.execute("query-block-exports");
  const graph = await ask(connection, "x-debug-query-block-graph") ?? {};
  const model: StatusModel = {
    title: titleOf(connection),
    nodes: foreignNodes(list(nodes), isJsonObject(graph) ? graph : {}),
    exports: list(exports).map(exportOf).reverse(),
    addresses: [],
    clients: undefined,
    iothreads: [],
    jobs: jobList,
    requests: undefined,
  };
  return { model, json: { nodes, exports, ...withJobs } };
}

function titleOf(connection: QmpConnection): string {
  const version = connection.greeting?.["version"];
  const qemu = isJsonObject(version) ? version["qemu"] : undefined;
  if (!isJsonObject(qemu)) return "QMP server";
  return `QEMU ${count(qemu["major"])}.${count(qemu["minor"])}.${count(qemu["micro"])}`;
}

function countersOf(value: JsonValue | undefined): CounterStatus | undefined {
  if (!isJsonObject(value)) return undefined;
  return {
    requests: count(value["requests"]),
    errors: count(value["errors"]),
    bytesRead: count(value["bytes-read"]),
    bytesWritten: count(value["bytes-written"]),
    inFlight: count(value["in-flight"]),
  };
}

const exportOf = (one: JsonObject) => ({
  id: text(one["id"]),
  type: text(one["type"]),
  node: text(one["node-name"]),
  name: maybe(one["name"]),
  shuttingDown: one["shutting-down"] === true,
  address: maybe(one["address"]),
  inUse: typeof one["in-use"] === "boolean" ? one["in-use"] : undefined,
  iothread: maybe(one["iothread"]),
  counters: countersOf(one["counters"]),
});

function ownModel(own: JsonObject): Omit<StatusModel, "jobs"> {
  const server = own["nbd-server"];
  return {
    title: `qsd ${text(own["version"])}, pid ${count(own["pid"])}, up ${
      humanTime(real(own["uptime"]))
    }`,
    nodes: list(own["nodes"]).map((node) => ({
      name: text(node["node-name"]),
      driver: text(node["driver"]),
      size: count(node["size"]),
      marks: [
        ...marks(node["read-only"], node["direct"], node["no-flush"]),
        ...(text(node["iothread"]) === "" ? [] : [`iothread ${text(node["iothread"])}`]),
      ],
      children: list(node["children"]).map((child) => ({
        role: text(child["name"]),
        node: text(child["node-name"]),
      })),
      filename: maybe(node["filename"]),
      bitmaps: bitmapsOf(node["bitmaps"]),
    })),
    exports: list(own["exports"]).map(exportOf),
    addresses: isJsonObject(server) && Array.isArray(server["addresses"])
      ? server["addresses"].map(text)
      : [],
    clients: isJsonObject(server)
      ? list(server["clients"]).map((client) => ({
        peer: text(client["peer"]),
        export: maybe(client["export"]),
        counters: countersOf(client["counters"]),
        unsent: count(client["unsent"]),
        stalled: real(client["stalled"]),
      }))
      : [],
    iothreads: list(own["iothreads"]).map((thread) => ({
      id: text(thread["id"]),
      pollMax: count(thread["poll-max-ns"]) / 1e9,
      turns: count(thread["turns"]),
      parks: count(thread["parks"]),
    })),
    requests: list(own["requests"]).map((request) => ({
      op: text(request["op"]),
      node: text(request["node-name"]),
      offset: count(request["offset"]),
      length: count(request["length"]),
      age: real(request["age"]),
    })),
  };
}

const bitmapsOf = (bitmaps: JsonValue | undefined) =>
  list(bitmaps).map((bitmap) => ({
    name: text(bitmap["name"]),
    count: count(bitmap["count"]),
    marks: ["recording", "persistent", "busy", "inconsistent"].filter((mark) =>
      bitmap[mark] === true
    ),
  }));

function marks(
  readOnly: JsonValue | undefined,
  direct: JsonValue | undefined,
  noFlush: JsonValue | undefined,
): string[] {
  return [
    readOnly === true ? "read-only" : "writable",
    ...(direct === true ? ["cache.direct"] : []),
    ...(noFlush === true ? ["cache.no-flush"] : []),
  ];
}

/** Nodes of a daemon without x-qsd-status: the edges come from its debugging command. */
function foreignNodes(nodes: readonly JsonObject[], graph: JsonObject): NodeStatus[] {
  const names = new Map(list(graph["nodes"]).map((one) => [count(one["id"]), text(one["name"])]));
  const edges = list(graph["edges"]).map((edge) => ({
    parent: names.get(count(edge["parent"])) ?? "",
    role: text(edge["name"]),
    node: names.get(count(edge["child"])) ?? "",
  }));
  return nodes.toReversed().map((node) => {
    const name = text(node["node-name"]);
    const image = node["image"];
    const cache = node["cache"];
    const how = isJsonObject(cache) ? cache : {};
    return {
      name,
      driver: text(node["drv"]),
      size: isJsonObject(image) ? count(image["virtual-size"]) : 0,
      marks: marks(node["ro"], how["direct"], how["no-flush"]),
      children: edges.filter((edge) => edge.parent === name).toReversed(),
      filename: edges.some((edge) => edge.parent === name) ? undefined : maybe(node["file"]),
      bitmaps: bitmapsOf(node["dirty-bitmaps"]),
    };
  });
}
