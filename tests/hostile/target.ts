/** A daemon to attack, and the proof that it is unharmed. */
import assert from "node:assert/strict";
import type { Daemon } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD } from "../harness/nbd_wire.ts";
import { serve, type ServeOptions } from "../harness/serve.ts";

export const SIZE = 1048576;

/** A served image with known bytes. */
export class Target implements AsyncDisposable {
  private constructor(
    readonly daemon: Daemon,
    private readonly dir: TestDir,
    private readonly bytes: Uint8Array,
  ) {}

  static async start(options: ServeOptions = {}): Promise<Target> {
    const dir = TestDir.make();
    const bytes = noisy(dir.file("disk.raw"), SIZE, 77);
    return new Target(await serve({ dir, ...options }), dir, bytes);
  }

  get socket(): string {
    return this.daemon.file("nbd");
  }

  /** A connection on which nothing has been said. */
  connect(): Promise<NbdPeer> {
    return NbdPeer.connect(this.socket);
  }

  /** A connection in the transmission phase. */
  attach(structured = true): Promise<NbdPeer> {
    return NbdPeer.attach(this.socket, "disk", { structured });
  }

  /** The daemon lives, its monitor answers, a good client reads the right bytes, nothing was written. */
  async intact(): Promise<void> {
    assert.ok(this.daemon.alive, `the daemon died: ${this.daemon.stderr}`);
    assert.equal((await this.daemon.qmp.execute("query-block-exports")).length, 1);
    using peer = await this.attach();
    const answer = await peer.call({ type: CMD.READ, offset: 0, length: SIZE });
    assertSameBytes(answer.data, this.bytes, "the image");
  }

  /** The end: a clean exit. */
  async finish(): Promise<void> {
    await this.intact();
    const { status, stderr } = await this.daemon.stop();
    assert.equal(status, 0, stderr);
    assert.doesNotMatch(stderr, /assert|at .*\.ts:\d+|panic|uncaught/i);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    await this.dir[Symbol.asyncDispose]();
  }
}

/** Descriptors and memory, for "back to about where they were". */
export function footprint(daemon: Daemon): { descriptors: number; resident: number } {
  return { descriptors: daemon.descriptors(), resident: daemon.resident() };
}
