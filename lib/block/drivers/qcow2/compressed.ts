/**
 * Compressed clusters: reading, with the last few decoded clusters kept (guests read less than a cluster at a time,
 * and a cluster can only be decoded as a whole), and encoding.
 *
 * Clusters are decoded by the context's threads once that pays, else inline.
 */
import { BlockError, type IoVec, IoVec as Vec, type MaybePromise } from "../../../base/mod.ts";
import type { Context, Memory } from "../../../sys/mod.ts";
import type { Child } from "../../mod.ts";
import { ClusterCoder, type CompressionType, STREAMS } from "./codec.ts";
import type { CompressedCluster } from "./format.ts";
import type { ClusterCodec, Qcow2Image } from "./types.ts";

/** Bytes of decoded clusters that are kept, but at least two clusters of them. */
const KEPT_BYTES = 4 * 1024 * 1024;
const KEPT_CLUSTERS = 256;

/** A decoded cluster. */
interface Decoded {
  /** Where its stream lies in the file, and how many bytes were taken for it. */
  readonly host: number;
  readonly length: number;
  readonly memory: Memory;
  /** While it is being read. */
  pending: Promise<void> | undefined;
  /** Requests that still have to copy from it. */
  users: number;
  /** No longer found by others: given back when nobody uses it. */
  dropped: boolean;
}

/** The compressed clusters of one image. */
export class CompressedClusters implements ClusterCodec {
  readonly #coder: ClusterCoder;
  readonly #most: number;
  /** By host offset; the least recently used first. */
  readonly #kept: Map<number, Decoded> = new Map();
  /** For a stream that is being read; another one when that takes longer. */
  #iov = new Vec();
  /** How often a stream was decoded. */
  decoded = 0;

  constructor(
    private readonly context: Context,
    private readonly nodeName: string,
    private readonly clusterSize: number,
    private readonly type: CompressionType,
  ) {
    this.#coder = new ClusterCoder(context.sys, type, clusterSize);
    this.#most = Math.min(KEPT_CLUSTERS, Math.max(2, Math.floor(KEPT_BYTES / clusterSize)));
  }

  /** EIO when the stream does not make a cluster. */
  decode(
    image: Qcow2Image,
    cluster: CompressedCluster,
    from: number,
    iov: IoVec,
  ): MaybePromise<void> {
    return this.read(image.file, cluster.offset, cluster.length, from, iov);
  }

  /**
   * Fills `iov` with the bytes from `start` on of the cluster whose stream begins at `host` of `file` and takes at
   * most `length` bytes. `start + iov.total` is at most a cluster.
   */
  read(
    file: Child,
    host: number,
    length: number,
    start: number,
    iov: IoVec,
  ): MaybePromise<void> {
    const kept = this.#kept.get(host);
    if (kept !== undefined && kept.length === length) {
      this.#kept.delete(host);
      this.#kept.set(host, kept);
      if (kept.pending === undefined) return this.#copyOut(kept, start, iov);
      return this.#whenDecoded(kept, kept.pending, start, iov);
    }
    if (iov.total === this.clusterSize && iov.count === 1) {
      return this.#load(file, host, length, iov.addresses[0]!);
    }
    if (kept !== undefined) this.#drop(kept);
    return this.#readThrough(file, host, length, start, iov);
  }

  /** Decodes the cluster to be kept, and copies from it. */
  #readThrough(
    file: Child,
    host: number,
    length: number,
    start: number,
    iov: IoVec,
  ): MaybePromise<void> {
    const memory = this.context.buffers.acquire(this.clusterSize);
    // In use from the beginning: others that begin meanwhile must not let it go.
    const entry: Decoded = { host, length, memory, pending: undefined, users: 1, dropped: false };
    this.#kept.set(host, entry);
    let pending: MaybePromise<void>;
    try {
      pending = this.#load(file, host, length, memory.address);
      if (pending === undefined) {
        this.#copyOut(entry, start, iov);
        return this.#leave(entry);
      }
    } catch (error) {
      this.#drop(entry);
      this.#leave(entry);
      throw error;
    }
    entry.pending = pending.then(
      () => void (entry.pending = undefined),
      (error) => {
        entry.pending = undefined;
        this.#drop(entry);
        throw error;
      },
    );
    return this.#whenUsed(entry, entry.pending, start, iov);
  }

  #whenDecoded(entry: Decoded, pending: Promise<void>, start: number, iov: IoVec): Promise<void> {
    entry.users++;
    return this.#whenUsed(entry, pending, start, iov);
  }

  /** Copies from the cluster when it is there, for somebody who counts as a user already. */
  async #whenUsed(
    entry: Decoded,
    pending: Promise<void>,
    start: number,
    iov: IoVec,
  ): Promise<void> {
    try {
      await pending;
      this.#copyOut(entry, start, iov);
    } finally {
      this.#leave(entry);
    }
  }

  /** A user less. */
  #leave(entry: Decoded): void {
    entry.users--;
    this.#releaseUnused(entry);
    this.#trim();
  }

  #copyOut(entry: Decoded, start: number, iov: IoVec): void {
    let from = entry.memory.address + start;
    for (let i = 0; i < iov.count; i++) {
      const length = iov.lengths[i]!;
      this.context.sys.copy(iov.addresses[i]!, from, length);
      from += length;
    }
  }

  /** Reads the stream and decodes it to the cluster at `target`. */
  #load(file: Child, host: number, length: number, target: number): MaybePromise<void> {
    const { buffers } = this.context;
    const stream = buffers.acquire(length);
    let pending: MaybePromise<void>;
    try {
      pending = file.read(host, this.#iov.single(stream.address, length), 0);
    } catch (error) {
      buffers.release(stream);
      throw error;
    }
    if (pending === undefined) return this.#decode(stream, host, length, target);
    this.#iov = new Vec();
    return pending.then(
      () => this.#decode(stream, host, length, target),
      (error) => {
        buffers.release(stream);
        throw error;
      },
    );
  }

  /** Decodes the stream, which is given back, to the cluster at `target`. */
  #decode(stream: Memory, host: number, length: number, target: number): MaybePromise<void> {
    this.decoded++;
    const { inflaters } = this.context;
    const single = inflaters && this.#coder.single(stream, length);
    if (single !== undefined) {
      const format = STREAMS[this.type];
      const result = inflaters!.run(stream.address, single, target, this.clusterSize, format);
      if (result !== undefined) {
        return result.then((filled) => {
          if (filled) this.context.buffers.release(stream);
          // Whatever is wrong is found, and named, by decoding it here.
          else this.#decodeHere(stream, host, length, target);
        });
      }
    }
    this.#decodeHere(stream, host, length, target);
  }

  #decodeHere(stream: Memory, host: number, length: number, target: number): void {
    let problem: string | undefined;
    try {
      problem = this.#coder.decode(stream, length, target);
    } finally {
      this.context.buffers.release(stream);
    }
    if (problem === undefined) return;
    throw new BlockError("EIO", `the compressed cluster at host offset ${host} ${problem}`, {
      node: this.nodeName,
      op: "read",
      offset: host,
    });
  }

  #drop(entry: Decoded): void {
    if (this.#kept.get(entry.host) === entry) this.#kept.delete(entry.host);
    entry.dropped = true;
    this.#releaseUnused(entry);
  }

  #releaseUnused(entry: Decoded): void {
    if (!entry.dropped || entry.users > 0 || entry.pending !== undefined) return;
    entry.dropped = false;
    this.context.buffers.release(entry.memory);
  }

  /** Lets the least recently used go that nobody waits for. */
  #trim(): void {
    if (this.#kept.size <= this.#most) return;
    for (const entry of this.#kept.values()) {
      if (entry.users > 0 || entry.pending !== undefined) continue;
      this.#drop(entry);
      if (this.#kept.size <= this.#most) return;
    }
  }

  /**
   * What was decoded from [host, host + length) of the file is stale: another stream is written there. Clusters
   * that are freed need no call: nothing leads to their streams any more.
   */
  forget(host: number, length: number): void {
    for (const entry of [...this.#kept.values()]) {
      if (entry.host < host + length && host < entry.host + entry.length) this.#drop(entry);
    }
  }

  /** Less than a cluster (the last of an image) is filled up with zeroes. */
  encode(_image: Qcow2Image | undefined, iov: IoVec, target: number): number {
    const { buffers, sys } = this.context;
    if (iov.total === this.clusterSize && iov.count === 1) {
      return this.#coder.encode(iov.addresses[0]!, target);
    }
    const whole = buffers.acquire(this.clusterSize);
    try {
      let at = whole.address;
      for (let i = 0; i < iov.count; i++) {
        sys.copy(at, iov.addresses[i]!, iov.lengths[i]!);
        at += iov.lengths[i]!;
      }
      if (iov.total < this.clusterSize) sys.fill(at, 0, this.clusterSize - iov.total);
      return this.#coder.encode(whole.address, target);
    } finally {
      buffers.release(whole);
    }
  }

  /** Gives memory back; no request is in flight. */
  close(): void {
    for (const entry of [...this.#kept.values()]) this.#drop(entry);
    this.#coder.close();
  }
}
