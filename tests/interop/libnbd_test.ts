/** libnbd as a client: block status, structured reads, DF, cache, zeroes, the edge of the export. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { noise, sparse } from "../harness/images.ts";
import { serve } from "../harness/serve.ts";
import { lacksLibnbd, ok, PYTHON } from "../harness/tools.ts";

const ignore = lacksLibnbd("interop/libnbd");
const MIB = 1048576;

/** Runs a script with `h` connected to the export; `uri` and `model` (the image's bytes) are set. */
async function script(body: string, connect = "h.connect_uri(uri)"): Promise<string> {
  await using dir = TestDir.make();
  sparse(dir.file("disk.raw"), 8 * MIB, [{ at: MIB, bytes: noise(2 * MIB, 5) }]);
  Deno.copyFileSync(dir.file("disk.raw"), dir.file("model.raw"));
  await using daemon = await serve({ dir, node: ",discard=unmap" });
  const program = `
import nbd, sys
uri = ${JSON.stringify(daemon.uri("disk"))}
model = bytearray(open(${JSON.stringify(dir.file("model.raw"))}, "rb").read())
M = 1048576
h = nbd.NBD()
h.set_strict_mode(0)
${connect}
${body}
h.shutdown()
open(${JSON.stringify(dir.file("model.raw"))}, "wb").write(model)
`;
  const said = await ok(PYTHON, ["-c", program]);
  assert.equal((await daemon.stop()).status, 0);
  const args = ["compare", "-f", "raw", "-F", "raw", dir.file("disk.raw"), dir.file("model.raw")];
  assert.match(await ok("qemu-img", args), /identical/);
  return said;
}

/** What a script prints, checked line by line. */
const promise = (name: string, body: string, said: string, connect?: string) =>
  Deno.test({
    name: `libnbd: ${name}`,
    ignore,
    fn: async () => assert.equal(await script(body, connect), said),
  });

promise(
  "block status in one call tells data from holes",
  `
extents = []
h.block_status(8 * M, 0, lambda context, offset, entries, error: extents.extend([context] + entries))
print(extents)`,
  `['base:allocation', ${MIB}, 3, ${2 * MIB}, 0, ${5 * MIB}, 3]\n`,
  `h.add_meta_context("base:allocation"); h.connect_uri(uri)`,
);

promise(
  "block status with REQ_ONE gives one extent",
  `
extents = []
h.block_status(4 * M, M + 4096, lambda c, o, entries, e: extents.extend(entries), nbd.CMD_FLAG_REQ_ONE)
print(len(extents), extents[0] <= 8 * M, extents[1])`,
  "2 True 0\n",
  `h.add_meta_context("base:allocation"); h.connect_uri(uri)`,
);

promise(
  "structured reads cover the range with data and holes, and DF gives one piece",
  `
def parts(flags):
    seen = []
    def chunk(data, offset, status, error):
        seen.append((offset, len(data), status))
        assert bytes(data) == bytes(model[offset:offset + len(data)])
    buf = h.pread_structured(4 * M, 0, chunk, flags)
    assert buf == model[:4 * M]
    assert sorted(seen)[0][0] == 0 and sum(s[1] for s in seen) == 4 * M
    return seen
kinds = {s[2] for s in parts(0)}
print(kinds == {nbd.READ_DATA, nbd.READ_HOLE}, len(parts(nbd.CMD_FLAG_DF)))`,
  "True 1\n",
);

promise(
  "without structured replies the same bytes come",
  `print(h.get_structured_replies_negotiated(), h.pread(4 * M, 0) == model[:4 * M])`,
  "False True\n",
  "h.set_request_structured_replies(False); h.connect_uri(uri)",
);

promise(
  "zeroes, with and without holes, fast, with FUA",
  `
for offset, flags in [(M, 0), (M + 65536, nbd.CMD_FLAG_NO_HOLE), (M + 200001, nbd.CMD_FLAG_FUA)]:
    h.zero(50000, offset, flags)
    model[offset:offset + 50000] = bytes(50000)
try:
    h.zero(65536, 2 * M, nbd.CMD_FLAG_FAST_ZERO)
    model[2 * M:2 * M + 65536] = bytes(65536)
except nbd.Error as error:
    assert error.errno == "EOPNOTSUPP", error
print(h.pread(8 * M, 0) == model)`,
  "True\n",
);

promise(
  "writes, trims, caches and flushes",
  `
h.pwrite(b"x" * 12345, 54321, nbd.CMD_FLAG_FUA)
model[54321:54321 + 12345] = b"x" * 12345
h.cache(M, 0)
h.trim(M, 2 * M)
assert h.pread(M, 2 * M) == bytes(M)
model[2 * M:3 * M] = bytes(M)
h.flush()
print(h.pread(8 * M, 0) == model)`,
  "True\n",
);

promise(
  "at the edge: the last byte is read, the one after it is EINVAL, and the connection goes on",
  `
print(h.pread(1, 8 * M - 1) == model[-1:])
for offset, count in [(8 * M, 1), (8 * M - 1, 2), (2**62, 512)]:
    try:
        h.pread(count, offset)
    except nbd.Error as error:
        print(error.errno)
for offset in [8 * M, 8 * M - 1]:
    try:
        h.pwrite(b"ab", offset)
    except nbd.Error as error:
        print(error.errno in ("ENOSPC", "EINVAL"))
print(h.pread(512, 0) == model[:512])`,
  "True\nEINVAL\nEINVAL\nEINVAL\nTrue\nTrue\nTrue\n",
);

promise(
  "what the export can do",
  `
print(h.get_size() == 8 * M, h.is_read_only(), h.can_flush(), h.can_fua(), h.can_trim(), h.can_zero())
print(h.can_fast_zero(), h.can_df(), h.can_multi_conn(), h.can_cache())
print(h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED), h.get_block_size(nbd.SIZE_MAXIMUM))`,
  `True False True True True True\nTrue True True True\n1 4096 ${32 * MIB}\n`,
);

promise(
  "sixty-four requests in flight, written and read back",
  `
cookies = []
for at in range(64):
    data = bytes([at + 1]) * 65536
    model[at * 65536:(at + 1) * 65536] = data
    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at * 65536))
while cookies:
    cookies = [c for c in cookies if not h.aio_command_completed(c)]
    if cookies: h.poll(-1)
print(h.pread(8 * M, 0) == model)`,
  "True\n",
);
