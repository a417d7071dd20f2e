/**
 * Sessions of random messages. Goal: whatever is said, in whatever order, with whatever descriptors, ends in answers
 * or in the end of that connection: no exception, no descriptor left behind, and the next front-end is served.
 * Method: payloads that mostly make sense, so that much gets far, with requests in flight and rings half set up.
 */
import assert from "node:assert/strict";
import { chance, IoVec, type Pick } from "../base/mod.ts";
import { Errno, MSG } from "../sys/mod.ts";
import { BlkStatus, BlkType } from "./device.ts";
import { BlkDriver } from "./testing_blk.ts";
import { type Frontend, GUEST_BASE, payload, USER_BASE } from "./testing.ts";
import { type ExportBed, withExport } from "./testing_export.ts";
import { bits, Feature, ProtocolFeature, Request } from "./wire.ts";

const SESSIONS = 150;
const MESSAGES = 40;
const MEMORY = 1 << 20;
const types = Object.values(Request);

/** A number that is often right, often next to it, sometimes anything. */
function number(pick: Pick, ...likely: number[]): number {
  const one = likely[pick(likely.length)]!;
  const other = [one, one, one, one + 1, Math.max(0, one - 1), 0, 2 ** 31, 2 ** 32 - 1];
  return other[pick(other.length)]!;
}

const { words, longs, join, u64 } = payload;
const index = (pick: Pick) => number(pick, 0, 0, 1);
const place = (pick: Pick) => USER_BASE + number(pick, 0, 4096, 65536, MEMORY - 4096);
const region = (pick: Pick) =>
  longs(
    GUEST_BASE + number(pick, 0, MEMORY, 65536),
    number(pick, MEMORY, MEMORY / 2, 4096),
    USER_BASE + number(pick, 0, MEMORY),
    number(pick, 0, 0, 4096),
  );
const inflight = (pick: Pick) =>
  join(
    longs(number(pick, 4096, 8192), number(pick, 0, 0, 64)),
    words(pick(4) | pick(300) << 16, 0),
  );

/** What a message of this type is likely to carry. */
const bodies: Partial<Record<number, (pick: Pick) => Uint8Array>> = {
  [Request.setFeatures]: (pick) =>
    u64(bits(Feature.version1, ...[28, 29, 30, 34, 26, 60].filter(() => pick(3) > 0))),
  [Request.setProtocolFeatures]: (pick) =>
    u64(bits(...Object.values(ProtocolFeature).filter(() => pick(8) > 0))),
  [Request.setMemTable]: (pick) => {
    const count = pick(4);
    return join(
      words(number(pick, count), 0),
      ...Array.from({ length: count }, () => region(pick)),
    );
  },
  [Request.addMemReg]: (pick) => join(longs(0), region(pick)),
  [Request.remMemReg]: (pick) => join(longs(0), region(pick)),
  [Request.setLogBase]: (pick) => longs(number(pick, 4096, 65536), number(pick, 0, 64)),
  [Request.setVringNum]: (pick) => words(index(pick), number(pick, 64, 128, 1, 32768)),
  [Request.setVringBase]: (pick) => words(index(pick), number(pick, 0, 0x8000_8000)),
  [Request.getVringBase]: (pick) => words(index(pick), 0),
  [Request.setVringEnable]: (pick) => words(index(pick), number(pick, 1)),
  [Request.setVringAddr]: (pick) =>
    join(words(index(pick), pick(3)), longs(place(pick), place(pick), place(pick), GUEST_BASE)),
  [Request.setVringKick]: (pick) => longs(index(pick) | (pick(4) === 0 ? 256 : 0)),
  [Request.setVringCall]: (pick) => longs(index(pick) | (pick(4) === 0 ? 256 : 0)),
  [Request.setVringErr]: (pick) => longs(index(pick) | (pick(4) === 0 ? 256 : 0)),
  [Request.getConfig]: (pick) => join(words(number(pick, 0, 32), 60, 0), new Uint8Array(60)),
  [Request.setConfig]: (pick) => join(words(number(pick, 32), 1, pick(3)), Uint8Array.of(pick(3))),
  [Request.getInflightFd]: inflight,
  [Request.setInflightFd]: inflight,
  [Request.setStatus]: (pick) => u64(BigInt(number(pick, 15, 11, 0))),
};

/** Throws away what the back-end says. False: it has hung up. */
function drain(frontend: Frontend, room: number): boolean {
  const { sys } = frontend.context;
  const fds: number[] = [];
  const iov = new IoVec().single(room, 4096);
  let got: number;
  do got = sys.recvmsg(frontend.fd, iov, MSG.DONTWAIT, fds, 8); while (got > 0);
  for (const fd of fds) sys.close(fd);
  return got === -Errno.EAGAIN;
}

function say(frontend: Frontend, pick: Pick): void {
  const type = pick(20) === 0 ? pick(50) : types[pick(types.length)]!;
  let body = bodies[type]?.(pick) ?? new Uint8Array(pick(3) * 4);
  if (pick(12) === 0) body = body.slice(0, pick(body.length + 1));
  if (pick(12) === 0) body = join(body, new Uint8Array(pick(16)));
  const good = [frontend.memoryFd, frontend.kicks[0] ?? frontend.memoryFd];
  const wanted = type === Request.setMemTable ? Math.floor(body.length / 32) : pick(2);
  const count = pick(8) === 0 ? pick(4) : wanted;
  const fds = Array.from({ length: count }, () => pick(12) === 0 ? frontend.fd : good[pick(2)]!);
  // A back-end that has hung up takes nothing any more.
  frontend.send(type, body, fds, pick(6) > 0);
}

/** How many messages were said before the back-end hung up. */
async function session(bed: ExportBed, pick: Pick, room: number): Promise<number> {
  const ring = [[], [Feature.indirectDesc, Feature.eventIdx], [Feature.ringPacked]][pick(3)]!;
  const frontend = bed.connect();
  const begun = pick(4) > 0;
  if (begun) {
    await frontend.start({ features: ring, memory: MEMORY, queues: 2, inflight: pick(2) === 0 });
    if (pick(2) === 0) {
      const disk = new BlkDriver(frontend, pick(2));
      for (let i = 0; i < 8; i++) void disk.submit({ type: pick(2), sector: i, read: 4096 });
      frontend.kick(pick(2), true);
    }
  } else frontend.makeMemory(MEMORY);
  let said = 0;
  for (; said < MESSAGES && drain(frontend, room); said++) {
    say(frontend, pick);
    if (pick(3) === 0) await new Promise<void>((go) => bed.context.loop.defer(go));
    if (begun && pick(4) === 0) frontend.kick(pick(2), true);
  }
  frontend.close();
  return said;
}

Deno.test("random messages in any order end in answers, or in the end of that connection", async () => {
  await withExport({ "num-queues": 2 }, async (bed) => {
    const room = bed.context.sys.allocate(4096);
    const open = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const first = await bed.start();
    assert.equal((await first.disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    first.frontend.close();
    await first.frontend.until(() => !bed.exported.inUse);
    const before = open();
    // Some requests take a while, so that there are some in flight when things change.
    bed.disk.later = (_op, offset) =>
      offset % 1024 === 0 ? undefined : new Promise((go) => bed.context.loop.defer(go));
    const pick = chance(1);
    let said = 0;
    for (let i = 0; i < SESSIONS; i++) said += await session(bed, pick, room.address);
    const { frontend, disk } = await bed.start();
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    frontend.close();
    await frontend.until(() => !bed.exported.inUse);
    assert.ok(said > 10 * SESSIONS, `${said} messages`);
    assert.equal(open(), before, "descriptors are left behind");
    room.unmap();
  });
});
