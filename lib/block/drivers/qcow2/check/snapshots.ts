/** The snapshot table under check: what of it can be counted, and its repair. */
import { BlockError, MAX_OFFSET } from "../../../../base/mod.ts";
import { Bounds } from "../format.ts";
import {
  EXTRA_MINIMUM,
  readSnapshotTable,
  serialiseSnapshotTable,
  type Snapshot,
  snapshotText,
  type TableProblems,
} from "../snapshots_table.ts";
import type { Findings } from "./find.ts";
import type { Mapping } from "./mapping.ts";
import { rebuildRefcounts, takeClusters } from "./rebuild.ts";
import { RefcountTable, setCount } from "./refcount_table.ts";

/** Offset in the header of the number of snapshots (4 bytes) and their table's offset (8 bytes). */
const HEADER_SNAPSHOTS = 60;

/** The snapshots of an image under check. */
export class CheckedSnapshots {
  #snapshots: readonly Snapshot[] = [];
  /** Bytes that the table takes in the file. */
  #length = 0;
  /** Errors that a new table mends. */
  #mendable = 0;
  /** Errors of the table itself that stay. */
  corruptions = 0;

  /** `before`: the same table, as it was read when a check began that goes on with `findings`. */
  constructor(private readonly findings: Findings, private readonly before?: CheckedSnapshots) {}

  /** Reads the table. Throws BlockError where that cannot be, after saying why. */
  async read(): Promise<void> {
    const { findings, before } = this;
    if (before !== undefined) {
      this.#snapshots = before.#snapshots;
      this.#length = before.#length;
      this.#mendable = before.#mendable;
      this.corruptions = before.corruptions;
      findings.result.corruptions += before.corruptions;
      return;
    }
    const { file, header } = findings;
    const count = this.#header();
    const read = async (offset: number, length: number) => {
      const bytes = new Uint8Array(length);
      await file.read(offset, bytes);
      return bytes;
    };
    const problems = this.#problems(count);
    const table = await readSnapshotTable(read, header.snapshotsOffset, count, problems);
    this.#snapshots = table.snapshots;
    this.#length = table.length;
    table.snapshots.forEach(({ extra }, index) => {
      if (header.version !== 3 || extra.length >= EXTRA_MINIMUM) return;
      if (findings.mendable(`snapshot table entry ${index} is incomplete`)) this.#mendable++;
      else this.corruptions++;
    });
  }

  /** How many snapshots the header's fields let us read. */
  #header(): number {
    const { findings } = this;
    const { header: { snapshotsOffset, snapshotCount }, geometry, options } = findings;
    const misplaced = snapshotsOffset % geometry.clusterSize !== 0 ||
      snapshotsOffset > MAX_OFFSET - Bounds.maxSnapshotTable;
    if (misplaced) {
      options.complain?.("ERROR snapshot table offset invalid");
      throw new BlockError("EINVAL", "Invalid argument");
    }
    const count = Math.min(snapshotCount, Bounds.maxSnapshots);
    const over = snapshotCount - count;
    if (over > 0) {
      this.#discard(
        over,
        "snapshot table too large",
        `all ${over} overhanging snapshots`,
        `Discarding ${over} overhanging snapshots`,
      );
    }
    return count;
  }

  #problems(count: number): TableProblems {
    return {
      tooMuchExtra: (index, size) =>
        this.#discard(
          1,
          "failed to read the snapshot table: Too much extra metadata in snapshot table entry " +
            index,
          "this extra metadata",
          `Discarding too much extra metadata in snapshot table entry ${index} ` +
            `(${size} > ${Bounds.maxSnapshotExtra})`,
        ),
      tooLarge: (index) =>
        this.#discard(
          count - index,
          "failed to read the snapshot table: Snapshot table is too big",
          `all ${count - index} overhanging snapshots`,
          `Discarding ${count - index} overhanging snapshots (snapshot table is too big)`,
        ),
    };
  }

  /** What is too much goes when all is repaired; otherwise there is no check. */
  #discard(count: number, message: string, what: string, said: string): void {
    const { findings, findings: { options } } = this;
    if (options.fix !== "all") {
      const hint = `You can force-remove ${what} with qemu-img check -r all`;
      options.complain?.(`ERROR ${message}`, hint);
      throw new BlockError("EFBIG", "File too large");
    }
    findings.say(said);
    this.#mendable += count;
  }

  /** Counts the L1 tables and the table itself. L1 tables that snapshots share are looked at once. */
  async count(mapping: Mapping): Promise<void> {
    const { findings } = this;
    const { clusterSize } = findings.geometry;
    const tables = new Map<string, { offset: number; entries: number; weight: number }>();
    for (const { id, name, l1Offset, l1Size } of this.#snapshots) {
      const who = () => `ERROR snapshot ${snapshotText(id)} (${snapshotText(name)})`;
      if (l1Offset % BigInt(clusterSize) !== 0n) {
        findings.corrupt(
          `${who()} l1_offset=0x${l1Offset.toString(16)}: L1 table is not cluster aligned; ` +
            "snapshot table entry corrupted",
        );
        findings.lost = true;
      } else if (l1Size > Bounds.maxL1Bytes / 8) {
        findings.corrupt(
          `${who()} l1_size=0x${l1Size.toString(16)}: L1 table is too large; ` +
            "snapshot table entry corrupted",
        );
        findings.lost = true;
      } else {
        const key = `${l1Offset}/${l1Size}`;
        const same = tables.get(key);
        if (same !== undefined) same.weight++;
        else tables.set(key, { offset: Number(l1Offset), entries: l1Size, weight: 1 });
      }
    }
    for (const { offset, entries, weight } of tables.values()) {
      await mapping.table(offset, entries, false, weight);
    }
    if (!findings.reference(findings.header.snapshotsOffset, this.#length)) findings.lost = true;
  }

  /** Whether `mend` would have something to do. */
  get broken(): boolean {
    return this.#mendable > 0;
  }

  /** Instead of `mend`: the table stays as it is, with its errors and with what can be read out of it by hand. */
  keep(): void {
    this.findings.say("ERROR the snapshot table is kept as it is");
    this.findings.result.corruptions += this.#mendable;
  }

  /**
   * Writes a new table in place of the old one, whose clusters are leaked afterwards. Counts on disk must be right,
   * and those of `findings` the same. The order: table, counts, header, each stable before the next.
   */
  async mend(): Promise<void> {
    const { findings } = this;
    const { file, header, geometry: { clusterSize } } = findings;
    const bytes = serialiseSnapshotTable(this.#snapshots, header.size);
    const field = new DataView(new ArrayBuffer(12));
    if (bytes.length > 0) {
      const clusters = Math.ceil(bytes.length / clusterSize);
      const first = takeClusters(findings, clusters);
      await file.write(first * clusterSize, bytes);
      await file.flush();
      await this.#raise(first, clusters);
      await file.flush();
      field.setUint32(0, this.#snapshots.length);
      field.setBigUint64(4, BigInt(first * clusterSize));
    }
    await file.write(HEADER_SNAPSHOTS, new Uint8Array(field.buffer));
    await file.flush();
    findings.result.corruptionsFixed += this.#mendable;
  }

  /** The clusters of the new table count one. */
  async #raise(first: number, clusters: number): Promise<void> {
    const { findings } = this;
    const { file, header, geometry } = findings;
    const entries = geometry.refcountBlockEntries;
    const table = await RefcountTable.read(file, header, geometry);
    const last = first + clusters - 1;
    for (let index = Math.floor(first / entries); index * entries <= last; index++) {
      if (await table.block(index) === undefined) return void await rebuildRefcounts(findings);
    }
    for (let index = Math.floor(first / entries); index * entries <= last; index++) {
      const block = (await table.block(index))!;
      const end = Math.min(last + 1, (index + 1) * entries);
      for (let at = Math.max(first, index * entries); at < end; at++) {
        setCount(block, at - index * entries, header.refcountOrder, 1);
      }
      await table.writeBlock(index, block);
    }
  }
}
