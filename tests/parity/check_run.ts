/** A check in memory, as `qsd check` runs it. */
import assert from "node:assert/strict";
import { BlockError } from "../../lib/base/mod.ts";
import {
  type CheckFile,
  checkImage,
  type CheckResult,
} from "../../lib/block/drivers/qcow2/check/mod.ts";
import { parseHeader } from "../../lib/block/drivers/qcow2/header.ts";
import { checkJson, checkStatus } from "../../lib/image/report.ts";

/** What is repaired. */
export type Fix = "none" | "leaks" | "all";

/** An image in memory. */
class MemoryFile implements CheckFile {
  constructor(public bytes: Uint8Array) {}
  get size(): number {
    return this.bytes.length;
  }
  read(offset: number, into: Uint8Array): Promise<void> {
    into.fill(0);
    into.set(this.bytes.subarray(Math.min(offset, this.size), offset + into.length));
    return Promise.resolve();
  }
  write(offset: number, bytes: Uint8Array): Promise<void> {
    const end = offset + bytes.length;
    assert.ok(end < this.size + (16 << 20), "a repair does not write far behind the end");
    if (end > this.size) {
      const longer = new Uint8Array(end);
      longer.set(this.bytes);
      this.bytes = longer;
    }
    this.bytes.set(bytes, offset);
    return Promise.resolve();
  }
  flush(): void {}
  isHole(): boolean {
    return false;
  }
}

/** What a check came to. */
export interface Outcome {
  readonly status: number;
  readonly counts: Record<string, unknown> | "error";
  readonly said: string;
  readonly bytes: Uint8Array;
}

/** Checks a copy of `bytes`, and again after a repair. */
export async function ours(bytes: Uint8Array, fix: Fix): Promise<Outcome> {
  const file = new MemoryFile(bytes.slice());
  const lines: string[] = [];
  const check = (how: Fix) =>
    checkImage(file, parseHeader(file.bytes.subarray(0, 2 << 20), { forCheck: true }), {
      fix: how,
      say: (line) => lines.push(line),
    });
  const outcome = (status: number, counts: Outcome["counts"]) => ({
    status,
    counts,
    said: lines.join("\n"),
    bytes: file.bytes,
  });
  try {
    let result: CheckResult = await check(fix);
    const { leaksFixed, corruptionsFixed } = result;
    if (leaksFixed + corruptionsFixed > 0) {
      result = { ...await check("none"), leaksFixed, corruptionsFixed };
    }
    const { filename: _, format: __, ...counts } = checkJson(result, "", "");
    return outcome(checkStatus(result), counts);
  } catch (error) {
    // An assertion, or anything else, would be our mistake.
    if (!(error instanceof BlockError)) throw error;
    lines.push(error.message);
    return outcome(1, "error");
  }
}
