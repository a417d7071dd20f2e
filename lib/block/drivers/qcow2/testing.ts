/** For tests of the image without the driver's options: images of qemu-img, opened with options of the test. */
import { struct } from "../../../qmp/schema/core.ts";
import { BlockdevRef } from "../../../qmp/schema/blockdev.ts";
import { type Child, defineDriver, type DriverDefinition } from "../../mod.ts";
import { CompressedClusters } from "./compressed.ts";
import { geometryOf } from "./format.ts";
import { parseHeader } from "./header.ts";
import { openImage } from "./instance.ts";
import { readBytes } from "./metadata.ts";
import type { ImageOptions, MetadataKind, OpenedImage } from "./types.ts";

/** Everything is looked after. */
const ALL_KINDS: ReadonlySet<MetadataKind> = new Set<MetadataKind>([
  "header",
  "active L1 table",
  "active L2 table",
  "refcount table",
  "refcount block",
  "snapshot table",
  "inactive L1 table",
  "inactive L2 table",
  "bitmap directory",
]);

/** Options of a test image; the caches are small, so that slices come and go. */
function testOptions(clusterSize: number, change: Partial<ImageOptions> = {}): ImageOptions {
  return {
    l2CacheSize: 4 * Math.min(4096, clusterSize),
    l2CacheEntrySize: Math.min(4096, clusterSize),
    refcountCacheSize: 4 * clusterSize,
    cacheCleanInterval: 0,
    lazyRefcounts: false,
    passDiscardRequest: true,
    passDiscardSnapshot: true,
    passDiscardOther: false,
    discardNoUnref: false,
    overlapCheck: ALL_KINDS,
    ...change,
  };
}

/** The driver `qcow2`, reduced to the image. `opened` learns of each image. */
export function imageDriver(
  change: Partial<ImageOptions> = {},
  opened: (image: OpenedImage) => void = () => {},
): DriverDefinition<unknown> {
  return defineDriver({
    name: "qcow2",
    kind: "format",
    options: struct("BlockdevOptionsTestQcow2", { file: BlockdevRef }),
    async open(open) {
      const { context, nodeName, readOnly } = open;
      const file = await open.child("file", { role: ["metadata", "data", "primary"] });
      const backing = await open.optionalChild("backing", { role: ["cow"] });
      const header = parseHeader(await readBytes(context, file, 0, 1 << 16));
      const geometry = geometryOf(header);
      const { clusterSize } = geometry;
      const dataFile: Child | undefined = geometry.externalData
        ? await open.child("data-file", { role: ["data"] })
        : undefined;
      const image = await openImage({
        context,
        open,
        nodeName,
        header,
        file,
        data: dataFile ?? file,
        backing,
        readOnly,
        options: testOptions(clusterSize, change),
        codec: new CompressedClusters(context, nodeName, clusterSize, geometry.compression),
        hooks: { facts: () => ({}) },
      });
      opened(image);
      return image;
    },
  }) as DriverDefinition<unknown>;
}
