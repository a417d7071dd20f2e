/** The rows of bench/vhost.ts, with the targets of the project. */

/** What serves the disk. */
export type VhostNode = "raw" | "null-co" | "qcow2";

/** One row. */
export interface VhostRow {
  readonly id: string;
  readonly title: string;
  readonly node: VhostNode;
  readonly write: boolean;
  /** Bytes of a request. */
  readonly blockSize: number;
  /** Requests in flight on each queue. */
  readonly depth: number;
  readonly queues: number;
  /** The guest spins on its used rings and asks for no notifications. */
  readonly polling: boolean;
  /** Microseconds for which the guest polls before its virtual CPU sleeps. */
  readonly halt: number;
  /** The export runs in an IOThread (of the server's default poll-max-ns). */
  readonly thread: boolean;
  readonly targets: { readonly original: number };
}

const NODES: readonly VhostNode[] = ["raw", "null-co", "qcow2"];
const BASE = { queues: 1, polling: false, halt: 200, thread: false } as const;

/** Targets other than "ahead of the original". */
const TARGETS: Readonly<Record<string, number>> = {
  "raw-randread-4k-1": 3,
  "raw-randread-4k-32": 2.5,
  "raw-randwrite-4k-32": 2.5,
  "raw-read-256k-8": 1.1,
};

type Shape = Omit<VhostRow, "id" | "title" | "targets">;

function row(shape: Shape): VhostRow {
  const { node, write, blockSize, depth, queues, polling, halt, thread } = shape;
  const size = `${blockSize / 1024}k`;
  const random = blockSize === 4096;
  const mark = [
    ...(queues > 1 ? [`q${queues}`] : []),
    ...(polling ? ["poll"] : []),
    ...(halt === 0 ? ["sleep"] : []),
    ...(thread ? ["thread"] : []),
  ];
  const id = [node, `${random ? "rand" : ""}${write ? "write" : "read"}`, size, depth, ...mark];
  const what = `${size}${random ? " random" : ""} ${write ? "writes" : "reads"}`;
  const words = [
    `${node}: ${what}, ${depth} deep`,
    ...(queues > 1 ? [`on each of ${queues} queues`] : []),
    ...(polling ? ["the guest polls"] : []),
    ...(halt === 0 ? ["the guest sleeps between requests"] : []),
    ...(thread ? ["in an IOThread"] : []),
  ];
  const name = id.join("-");
  return { ...shape, id: name, title: words.join(", "), targets: { original: TARGETS[name] ?? 1 } };
}

/** Every combination that the project names, and few more. */
export const VHOST_ROWS: readonly VhostRow[] = NODES.flatMap((node) => {
  const small = { ...BASE, node, blockSize: 4096 };
  const large = { ...BASE, node, blockSize: 256 * 1024, depth: 8 };
  const shapes: Shape[] = [];
  for (const queues of [1, 2]) {
    for (const write of [false, true]) {
      for (const depth of [1, 32]) shapes.push({ ...small, write, depth, queues });
    }
  }
  for (const write of [false, true]) shapes.push({ ...large, write });
  for (const write of [false, true]) {
    for (const depth of [1, 32]) shapes.push({ ...small, write, depth, polling: true });
  }
  if (node === "raw") {
    shapes.push({ ...small, write: false, depth: 1, halt: 0 });
    for (const depth of [1, 32]) shapes.push({ ...small, write: false, depth, thread: true });
  }
  return shapes.map(row);
});
