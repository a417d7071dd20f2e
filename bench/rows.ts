/** The rows of the table, with the targets of the project: what is run, and how much better qsd shall be. */
import { fioSlice, Generator, nbdcopySlice, type Pattern, type Sample } from "./clients.ts";
import { type Kind, NBDKIT, ORIGINAL, QEMU_NBD, QSD, type Server } from "./servers.ts";

/** What qsd shall reach in a row. */
export interface Targets {
  /** Rate: at least so many times the original's. */
  readonly original?: number;
  /** Rate: at least so many times nbdkit's. */
  readonly nbdkit?: number;
  /** Server CPU time: at most this part of the original's. */
  readonly cpu?: number;
}

/** What a slice may use. */
export interface Tools {
  readonly generator: Generator;
  readonly seconds: number;
  readonly seed: number;
  readonly imageBytes: number;
  /** A file for nbdcopy to write to, and one that holds a copy of the image. */
  readonly scratch: string;
}

/** One row. */
export interface Row {
  readonly id: string;
  readonly title: string;
  readonly unit: "requests/s" | "MiB/s";
  /** Program that must be installed, if any. */
  readonly needs: string | null;
  readonly kinds: readonly Kind[];
  readonly targets: Targets;
  slice(server: Server, tools: Tools): Promise<Sample>;
}

const PAGE = 4096;
const THREE = [QSD, ORIGINAL, NBDKIT];
const FOUR = [QSD, ORIGINAL, NBDKIT, QEMU_NBD];

interface Case extends Pattern {
  readonly id: string;
  readonly title: string;
  readonly fio: Targets | null;
  /** A second row with fio's buffers on pages, as those of guests, kernels and O_DIRECT programs are. */
  readonly fioOnPages?: Targets;
  readonly light: Targets;
}

/** Targets that name no client hold for both. */
const CASES: readonly Case[] = [
  {
    id: "randread-4k-32",
    title: "4k random reads, 32 in flight",
    pattern: "randread",
    blockSize: 4096,
    depth: 32,
    fio: { original: 3.5, nbdkit: 1, cpu: 0.25 },
    light: { original: 5, nbdkit: 1, cpu: 0.25 },
  },
  {
    id: "randread-4k-1",
    title: "4k random reads, 1 in flight",
    pattern: "randread",
    blockSize: 4096,
    depth: 1,
    fio: { original: 1.4 },
    light: { original: 1.4 },
  },
  {
    id: "randrw-4k-32",
    title: "4k random 70/30, 32 in flight",
    pattern: "randrw",
    blockSize: 4096,
    depth: 32,
    fio: { original: 3 },
    light: { original: 3 },
  },
  {
    id: "randwrite-4k-32",
    title: "4k random writes, 32 in flight",
    pattern: "randwrite",
    blockSize: 4096,
    depth: 32,
    fio: { original: 1.5 },
    light: { original: 1.5 },
  },
  {
    id: "read-256k-8",
    title: "256k reads, 8 in flight",
    pattern: "read",
    blockSize: 256 * 1024,
    depth: 8,
    fio: { original: 2.5, nbdkit: 1, cpu: 0.3 },
    fioOnPages: { original: 2.5, nbdkit: 1, cpu: 0.3 },
    light: { original: 2.5, nbdkit: 1, cpu: 0.3 },
  },
  {
    id: "write-256k-8",
    title: "256k writes, 8 in flight",
    pattern: "write",
    blockSize: 256 * 1024,
    depth: 8,
    fio: { original: 1, cpu: 0.7 },
    light: { original: 1, cpu: 0.7 },
  },
  {
    id: "read-1m-4x4",
    title: "1 MiB reads, 4 connections, 4 in flight on each",
    pattern: "read",
    blockSize: 1024 * 1024,
    depth: 4,
    connections: 4,
    fio: null,
    light: { original: 2 },
  },
];

function lightRow(work: Case): Row {
  const { pattern, blockSize, depth, connections = 1 } = work;
  return {
    id: `light-${work.id}`,
    title: `${work.title} (light)`,
    unit: "requests/s",
    needs: null,
    kinds: FOUR,
    targets: work.light,
    slice: (server, tools) =>
      tools.generator.slice(
        server,
        { pattern, blockSize, depth, connections },
        tools.seconds,
        tools.seed,
      ),
  };
}

/** `alignment`: of fio's buffers, in bytes. */
function fioRow(work: Case, targets: Targets, alignment?: number): Row {
  return {
    id: `fio-${work.id}${alignment === undefined ? "" : "-aligned"}`,
    title: `${work.title} (fio${alignment === undefined ? "" : ", buffers on pages"})`,
    unit: "requests/s",
    needs: "fio",
    kinds: THREE,
    targets,
    slice: (server, tools) => fioSlice(server, work, tools.seconds, tools.seed, alignment),
  };
}

const COPIES: readonly Row[] = [
  {
    id: "nbdcopy-null",
    title: "nbdcopy of the image to null:",
    unit: "MiB/s",
    needs: "nbdcopy",
    kinds: FOUR,
    targets: { original: 1, nbdkit: 1 },
    slice: (server, tools) => nbdcopySlice(server, "null:", false, tools.imageBytes),
  },
  {
    id: "nbdcopy-file",
    title: "nbdcopy of the image to a file",
    unit: "MiB/s",
    needs: "nbdcopy",
    kinds: FOUR,
    targets: { original: 1, nbdkit: 1 },
    slice: (server, tools) => nbdcopySlice(server, tools.scratch, false, tools.imageBytes),
  },
  {
    id: "nbdcopy-into",
    title: "nbdcopy of a file into the image",
    unit: "MiB/s",
    needs: "nbdcopy",
    kinds: FOUR,
    targets: { original: 1, nbdkit: 1 },
    slice: (server, tools) => nbdcopySlice(server, tools.scratch, true, tools.imageBytes),
  },
];

/** Every row that compares servers, in the order of the table. */
export const ROWS: readonly Row[] = [
  ...CASES.map(lightRow),
  ...CASES.flatMap((work) => [
    ...(work.fio ? [fioRow(work, work.fio)] : []),
    ...(work.fioOnPages ? [fioRow(work, work.fioOnPages, PAGE)] : []),
  ]),
  ...COPIES,
];
