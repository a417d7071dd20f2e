/** Which requests are refused: the ends of what is allowed. */
import assert from "node:assert/strict";
import { checkRequest, checkStatusRange, payloadLength } from "./check.ts";
import { Cmd, CmdFlag, Framing, MAX_PAYLOAD, NbdErrno, RequestHeader } from "./wire.ts";

const SIZE = 64 * 1024 * 1024;
const on = { size: SIZE, writable: true, framing: Framing.structured, contexts: 1 };

function request(type: number, offset: number, length: number): RequestHeader {
  return Object.assign(new RequestHeader(), { type, offset, length });
}
const errorOf = (type: number, offset: number, length: number, change = {}) =>
  checkRequest(request(type, offset, length), { ...on, ...change })?.error;

Deno.test("requests reach up to the last byte, and not beyond it, of wherever they begin", () => {
  for (const [name, type] of Object.entries(Cmd)) {
    if (name === "flush" || name === "disc") continue;
    const full = name === "write" || name === "writeZeroes" ? NbdErrno.ENOSPC : NbdErrno.EINVAL;
    assert.equal(errorOf(type, SIZE - 512, 512), undefined, name);
    assert.equal(errorOf(type, SIZE - 512, 513), full, name);
    assert.equal(errorOf(type, SIZE, 1), full, name);
    assert.equal(errorOf(type, 2 ** 63, 512), full, name);
  }
  assert.equal(errorOf(Cmd.flush, 2 ** 63, 0), undefined);
});

Deno.test("a payload is 32 MiB at most; what has none may be longer", () => {
  for (const type of [Cmd.read, Cmd.write, Cmd.cache]) {
    assert.equal(errorOf(type, 0, MAX_PAYLOAD), undefined);
    assert.equal(errorOf(type, 0, MAX_PAYLOAD + 1), NbdErrno.EINVAL);
  }
  for (const type of [Cmd.trim, Cmd.writeZeroes, Cmd.blockStatus]) {
    assert.equal(errorOf(type, 0, SIZE), undefined);
  }
});

Deno.test("nothing changes an export that is read-only", () => {
  for (const type of [Cmd.write, Cmd.trim, Cmd.writeZeroes]) {
    assert.equal(errorOf(type, 0, 512, { writable: false }), NbdErrno.EPERM);
  }
  for (const type of [Cmd.read, Cmd.flush, Cmd.cache, Cmd.blockStatus]) {
    assert.equal(errorOf(type, 0, 512, { writable: false }), undefined);
  }
});

Deno.test("block status needs a context and a length, also where the length is in the payload", () => {
  assert.equal(errorOf(Cmd.blockStatus, 0, 512, { contexts: 0 }), NbdErrno.EINVAL);
  assert.equal(errorOf(Cmd.blockStatus, 0, 0), NbdErrno.EINVAL);
  const header = request(Cmd.blockStatus, SIZE - 512, 16);
  assert.equal(checkStatusRange(header, 512, SIZE), undefined);
  assert.equal(checkStatusRange(header, 513, SIZE)?.error, NbdErrno.EINVAL);
  assert.equal(checkStatusRange(header, 0, SIZE)?.error, NbdErrno.EINVAL);
});

/** The commands that take a flag with this framing. */
function takers(flag: number, framing: Framing): string[] {
  const names = Object.keys(Cmd).filter((name) => name !== "disc") as (keyof typeof Cmd)[];
  return names.filter((name) => {
    const header = request(Cmd[name], 0, 512);
    header.flags = flag;
    // What a write must have besides.
    if (name === "write" && framing === Framing.extended) header.flags |= CmdFlag.payloadLen;
    return checkRequest(header, { ...on, framing }) === undefined;
  });
}

Deno.test("each flag is taken by the commands that it is for, and by no others", () => {
  const { simple, structured, extended } = Framing;
  const all = ["read", "write", "flush", "trim", "cache", "writeZeroes", "blockStatus"];
  for (const framing of [simple, structured, extended]) {
    assert.deepEqual(takers(CmdFlag.fua, framing), all);
    assert.deepEqual(takers(CmdFlag.noHole, framing), ["writeZeroes"]);
    assert.deepEqual(takers(CmdFlag.fastZero, framing), ["writeZeroes"]);
    assert.deepEqual(takers(CmdFlag.reqOne, framing), ["blockStatus"]);
    assert.deepEqual(takers(CmdFlag.df, framing), framing === simple ? [] : ["read"]);
    const payload = framing === extended ? ["write", "blockStatus"] : [];
    assert.deepEqual(takers(CmdFlag.payloadLen, framing), payload);
    assert.deepEqual(takers(1 << 6, framing), []);
  }
});

Deno.test("with extended headers a write says that it has a payload, unless it has none", () => {
  const { extended, structured } = Framing;
  assert.equal(errorOf(Cmd.write, 0, 512, { framing: extended }), NbdErrno.EINVAL);
  assert.equal(errorOf(Cmd.write, 0, 0, { framing: extended }), undefined);
  const header = request(Cmd.write, 0, 512);
  assert.deepEqual([payloadLength(header, structured), payloadLength(header, extended)], [512, 0]);
  header.flags = CmdFlag.payloadLen;
  assert.deepEqual([payloadLength(header, structured), payloadLength(header, extended)], [
    512,
    512,
  ]);
  header.type = Cmd.read;
  assert.deepEqual([payloadLength(header, structured), payloadLength(header, extended)], [0, 512]);
});
