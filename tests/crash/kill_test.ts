/** kill -9 in the middle of writes: whatever a flush or FUA acknowledged is in the image. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { noise, sparse } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, FLAG } from "../harness/nbd_wire.ts";
import { serve } from "../harness/serve.ts";
import { until } from "../harness/wait.ts";

const BLOCK = 4096;
const BLOCKS = 256;
const ROUNDS = 4;

/** What a block must hold: the newest content known to be safe, or anything sent after it. */
interface Ledger {
  /** Sequence number of the newest write that a flush or FUA has covered; 0: none. */
  readonly safe: number[];
  /** Sequence numbers sent and not yet covered, in order. */
  readonly loose: number[][];
}

/** The content of a block says which write it came from. */
function content(block: number, sequence: number): Uint8Array {
  const bytes = noise(BLOCK, block * 65536 + sequence);
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(0, sequence);
  return bytes;
}

/** Writes until the connection dies; records what was acknowledged, and how far. */
async function storm(
  peer: NbdPeer,
  ledger: Ledger,
  dice: Uint32Array,
  first: number,
): Promise<number> {
  let sequence = first;
  try {
    for (let at = 0;; at++) {
      const batch: { block: number; sequence: number; fua: boolean; cookie: bigint }[] = [];
      const blocks = new Set(
        Array.from({ length: 8 }, (_, k) => dice[(at * 8 + k) % dice.length]! % BLOCKS),
      );
      for (const block of blocks) {
        sequence++;
        ledger.loose[block]!.push(sequence);
        const fua = sequence % 5 === 0;
        const cookie = await peer.ask({
          type: CMD.WRITE,
          flags: fua ? FLAG.FUA : 0,
          offset: block * BLOCK,
          payload: content(block, sequence),
        });
        batch.push({ block, sequence, fua, cookie });
      }
      for (const each of batch) {
        assert.equal((await peer.answer(each.cookie)).error, 0);
        if (each.fua) settle(ledger, each.block, each.sequence);
      }
      if (at % 3 === 2) {
        await peer.flush();
        // Everything acknowledged before the flush was sent is covered; here that is everything.
        for (let block = 0; block < BLOCKS; block++) settle(ledger, block, sequence);
      }
    }
  } catch (error) {
    assert.match(`${error}`, /closed the connection|Broken pipe|reset/i);
    return sequence;
  }
}

function settle(ledger: Ledger, block: number, sequence: number): void {
  const loose = ledger.loose[block]!;
  const covered = loose.filter((one) => one <= sequence);
  if (covered.length > 0) ledger.safe[block] = covered.at(-1)!;
  ledger.loose[block] = loose.filter((one) => one > sequence);
}

for (const [name, node] of [["the page cache", ""], ["O_DIRECT", ",cache.direct=on"]] as const) {
  Deno.test(`kill -9 during writes loses nothing that was flushed, with ${name}`, async () => {
    await using dir = TestDir.make();
    sparse(dir.file("disk.raw"), BLOCK * BLOCKS);
    const dice = new Uint32Array(noise(4 * 4096, 5).buffer);
    const ledger: Ledger = {
      safe: Array.from({ length: BLOCKS }, () => 0),
      loose: Array.from({ length: BLOCKS }, () => []),
    };
    let sequence = 0;
    for (let round = 0; round < ROUNDS; round++) {
      for (const left of ["pid", "nbd", "qmp"]) await Deno.remove(dir.file(left)).catch(() => {});
      const daemon = await serve({ dir, node });
      using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
      const before = sequence;
      const running = storm(peer, ledger, dice, sequence);
      const enough = 150 + round * 130;
      const total = () => ledger.safe.filter((one) => one > before).length + sum(ledger);
      await until(() => total() > Math.min(enough, BLOCKS - 40), "some writes");
      daemon.kill("SIGKILL");
      sequence = await running;
      assert.equal((await daemon.end()).signal, "SIGKILL");
      verify(Deno.readFileSync(dir.file("disk.raw")), ledger, round);
    }
    assert.ok(ledger.safe.filter((one) => one > 0).length > 50, "too little was ever flushed");
  });
}

const sum = (ledger: Ledger): number =>
  ledger.loose.reduce((total, loose) => total + loose.length, 0);

function verify(image: Uint8Array, ledger: Ledger, round: number): void {
  for (let block = 0; block < BLOCKS; block++) {
    const bytes = image.subarray(block * BLOCK, (block + 1) * BLOCK);
    const allowed = [ledger.safe[block]!, ...ledger.loose[block]!];
    const sequence = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
    const torn = allowed.length > 1; // a write that was under way may be there in part
    assert.ok(
      allowed.includes(sequence),
      `round ${round}: block ${block} holds write ${sequence}, allowed are ${allowed}`,
    );
    if (torn || sequence === 0) continue;
    assert.deepEqual(bytes, content(block, sequence), `round ${round}: block ${block}`);
  }
  for (let block = 0; block < BLOCKS; block++) {
    // What is there now is the state that the next round starts from.
    const view = new DataView(image.buffer, image.byteOffset + block * BLOCK);
    ledger.safe[block] = view.getUint32(0);
    if (ledger.loose[block]!.length > 0) ledger.loose[block] = [ledger.safe[block]!];
  }
}
