/** A list of internal snapshots in qemu-img's shape. */
import type { InternalSnapshot } from "../block/mod.ts";
import { localTime } from "../sys/mod.ts";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** Bytes in three digits: the unit changes from 1000 of it on. */
function threeDigits(bytes: number): string {
  let value = bytes, unit = 0;
  for (; value >= 1000 && unit < UNITS.length - 1; unit++) value /= 1024;
  return `${Number(value.toPrecision(3))} ${UNITS[unit]}`;
}

/** `H:MM:SS.mmm` of nanoseconds. */
function clock(nanoseconds: bigint): string {
  const milliseconds = nanoseconds / 1_000_000n;
  const two = (value: bigint) => String(value).padStart(2, "0");
  const seconds = milliseconds / 1000n;
  return `${two(seconds / 3600n)}:${two(seconds / 60n % 60n)}:${two(seconds % 60n)}.` +
    String(milliseconds % 1000n).padStart(3, "0");
}

function line(columns: readonly [string, string, string, string, string, string]): string {
  const [id, tag, size, date, time, icount] = columns;
  return `${id.padEnd(9)} ${tag.padEnd(16)} ${size.padStart(8)}${date.padStart(20)}` +
    `${time.padStart(13)}${icount.padStart(11)}\n`;
}

/** The list; empty without snapshots. */
export function snapshotList(snapshots: readonly InternalSnapshot[]): string {
  if (snapshots.length === 0) return "";
  const lines = snapshots.map((one) =>
    line([
      one.id,
      one.name,
      threeDigits(one.vmStateSize),
      localTime(one.dateSec),
      clock(one.vmClockNsec),
      one.icount === undefined ? "" : String(BigInt.asIntN(64, one.icount)),
    ])
  );
  const head = line(["ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"]);
  return `Snapshot list:\n${head}${lines.join("")}`;
}
