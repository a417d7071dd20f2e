/** Moving the active L1 table: growing it, or putting another one in its place. */
import type { Image } from "./image.ts";
import { type WordTable, writeBytes } from "./metadata.ts";

/** The active L1 table moves to a new place with these entries: from one moment to the next, by the header. */
export async function switchL1(image: Image, table: WordTable): Promise<void> {
  const { l1, geometry, overlap } = image;
  const old = { offset: l1.offset, length: l1.length };
  const bytes = table.length * 8;
  let offset = 0;
  if (bytes > 0) {
    offset = await image.allocate(bytes);
    try {
      await image.commit();
      await writeBytes(image.context, image.file, offset, table.bytes());
      await image.updateHeader({ l1Offset: offset, l1Size: table.length });
    } catch (error) {
      // Only after the next commit: the header that leads there may be in the file until then.
      image.release(offset, bytes, "never");
      throw error;
    }
  }
  for (let i = 0; i < old.length; i++) {
    if (l1.target(i) !== 0) overlap.retire(l1.target(i), geometry.clusterSize, "active L2 table");
  }
  overlap.retire(old.offset, old.length * 8, "active L1 table");
  l1.replace(table, offset);
  overlap.add(offset, bytes, "active L1 table");
  for (let i = 0; i < l1.length; i++) {
    if (l1.target(i) !== 0) overlap.add(l1.target(i), geometry.clusterSize, "active L2 table");
  }
  if (old.length > 0) image.release(old.offset, old.length * 8, "other");
}
