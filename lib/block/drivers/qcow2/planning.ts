/**
 * Plans of writes to an image, and tasks that want it for themselves: who waits for whom. A plan is attempted until
 * nothing is missing that it needs (a table in memory, the end of another write to the cluster).
 */
import { BlockError, type MaybePromise } from "../../../base/mod.ts";
import type { PlanEncoder, WritePlan } from "../../mod.ts";
import type { Image } from "./image.ts";
import { DataPlanner } from "./reserve.ts";
import { ZeroPlanner } from "./zero.ts";

/** That of one image. */
export class Planning {
  /** Closed while an exclusive task runs: writers wait before they begin. */
  gate: Promise<void> | undefined;
  #data!: DataPlanner;
  #zeroes!: ZeroPlanner;
  readonly #encode: PlanEncoder | undefined;

  /** `settled` waits for the requests that are in flight: see OpenContext.trackRequests. */
  constructor(
    private readonly image: Image,
    private readonly settled: () => Promise<void> | undefined,
  ) {
    const { cipher } = image;
    this.#encode = cipher &&
      ((iov, target, guest, host) => cipher.encrypt(iov, target, guest, host));
  }

  /** The image's parts were made anew. */
  renew(): void {
    this.#data = new DataPlanner(this.image);
    this.#zeroes = new ZeroPlanner(this.image);
  }

  /** FormatInstance.reserve. */
  reserve(
    start: number,
    length: number,
    plan: WritePlan,
  ): MaybePromise<void> {
    const { gate } = this;
    // Only here: later on, whoever closed the gate waits for this request.
    if (gate !== undefined) {
      return gate.then(() => this.reserveInside(start, length, plan));
    }
    return this.reserveInside(start, length, plan);
  }

  /** `reserve` without the gate, for those who are past it. */
  reserveInside(
    start: number,
    length: number,
    plan: WritePlan,
  ): MaybePromise<void> {
    if (this.#encode !== undefined && plan.intent === "data") plan.encoded(this.#encode);
    const wait = this.#attempt(start, length, plan);
    return wait === undefined ? undefined : this.#retry(wait, start, length, plan);
  }

  #attempt(
    start: number,
    length: number,
    plan: WritePlan,
  ): Promise<void> | undefined {
    this.checkWritable();
    switch (plan.intent) {
      case "data":
        return this.#data.attempt(start, length, plan);
      case "zeroes":
        return this.#zeroes.zeroes(start, length, plan);
      case "discard":
        return this.#zeroes.discard(start, length, plan);
    }
  }

  async #retry(
    first: Promise<void>,
    start: number,
    length: number,
    plan: WritePlan,
  ): Promise<void> {
    let wait: Promise<void> | undefined = first;
    while (wait !== undefined) {
      await wait;
      wait = this.#attempt(start, length, plan);
    }
  }

  /** Throws while nothing may be written to the image. */
  checkWritable(): void {
    const { readOnly, nodeName } = this.image;
    if (readOnly) {
      const context = { node: nodeName, op: "write" };
      throw new BlockError("EIO", "the image is not ready for writing", context);
    }
    this.refuseCorrupt();
  }

  /** Throws if the image is marked corrupt. */
  refuseCorrupt(): void {
    const { corrupted, nodeName } = this.image;
    if (corrupted) {
      throw new BlockError("EIO", "the image is corrupt", { node: nodeName, op: "write" });
    }
  }

  /** Qcow2Image.exclusive. */
  async exclusive<T>(task: () => Promise<T>): Promise<T> {
    while (this.gate !== undefined) await this.gate;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.gate = promise;
    const settled = this.settled();
    try {
      await settled;
      await this.image.releases.idle();
      this.refuseCorrupt();
      return await task();
    } finally {
      this.gate = undefined;
      resolve();
    }
  }
}
