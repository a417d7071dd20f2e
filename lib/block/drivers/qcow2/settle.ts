/** Bringing an image to rest: what it does by itself, and what it would still write. */
import type { HeaderState } from "./header_state.ts";
import type { Image } from "./image.ts";

/** Waits until nothing is written in the background. What fails there is dirty still. */
export async function quiet({ commits, releases }: Image): Promise<void> {
  // Giving clusters back changes counts, and a commit gives clusters back.
  while (commits.running || releases.applying) {
    await commits.ended();
    await releases.idle();
  }
}

/** Everything is on disk, clusters given back included, and the dirty bit is gone. No request is in flight. */
export async function settle(image: Image, header: HeaderState): Promise<void> {
  await header.settled();
  await quiet(image);
  if (image.readOnly || image.corrupted) return;
  await image.commits.all();
  const { end, grown } = image.allocator;
  // The last cluster may have been written in part only; others expect all of it.
  if (grown && end > image.file.size && image.header.l1Size > 0) await fillUp(image, end);
  await header.markClean();
}

async function fillUp({ file }: Image, end: number): Promise<void> {
  try {
    await file.truncate(end, { exact: false, preallocation: "off" });
  } catch {
    // What is missing reads as zeroes.
  }
}
