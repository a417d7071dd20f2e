/** For tests: virtio-blk requests through a Frontend's rings. */
import type { DriverBuffer } from "./testing_driver.ts";
import type { Frontend } from "./testing.ts";

/** A request to be made. */
export interface BlkCall {
  readonly type: number;
  readonly sector?: number;
  /** Data for the device. */
  readonly write?: Uint8Array;
  /** Bytes wanted. */
  readonly read?: number;
  /** Data is cut into pieces of this many bytes. */
  readonly piece?: number;
  readonly indirect?: boolean;
}

/** What came of it. */
export interface BlkAnswer {
  readonly status: number;
  readonly data: Uint8Array;
  /** The used length. */
  readonly length: number;
}

interface Pending {
  readonly status: number;
  readonly data: number;
  readonly read: number;
  readonly resolve: (answer: BlkAnswer) => void;
}

/** A disk behind one queue. */
export class BlkDriver {
  readonly #frontend: Frontend;
  readonly #index: number;
  readonly #pending = new Map<number, Pending>();
  /** Rooms for data, by length. */
  readonly #rooms = new Map<number, number[]>();

  constructor(frontend: Frontend, index = 0) {
    this.#frontend = frontend;
    this.#index = index;
  }

  /** Requests that have not been answered. */
  get inFlight(): number {
    return this.#pending.size;
  }

  #room(length: number): number {
    return this.#rooms.get(length)?.pop() ?? this.#frontend.memory.allocate(length);
  }

  #giveBack(at: number, length: number): void {
    const rooms = this.#rooms.get(length) ?? [];
    rooms.push(at);
    this.#rooms.set(length, rooms);
  }

  /** Makes a request available, without a kick. */
  submit(call: BlkCall): Promise<BlkAnswer> {
    const { memory, rings } = this.#frontend;
    const size = call.write?.length ?? call.read ?? 0;
    const header = this.#room(16);
    const status = this.#room(1);
    const data = size > 0 ? this.#room(size) : 0;
    memory.view.setUint32(header, call.type, true);
    memory.view.setUint32(header + 4, 0, true);
    memory.view.setBigUint64(header + 8, BigInt(call.sector ?? 0), true);
    memory.view.setUint8(status, 0xff);
    if (call.write !== undefined) memory.bytes.set(call.write, data);
    const guest = (at: number) => memory.guestBase + at;
    const buffers: DriverBuffer[] = [{ guest: guest(header), length: 16, writable: false }];
    const piece = call.piece ?? Math.max(1, size);
    for (let at = 0; at < size; at += piece) {
      const length = Math.min(piece, size - at);
      buffers.push({ guest: guest(data + at), length, writable: call.write === undefined });
    }
    buffers.push({ guest: guest(status), length: 1, writable: true });
    const id = rings[this.#index]!.add(buffers, call.indirect);
    if (id === undefined) throw new Error("the ring is full");
    return new Promise((resolve) => {
      this.#pending.set(id, {
        status,
        data,
        read: call.write === undefined ? size : 0,
        resolve: (answer) => {
          this.#giveBack(header, 16);
          this.#giveBack(status, 1);
          if (size > 0) this.#giveBack(data, size);
          resolve(answer);
        },
      });
    });
  }

  /** Looks for answers. How many there were. */
  collect(): number {
    const { memory, rings } = this.#frontend;
    for (let count = 0;; count++) {
      const used = rings[this.#index]!.take();
      if (used === undefined) return count;
      const pending = this.#pending.get(used.id)!;
      this.#pending.delete(used.id);
      pending.resolve({
        status: memory.view.getUint8(pending.status),
        data: memory.bytes.slice(pending.data, pending.data + pending.read),
        length: used.length,
      });
    }
  }

  /** Makes a request, kicks, and waits for its answer. */
  async call(call: BlkCall): Promise<BlkAnswer> {
    const answer = this.submit(call);
    this.#frontend.kick(this.#index);
    return await this.wait(answer);
  }

  /** Waits for an answer. */
  async wait<T>(answer: Promise<T>): Promise<T> {
    let done = false;
    const mark = () => void (done = true);
    answer.then(mark, mark);
    await this.#frontend.until(() => {
      this.collect();
      return done;
    });
    return await answer;
  }
}
