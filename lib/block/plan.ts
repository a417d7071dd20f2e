/** Carrying out a write plan: copies and data to their places, then commit; or abandon. */
import { assert, chain, IoVec, type MaybePromise } from "../base/mod.ts";
import type { Memory } from "../sys/mod.ts";
import { Bounded } from "./bounded.ts";
import type { BlockNode, Edge } from "./node.ts";
import type { PlanRecord, PlanStep } from "./placement.ts";
import { asAdvice } from "./rescue.ts";
import type { Seam } from "./seam.ts";
import type { PlanEncoder, WriteIntent } from "./types.ts";

/** Steps that are neighbours in one child and become one write. */
interface Run {
  readonly child: Edge;
  readonly at: number;
  length: number;
  readonly steps: PlanStep[];
}

/**
 * Executes `plan`, with the data in `iov`. Data and copies run together; the memory they use is in use
 * until all have ended, so a failure is reported after that. Then either commit or abandon is called.
 */
export async function executePlan(
  seam: Seam,
  node: BlockNode,
  plan: PlanRecord,
  iov: IoVec | undefined,
): Promise<void> {
  const { intent } = plan;
  const bounded = new Bounded();
  try {
    for (const run of joinSteps(plan.allSteps(), intent)) {
      if (bounded.failed) break;
      assert(run.child.parent === node && run.at >= 0, "planned in a child of another node");
      await bounded.run(() =>
        plan.encode === undefined || intent !== "data"
          ? runSteps(seam, node, plan, run, iov)
          : encodeRun(seam, node, plan, run, plan.encode, iov!)
      );
    }
    await bounded.finish();
  } catch (error) {
    plan.abandon?.();
    throw error;
  }
  await plan.commit?.();
}

/** Puts neighbours together. Zero and discard steps stay by themselves: only bytes can be joined. */
function joinSteps(steps: readonly PlanStep[], intent: WriteIntent): Run[] {
  const runs: Run[] = [];
  const moving = steps.filter((step) => step.child !== undefined);
  const children = [...new Set(moving.map((step) => step.child!))];
  for (const child of children) {
    const own = moving.filter((step) => step.child === child).sort((a, b) => a.at - b.at);
    let last: Run | undefined;
    for (const step of own) {
      const joins = last !== undefined && last.at + last.length === step.at &&
        (intent === "data" || (step.kind === "copy" && last.steps.at(-1)!.kind === "copy"));
      if (joins) {
        last!.steps.push(step);
        last!.length += step.length;
      } else {
        last = { child, at: step.at, length: step.length, steps: [step] };
        runs.push(last);
      }
    }
  }
  return runs;
}

function runSteps(
  seam: Seam,
  node: BlockNode,
  plan: PlanRecord,
  run: Run,
  iov: IoVec | undefined,
): MaybePromise<void> {
  const { child, at, length } = run;
  const { start, flags } = plan;
  if (run.steps.some((step) => step.kind === "copy")) {
    return copyRun(seam, node, plan, run, iov);
  }
  switch (plan.intent) {
    case "data":
      return seam.writeChild(child, at, gatherRun(run, start, iov!), flags);
    case "zeroes":
      return seam.writeZeroesChild(child, at, length, flags);
    case "discard":
      return asAdvice(() => seam.discard(child.node, at, length));
  }
}

/** The user's data of all steps of `run`, in the order of the child. `start`: where it begins. */
function gatherRun(run: Run, start: number, iov: IoVec): IoVec {
  if (run.steps.length === 1) return iov.slice(run.steps[0]!.from - start, run.length);
  const out = new IoVec();
  for (const step of run.steps) append(out, iov.slice(step.from - start, step.length));
  return out;
}

function append(out: IoVec, part: IoVec): void {
  for (let i = 0; i < part.count; i++) out.add(part.addresses[i]!, part.lengths[i]!);
}

/** Reads what has to be copied, as the node reads now, and writes it with the data between. */
async function copyRun(
  seam: Seam,
  node: BlockNode,
  plan: PlanRecord,
  run: Run,
  iov: IoVec | undefined,
): Promise<void> {
  const copied = run.steps.reduce((sum, step) => step.kind === "copy" ? sum + step.length : sum, 0);
  const buffer: Memory = seam.buffers.acquire(copied);
  try {
    const reads = new Bounded();
    const out = new IoVec();
    let used = buffer.address;
    for (const step of run.steps) {
      if (step.kind === "copy") {
        const target = IoVec.of(used, step.length);
        used += step.length;
        append(out, target);
        await reads.run(() => seam.read(node, step.from, target, 0));
      } else {
        append(out, iov!.slice(step.from - plan.start, step.length));
      }
    }
    await reads.finish();
    await seam.writeChild(run.child, run.at, out, plan.flags);
  } finally {
    seam.buffers.release(buffer);
  }
}

/** As `copyRun`, with all of it encoded, in memory of its own: the user's stays as it is. */
async function encodeRun(
  seam: Seam,
  node: BlockNode,
  plan: PlanRecord,
  run: Run,
  encode: PlanEncoder,
  iov: IoVec,
): Promise<void> {
  const buffer: Memory = seam.buffers.acquire(run.length);
  try {
    const pieces = new Bounded();
    for (const { kind, from, at, length } of run.steps) {
      const target = buffer.address + (at - run.at);
      await pieces.run(() => {
        if (kind !== "copy") return encode(iov.slice(from - plan.start, length), target, from, at);
        const part = IoVec.of(target, length);
        return chain(seam.read(node, from, part, 0), () => encode(part, target, from, at));
      });
    }
    await pieces.finish();
    await seam.writeChild(run.child, run.at, IoVec.of(buffer.address, run.length), plan.flags);
  } finally {
    seam.buffers.release(buffer);
  }
}
