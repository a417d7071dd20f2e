/**
 * The virtio-blk device (virtio 1.2, 5.2): carries requests out on a node. Data moves between guest memory and the
 * node in one call, without a copy; what completes at once is answered in the same call.
 */
import { BlockError, type IoVec, isNotSupported, type MaybePromise } from "../base/mod.ts";
import { type BlockBackend, RequestFlag } from "../block/mod.ts";
import { type Context, type Memory, SysError } from "../sys/mod.ts";
import { BlkFeature, configSpace, MAX_RANGE_SECTORS, MAX_RANGES } from "./config.ts";
import type { BlkRequest } from "./request.ts";
import type { DeviceState } from "./shared.ts";
import { type DeviceTraces, deviceTraces } from "./traces.ts";
import { bits, Feature, has } from "./wire.ts";

/** Request types. */
export const BlkType = {
  in: 0,
  out: 1,
  flush: 4,
  getId: 8,
  discard: 11,
  writeZeroes: 13,
} as const;

/** Statuses. */
export const BlkStatus = { ok: 0, ioError: 1, unsupported: 2 } as const;

/** Old drivers mark barriers in the type. */
const BARRIER = 0x8000_0000;
/** What GET_ID tells, as the original. */
const ID = "vhost_user_blk";
const ID_BYTES = 20;
/** Bytes of one range of discard and write-zeroes: sector u64, sectors u32, flags u32. */
const RANGE_SIZE = 16;
const RANGE_UNMAP = 1;
/** Requests above this many bytes are carried out in pieces, a turn of the loop each. */
const WHOLE = 4 * 1024 * 1024;
const PIECE = 1024 * 1024;

/** How a device is to be. */
export interface BlkDeviceOptions {
  readonly writable: boolean;
  readonly writethrough: boolean;
  /** Logical block size in bytes: a power of two from 512 on. */
  readonly blockSize: number;
  readonly queues: number;
}

/** What the device did, for status; bytes are of data. */
export class BlkCounters {
  requests = 0;
  errors = 0;
  bytesRead = 0;
  bytesWritten = 0;
}

/** A device: one for all sessions of an export, which follow each other. */
export class BlkDevice {
  readonly options: BlkDeviceOptions;
  readonly counters: BlkCounters = new BlkCounters();
  readonly backend: BlockBackend;
  readonly #context: Context;
  readonly #traces: DeviceTraces;
  /** Blocks begin where these bits of the sector are zero. */
  readonly #sectorMask: number;
  readonly #scratch: Memory;
  /** The configuration space's `wce`: whether the guest flushes what must be durable. */
  writeCache: boolean;
  /** Flags of each write. */
  #writeFlags = 0;
  #features = 0n;

  constructor(context: Context, backend: BlockBackend, options: BlkDeviceOptions) {
    this.#context = context;
    this.#traces = deviceTraces(context);
    this.backend = backend;
    this.options = options;
    this.#sectorMask = options.blockSize / 512 - 1;
    this.writeCache = !options.writethrough;
    this.#scratch = context.sys.allocate(4096);
    this.#putId();
    this.negotiated(0n);
  }

  /** The last call. */
  close(): void {
    this.#scratch.unmap();
  }

  #putId(): void {
    new TextEncoder().encodeInto(ID, this.#scratch.bytes.subarray(0, ID_BYTES));
  }

  /** What the device offers, vhost's own bits included. */
  get features(): bigint {
    const f = BlkFeature;
    const v = Feature;
    const common = bits(f.sizeMax, f.segMax, f.blkSize, f.flush, f.topology, f.configWce, f.mq);
    const vhost = bits(v.notifyOnEmpty, v.logAll, v.indirectDesc, v.eventIdx, v.protocolFeatures);
    const modern = bits(v.version1, v.ringPacked);
    const kind = this.options.writable ? bits(f.discard, f.writeZeroes) : bits(f.ro);
    return common | vhost | modern | kind;
  }

  /** The driver accepted `features`. */
  negotiated(features: bigint): void {
    this.#features = features;
    this.#apply();
  }

  /** The driver wrote `wce`. */
  setWriteCache(on: boolean): void {
    this.writeCache = on;
    this.#apply();
  }

  /** What the driver has set, for the same device in another thread. */
  get state(): DeviceState {
    return { features: this.#features, writeCache: this.writeCache };
  }
  set state({ features, writeCache }: DeviceState) {
    this.writeCache = writeCache;
    this.negotiated(features);
  }

  /** As after creation, but for what the session negotiates again. */
  reset(): void {
    this.writeCache = !this.options.writethrough;
    this.negotiated(0n);
  }

  #apply(): void {
    // Without the feature there is a write cache if the driver can flush it (virtio 1.2, 5.2.6.2).
    const cached = has(this.#features, BlkFeature.configWce)
      ? this.writeCache
      : has(this.#features, BlkFeature.flush);
    this.#writeFlags = cached && !this.options.writethrough ? 0 : RequestFlag.fua;
  }

  /** The configuration space, now. */
  config(): Uint8Array {
    const { blockSize, queues } = this.options;
    return configSpace({ size: this.#size, blockSize, queues, writeCache: this.writeCache });
  }

  /** Bytes, in whole sectors. */
  get #size(): number {
    const { size } = this.backend;
    return size - size % 512;
  }

  /**
   * Carries a request out. True: it is done, with its `status`; false: it will be, and calls its `onDone` or
   * `onFailed`.
   */
  submit(request: BlkRequest): boolean {
    this.counters.requests++;
    if (request.outside || !request.complete || request.statusView === undefined) {
      return this.refuse(request, BlkStatus.ioError);
    }
    switch (request.type) {
      case BlkType.in:
        return this.#read(request);
      case BlkType.out:
        return this.#write(request);
      default:
        return this.#other(request);
    }
  }

  /** Gives a request a status other than ok. */
  refuse(request: BlkRequest, status: number): true {
    this.counters.errors++;
    request.status = status;
    return true;
  }

  #read(request: BlkRequest): boolean {
    const iov = request.in;
    const { total } = iov;
    const offset = this.#place(request, total);
    if (offset < 0) return this.refuse(request, BlkStatus.ioError);
    request.status = BlkStatus.ok;
    if (total === 0) return true;
    this.counters.bytesRead += total;
    const { read } = this.#traces;
    if (read.enabled) read.emit(`offset ${offset} bytes ${total}`);
    let pending: MaybePromise<void>;
    try {
      pending = total > WHOLE
        ? this.#pieces(offset, iov, false)
        : this.backend.read(offset, iov, RequestFlag.ownMemory);
    } catch (error) {
      return this.fail(request, error);
    }
    if (pending === undefined) return true;
    pending.then(request.onDone, request.onFailed);
    return false;
  }

  #write(request: BlkRequest): boolean {
    const iov = request.out;
    const { total } = iov;
    const offset = this.#place(request, total);
    if (offset < 0 || !this.options.writable) return this.refuse(request, BlkStatus.ioError);
    request.status = BlkStatus.ok;
    if (total === 0) return true;
    this.counters.bytesWritten += total;
    const { write } = this.#traces;
    if (write.enabled) write.emit(`offset ${offset} bytes ${total}`);
    let pending: MaybePromise<void>;
    try {
      pending = total > WHOLE
        ? this.#pieces(offset, iov, true)
        : this.backend.write(offset, iov, this.#writeFlags);
    } catch (error) {
      return this.fail(request, error);
    }
    if (pending === undefined) return true;
    pending.then(request.onDone, request.onFailed);
    return false;
  }

  /** Offset in bytes of a request for `length` bytes; -1 if it is not aligned or not within the disk. */
  #place(request: BlkRequest, length: number): number {
    return this.#range(request.sectorLow, request.sectorHigh, length);
  }

  #range(low: number, high: number, length: number): number {
    if ((low & this.#sectorMask) !== 0 || (length & 511) !== 0 || high >= 4096) return -1;
    const offset = (high * 0x1_0000_0000 + low) * 512;
    // Whole sectors within the size are within its whole sectors.
    return offset + length > this.backend.size ? -1 : offset;
  }

  /** A large request: other clients get their turns in between. */
  async #pieces(offset: number, iov: IoVec, write: boolean): Promise<void> {
    for (let at = 0; at < iov.total; at += PIECE) {
      const part = iov.slice(at, Math.min(PIECE, iov.total - at));
      const pending = write
        ? this.backend.write(offset + at, part, this.#writeFlags)
        : this.backend.read(offset + at, part, RequestFlag.ownMemory);
      if (pending !== undefined) await pending;
      else await new Promise<void>((resolve) => this.#context.loop.defer(resolve));
    }
  }

  #other(request: BlkRequest): boolean {
    const type = request.type;
    if (type >= BARRIER) {
      request.type = type - BARRIER;
      return this.submit(request);
    }
    switch (type) {
      case BlkType.flush:
        return this.#run(request, () => this.backend.flush());
      case BlkType.getId:
        this.#copyId(request.in);
        request.status = BlkStatus.ok;
        return true;
      case BlkType.discard:
        return this.#ranges(request, true);
      case BlkType.writeZeroes:
        return this.#ranges(request, false);
      default:
        return this.refuse(request, BlkStatus.unsupported);
    }
  }

  #run(request: BlkRequest, start: () => MaybePromise<void>): boolean {
    request.status = BlkStatus.ok;
    let pending: MaybePromise<void>;
    try {
      pending = start();
    } catch (error) {
      return this.fail(request, error);
    }
    if (pending === undefined) return true;
    pending.then(request.onDone, request.onFailed);
    return false;
  }

  #copyId(iov: IoVec): void {
    const { sys } = this.#context;
    let done = 0;
    for (let i = 0; i < iov.count && done < ID_BYTES; i++) {
      const length = Math.min(iov.lengths[i]!, ID_BYTES - done);
      sys.copy(iov.addresses[i]!, this.#scratch.address + done, length);
      done += length;
    }
  }

  /** DISCARD and WRITE_ZEROES: ranges are read once, all are checked, then carried out one by one. */
  #ranges(request: BlkRequest, discard: boolean): boolean {
    if (!this.options.writable) return this.refuse(request, BlkStatus.ioError);
    const count = request.out.total / RANGE_SIZE;
    if (!Number.isInteger(count) || count === 0) return this.refuse(request, BlkStatus.ioError);
    if (count > MAX_RANGES) return this.refuse(request, BlkStatus.unsupported);
    const view = this.#fetch(request.out);
    const ranges: { offset: number; length: number; flags: number }[] = [];
    for (let i = 0; i < count; i++) {
      const at = i * RANGE_SIZE;
      const sectors = view.getUint32(at + 8, true);
      const flags = view.getUint32(at + 12, true);
      if ((flags & ~(discard ? 0 : RANGE_UNMAP)) !== 0) {
        return this.refuse(request, BlkStatus.unsupported);
      }
      const length = sectors * 512;
      const offset = this.#range(view.getUint32(at, true), view.getUint32(at + 4, true), length);
      if (offset < 0 || sectors > MAX_RANGE_SECTORS) {
        return this.refuse(request, BlkStatus.ioError);
      }
      if (length > 0) ranges.push({ offset, length, flags });
    }
    return this.#run(request, async () => {
      for (const { offset, length, flags } of ranges) {
        const unmap = (flags & RANGE_UNMAP) !== 0 ? RequestFlag.mayUnmap : 0;
        await (discard
          ? this.backend.discard(offset, length)
          : this.backend.writeZeroes(offset, length, this.#writeFlags | unmap));
      }
    });
  }

  /** A copy of the data of a small request: the guest may change its own at any time. */
  #fetch(iov: IoVec): DataView {
    const { sys } = this.#context;
    const bytes = new Uint8Array(iov.total);
    for (let i = 0, done = 0; i < iov.count; i++) {
      const length = iov.lengths[i]!;
      sys.copy(this.#scratch.address + 1024 + done, iov.addresses[i]!, length);
      done += length;
    }
    bytes.set(this.#scratch.bytes.subarray(1024, 1024 + iov.total));
    return new DataView(bytes.buffer);
  }

  /** Gives a request the status of an error. What is not the outside world's is thrown on: a mistake of ours. */
  fail(request: BlkRequest, error: unknown): true {
    if (!(error instanceof BlockError || error instanceof SysError)) throw error;
    return this.refuse(request, isNotSupported(error) ? BlkStatus.unsupported : BlkStatus.ioError);
  }
}
