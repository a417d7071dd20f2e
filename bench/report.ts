/** From samples to verdicts to Markdown. Pure. */
import type { Sample } from "./clients.ts";
import type { Row } from "./rows.ts";
import { median, medianError } from "./stats.ts";

/** Names of the columns that targets refer to. */
const SUBJECT = "qsd";
const ORIGINAL = "qemu-storage-daemon";
const NBDKIT = "nbdkit";

/** Medians of one server in one row. */
export interface Cell {
  readonly rate: number;
  /** Server CPU time per request or MiB, microseconds. */
  readonly cpuUs: number;
  /** Standard error of the rate, as a part of it. */
  readonly error: number;
  readonly slices: number;
  readonly p50: number | null;
  readonly p99: number | null;
}

/** A row that was run. */
export interface RowResult {
  readonly id: string;
  readonly title: string;
  readonly unit: string;
  readonly cells: Record<string, Cell>;
  readonly checks: Check[];
}

/** A target, and what was reached. */
export interface Check {
  readonly what: string;
  /** As measured; NaN when it could not be. */
  readonly value: number;
  readonly target: string;
  readonly met: boolean;
}

/** Medians of the slices of a server. */
export function cell(samples: readonly Sample[]): Cell {
  const rates = samples.map((sample) => sample.rate);
  const optional = (name: "p50" | "p99") => {
    const values = samples.flatMap((sample) => sample[name] ?? []);
    return values.length > 0 ? median(values) : null;
  };
  return {
    rate: median(rates),
    cpuUs: median(samples.map((sample) => sample.cpuUs)),
    error: medianError(rates),
    slices: rates.length,
    p50: optional("p50"),
    p99: optional("p99"),
  };
}

/** A value that must be at least, or at most, a limit. */
export function check(
  what: string,
  value: number,
  sign: ">=" | "<=",
  limit: number,
  unit = "",
): Check {
  return {
    what,
    value,
    target: `${sign === ">=" ? "at least" : "at most"} ${limit}${unit}`,
    met: sign === ">=" ? value >= limit : value <= limit,
  };
}

/** Compares a row's cells with its targets. Targets whose servers did not run are left out. */
export function judge(row: Pick<Row, "targets">, cells: Record<string, Cell>): Check[] {
  const { targets } = row;
  const checks: Check[] = [];
  const qsd = cells[SUBJECT];
  const original = cells[ORIGINAL];
  const nbdkit = cells[NBDKIT];
  if (qsd && original && targets.original !== undefined) {
    checks.push(check("rate / original", qsd.rate / original.rate, ">=", targets.original));
  }
  if (qsd && nbdkit && targets.nbdkit !== undefined) {
    checks.push(check("rate / nbdkit", qsd.rate / nbdkit.rate, ">=", targets.nbdkit));
  }
  if (qsd && original && targets.cpu !== undefined) {
    checks.push(check("CPU / original", qsd.cpuUs / original.cpuUs, "<=", targets.cpu));
  }
  return checks;
}

/** A number with three digits that matter, thousands grouped by spaces. */
export function digits(value: number): string {
  if (!Number.isFinite(value)) return "-";
  if (Math.abs(value) >= 1000) {
    return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, " ");
  }
  return String(Number(value.toPrecision(3)));
}

function verdict(checks: readonly Check[]): string {
  if (checks.length === 0) return "";
  return checks.map((one) =>
    `${one.met ? "met" : "**missed**"}: ${one.what} ${digits(one.value)} (${one.target})`
  ).join("; ");
}

function table(head: string[], lines: string[][]): string {
  const rule = head.map((_, i) => i === 0 ? "---" : "---:");
  return [head, rule, ...lines].map((line) => `| ${line.join(" | ")} |`).join("\n");
}

/** The three tables of the comparison: rates, CPU time, latency at one in flight. */
export function tables(results: readonly RowResult[], names: readonly string[]): string {
  const ratio = (a: number | undefined, b: number | undefined) =>
    a === undefined || b === undefined ? "-" : digits(a / b);
  const rates = results.map(({ title, unit, cells, checks }) => [
    unit === "MiB/s" ? `${title}, MiB/s` : title,
    ...names.map((name) => {
      const one = cells[name];
      return one ? `${digits(one.rate)} ±${Math.round(one.error * 100)} %` : "-";
    }),
    ratio(cells[SUBJECT]?.rate, cells[ORIGINAL]?.rate),
    ratio(cells[SUBJECT]?.rate, cells[NBDKIT]?.rate),
    String(cells[SUBJECT]?.slices ?? "-"),
    verdict(checks.filter((one) => one.what.startsWith("rate"))),
  ]);
  const cpu = results.map(({ title, cells, checks }) => [
    title,
    ...names.map((name) => digits(cells[name]?.cpuUs ?? NaN)),
    ratio(cells[SUBJECT]?.cpuUs, cells[ORIGINAL]?.cpuUs),
    ratio(cells[SUBJECT]?.cpuUs, cells[NBDKIT]?.cpuUs),
    verdict(checks.filter((one) => one.what.startsWith("CPU"))),
  ]);
  const timed = results.filter((one) => Object.values(one.cells).some((c) => c.p50 !== null));
  const latency = timed.map(({ title, cells }) => [
    title,
    ...names.map((name) =>
      `${digits(cells[name]?.p50 ?? NaN)} / ${digits(cells[name]?.p99 ?? NaN)}`
    ),
  ]);
  const sections = [
    "### Requests a second (MiB/s for nbdcopy); medians, ± standard error\n",
    table(["", ...names, "/ original", "/ nbdkit", "slices", "target"], rates),
    "\n### Server CPU time per request (per MiB for nbdcopy), microseconds\n",
    table(["", ...names, "/ original", "/ nbdkit", "target"], cpu),
  ];
  if (latency.length > 0) {
    sections.push(
      "\n### Latency, microseconds, median / 99th percentile\n",
      table(["", ...names], latency),
    );
  }
  return sections.join("\n");
}

/** One line of "start, memory, idling, control": figures by server, and verdicts on qsd's. */
export interface Single {
  readonly title: string;
  readonly values: Record<string, string>;
  readonly checks: Check[];
}

/** The table of single figures. */
export function singlesTable(singles: readonly Single[], names: readonly string[]): string {
  return table(
    ["", ...names, "target"],
    singles.map(({ title, values, checks }) => [
      title,
      ...names.map((name) => values[name] ?? "-"),
      verdict(checks),
    ]),
  );
}
