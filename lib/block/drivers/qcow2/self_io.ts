/** Requests that the image sends to itself, while nobody else does (resize): plans carried out step by step. */
import { IoVec, isNotSupported, type MaybePromise } from "../../../base/mod.ts";
import {
  Placed,
  PlacementRecord,
  type PlanEncoder,
  PlanRecord,
  type PlanStep,
  zeroFill,
} from "../../mod.ts";
import type { Image } from "./image.ts";

/** Bytes of zeroes that are written at once. */
const ZEROES = 1 << 20;

/** Reads what the guest reads. `iov` lies within the disk. */
async function readGuest(image: Image, offset: number, iov: IoVec): Promise<void> {
  const place = new PlacementRecord();
  for (let done = 0; done < iov.total; done += place.length) {
    const left = iov.total - done;
    await image.map.locate(offset + done, left, place.begin(left));
    const part = iov.slice(done, place.length);
    const { kind, child } = place;
    if (kind === Placed.encoded) await place.decode!(part);
    else if (kind === Placed.child) await child!.read(place.at, part, 0);
    else if (kind === Placed.unallocated && child !== undefined) {
      await child.read(offset + done, part, 0);
    } else zeroFill(image.context.sys, part);
  }
}

/** Makes [offset, offset + length) read as zeroes: by entries where possible, else by data. */
export async function zeroGuest(image: Image, offset: number, length: number): Promise<void> {
  const { buffers, sys } = image.context;
  const buffer = buffers.acquire(Math.min(ZEROES, length));
  sys.fill(buffer.address, 0, Math.min(ZEROES, length));
  try {
    for (let at = offset; at < offset + length;) {
      const left = offset + length - at;
      at += await zeroStep(image, at, left) ??
        await writeStep(image, at, IoVec.of(buffer.address, Math.min(left, ZEROES)));
    }
  } finally {
    buffers.release(buffer);
  }
}

/** Bytes that were zeroed without data; undefined: none could. */
async function zeroStep(image: Image, at: number, length: number): Promise<number | undefined> {
  const plan = new PlanRecord().begin(at, length, "zeroes", 0);
  try {
    await image.planning.reserveInside(at, length, plan);
  } catch (error) {
    if (isNotSupported(error)) return undefined;
    throw error;
  }
  for (const step of plan.allSteps()) {
    if (step.child !== undefined) await step.child.writeZeroes(step.at, step.length, 0);
  }
  await plan.commit?.();
  return plan.planned;
}

/** Bytes of `iov` that were written. */
async function writeStep(image: Image, at: number, iov: IoVec): Promise<number> {
  const plan = new PlanRecord().begin(at, iov.total, "data", 0);
  await image.planning.reserveInside(at, iov.total, plan);
  try {
    for (const step of plan.allSteps()) {
      const act = (part: IoVec): MaybePromise<void> => step.child!.write(step.at, part, 0);
      const { encode } = plan;
      if (encode !== undefined) await encodeStep(image, step, encode, at, iov, act);
      else if (step.kind === "data") await act(iov.slice(step.from - at, step.length));
      else await copyStep(image, step.from, step.length, act);
    }
  } catch (error) {
    plan.abandon?.();
    throw error;
  }
  await plan.commit?.();
  return plan.planned;
}

async function copyStep(
  image: Image,
  from: number,
  length: number,
  write: (part: IoVec) => MaybePromise<void>,
): Promise<void> {
  const buffer = image.context.buffers.acquire(length);
  try {
    const part = IoVec.of(buffer.address, length);
    await readGuest(image, from, part);
    await write(part);
  } finally {
    image.context.buffers.release(buffer);
  }
}

/** As the others, encoded. */
async function encodeStep(
  image: Image,
  step: PlanStep,
  encode: PlanEncoder,
  start: number,
  iov: IoVec,
  write: (part: IoVec) => MaybePromise<void>,
): Promise<void> {
  const { from, at, length } = step;
  const buffer = image.context.buffers.acquire(length);
  try {
    const part = IoVec.of(buffer.address, length);
    if (step.kind === "copy") await readGuest(image, from, part);
    await encode(
      step.kind === "copy" ? part : iov.slice(from - start, length),
      buffer.address,
      from,
      at,
    );
    await write(part);
  } finally {
    image.context.buffers.release(buffer);
  }
}
