/** What `qsd status` shows, as lines of text. Pure: a model in, lines out. */
import { clip, columns, harmless, humanSize, humanTime, pad, table } from "./text.ts";

/** A node of the graph. */
export interface NodeStatus {
  readonly name: string;
  readonly driver: string;
  /** Bytes. */
  readonly size: number;
  /** As "read-only", "cache.direct". */
  readonly marks: readonly string[];
  readonly children: readonly { readonly role: string; readonly node: string }[];
  /** The file's, of a node that stands on no other. */
  readonly filename: string | undefined;
  readonly bitmaps: readonly BitmapStatus[];
}

/** A dirty bitmap. */
export interface BitmapStatus {
  readonly name: string;
  /** Bytes that it says are dirty. */
  readonly count: number;
  /** As "recording", "persistent". */
  readonly marks: readonly string[];
}

/** What clients did; bytes are payload. */
export interface CounterStatus {
  readonly requests: number;
  readonly errors: number;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly inFlight: number;
}

/** An export. */
export interface ExportStatus {
  readonly id: string;
  readonly type: string;
  readonly node: string;
  readonly name: string | undefined;
  readonly shuttingDown: boolean;
  /** Where it listens, if it has an address of its own. */
  readonly address: string | undefined;
  /** Whether somebody uses it; undefined if the daemon does not tell. */
  readonly inUse: boolean | undefined;
  readonly iothread: string | undefined;
  readonly counters: CounterStatus | undefined;
}

/** An IOThread. */
export interface IothreadStatus {
  readonly id: string;
  /** Longest time for which it polls before it sleeps, in seconds; 0: it does not. */
  readonly pollMax: number;
  /** Times that its loop went round, and that it slept, since it began. */
  readonly turns: number;
  readonly parks: number;
}

/** A client of the NBD server. */
export interface ClientStatus {
  readonly peer: string;
  readonly export: string | undefined;
  readonly counters: CounterStatus | undefined;
  /** Bytes of replies that it has not taken, and for how many seconds it has taken none. */
  readonly unsent: number;
  readonly stalled: number;
}

/** A job of query-jobs. */
export interface JobStatus {
  readonly id: string;
  readonly type: string;
  readonly status: string;
  readonly current: number;
  readonly total: number;
  readonly error: string | undefined;
}

/** A request that has not completed; offset and length in bytes, age in seconds. */
export interface RequestStatus {
  readonly op: string;
  readonly node: string;
  readonly offset: number;
  readonly length: number;
  readonly age: number;
}

/** Everything that is shown. Parts that the daemon cannot tell are undefined. */
export interface StatusModel {
  /** As "qsd 0.1.0, pid 12, up 3 min 02 s". */
  readonly title: string;
  readonly nodes: readonly NodeStatus[];
  readonly exports: readonly ExportStatus[];
  readonly addresses: readonly string[];
  readonly clients: readonly ClientStatus[] | undefined;
  readonly iothreads: readonly IothreadStatus[];
  readonly jobs: readonly JobStatus[] | undefined;
  readonly requests: readonly RequestStatus[] | undefined;
}

/** Requests listed; the others are counted. */
const MAX_REQUESTS = 10;
/** Columns of a progress bar. */
const BAR = 20;
/** A client that has taken nothing for so long is told of, in seconds. */
const STALLED = 1;

/** The lines, none wider than `width` columns, without control characters. */
export function statusLines(model: StatusModel, width: number): string[] {
  const sections = [
    [model.title],
    ["Nodes", ...indent(nodeLines(model.nodes))],
    ["Exports", ...indent(exportLines(model))],
    ...(model.iothreads.length === 0
      ? []
      : [["IOThreads", ...indent(table(model.iothreads.map(iothreadRow)))]]),
    ...(model.jobs === undefined || model.jobs.length === 0
      ? []
      : [["Jobs", ...indent(table(model.jobs.map(jobRow)))]]),
    ...(model.requests === undefined || model.requests.length === 0
      ? []
      : [["Requests in flight", ...indent(requestLines(model.requests))]]),
  ];
  return sections.flatMap((lines, i) => i === 0 ? lines : ["", ...lines])
    .map((line) => clip(harmless(line), width));
}

const indent = (lines: readonly string[]) =>
  lines.length === 0 ? ["  none"] : lines.map((line) => `  ${line}`);

/** Each node that no other holds, with what it stands on below it. */
function nodeLines(nodes: readonly NodeStatus[]): string[] {
  const byName = new Map(nodes.map((node) => [node.name, node]));
  const held = new Set(nodes.flatMap((node) => node.children.map((child) => child.node)));
  const rows: string[][] = [];
  const visit = (node: NodeStatus, branch: string, below: string, path: readonly string[]) => {
    const { driver, size, marks, filename } = node;
    const row = [branch + node.name, driver, humanSize(size), marks.join(", ")];
    rows.push(filename === undefined ? row : [...row, filename]);
    node.bitmaps.forEach((bitmap, i) => {
      const last = i === node.bitmaps.length - 1 && node.children.length === 0;
      const dirty = ["dirty", ...bitmap.marks].join(", ");
      const line = `${below}${last ? "└" : "├"}─ ${bitmap.name}`;
      rows.push([line, "bitmap", humanSize(bitmap.count), dirty]);
    });
    node.children.forEach((child, i) => {
      const last = i === node.children.length - 1;
      const line = `${below}${last ? "└" : "├"}─ ${child.role}: `;
      const next = byName.get(child.node);
      if (next === undefined || path.includes(child.node)) rows.push([line + child.node]);
      else visit(next, line, `${below}${last ? "   " : "│  "}`, [...path, node.name]);
    });
  };
  for (const node of nodes) if (!held.has(node.name)) visit(node, "", "", []);
  return table(rows);
}

function counterText(counters: CounterStatus | undefined): string {
  if (counters === undefined) return "";
  const { requests, errors, bytesRead, bytesWritten, inFlight } = counters;
  const parts = [`${requests} requests`, `${humanSize(bytesRead)} read`];
  parts.push(`${humanSize(bytesWritten)} written`);
  if (errors > 0) parts.push(`${errors} errors`);
  if (inFlight > 0) parts.push(`${inFlight} in flight`);
  return parts.join(", ");
}

/** What waits for a client; that it has just not taken all yet is nothing to be told. */
function unsentText({ unsent, stalled }: ClientStatus): string {
  if (unsent === 0 || stalled < STALLED) return "";
  return `, takes nothing for ${humanTime(stalled)} (${humanSize(unsent)} waiting)`;
}

function exportLines({ exports, clients, addresses }: StatusModel): string[] {
  const rows: string[][] = [];
  for (const address of addresses) rows.push([`NBD server on ${address}`]);
  for (const one of exports) {
    const name = one.name !== undefined && one.name !== one.id ? ` as "${one.name}"` : "";
    const state = one.shuttingDown ? "shutting down; " : "";
    const thread = one.iothread === undefined ? "" : `, iothread ${one.iothread}`;
    rows.push([
      one.id,
      `${one.type}${name}`,
      `node ${one.node}${thread}`,
      state + counterText(one.counters),
    ]);
    if (one.address !== undefined) {
      const front = one.inUse === true ? "a front-end is connected" : "no front-end";
      rows.push([`└─ ${one.address}: ${front}`]);
    }
    const mine = clients?.filter((client) => one.type === "nbd" && client.export === one.name) ??
      [];
    for (const client of mine) {
      rows.push([`└─ ${client.peer}`, "", "", counterText(client.counters) + unsentText(client)]);
    }
  }
  for (const client of clients ?? []) {
    if (client.export === undefined) rows.push([`${client.peer}: negotiating`]);
  }
  return tableWithLines(rows);
}

/** A table in which rows of one cell do not count for the columns' widths. */
function tableWithLines(rows: readonly (readonly string[])[]): string[] {
  const aligned = table(rows.filter((row) => row.length > 1));
  return rows.map((row) => row.length > 1 ? aligned.shift()! : row[0]!);
}

/** `[########------------]  40 %`; empty where the total is not known. */
export function progressBar(current: number, total: number): string {
  if (total <= 0) return "";
  const part = Math.min(1, Math.max(0, current / total));
  const filled = Math.floor(part * BAR);
  const percent = String(Math.floor(part * 100)).padStart(3);
  return `[${"#".repeat(filled)}${"-".repeat(BAR - filled)}] ${percent} %`;
}

function iothreadRow({ id, pollMax, turns, parks }: IothreadStatus): string[] {
  const polls = pollMax > 0 ? `polls up to ${Math.round(pollMax * 1e6)} µs` : "does not poll";
  return [id, polls, `${turns} turns`, `slept ${parks} times`];
}

function jobRow({ id, type, status, current, total, error }: JobStatus): string[] {
  return [id, type, status, progressBar(current, total), error ?? ""];
}

function requestLines(requests: readonly RequestStatus[]): string[] {
  const rows = requests.slice(0, MAX_REQUESTS).map(({ op, node, offset, length, age }) => [
    op,
    `node ${node}`,
    `${humanSize(length)} at ${offset}`,
    `for ${humanTime(age)}`,
  ]);
  const more = requests.length - rows.length;
  return [...table(rows), ...(more > 0 ? [`and ${more} more`] : [])];
}

/** The part of `lines` that fits into `rows`, from line `top` on; a last line says where one is. */
export function page(lines: readonly string[], top: number, rows: number, width: number): string[] {
  if (lines.length <= rows - 1) return [...lines];
  const shown = lines.slice(top, top + rows - 1);
  const note = `lines ${top + 1} to ${top + shown.length} of ${lines.length}; arrows scroll`;
  return [...shown, columns(note) <= width ? pad(note, 0) : clip(note, width)];
}
