/** QMP commands on dirty bitmaps. */
import { CommandError } from "../../base/mod.ts";
import { loadCrypto } from "../../sys/mod.ts";
import type { bitmapCommandTable } from "../../qmp/schema/bitmaps.ts";
import type { BlockDirtyInfoValue } from "../../qmp/schema/block.ts";
import type { Handlers } from "../../qmp/schema/core.ts";
import type { DirtyBitmap } from "./bitmap.ts";
import { addBitmap, type BitmapNode, checkSource, removeBitmap } from "./life.ts";
import type { BitmapList } from "./list.ts";

/** What the commands need of the graph. */
export interface BitmapGraph {
  find(name: string): BitmapNode | undefined;
  lookup(device: string | undefined, nodeName: string | undefined): BitmapNode;
  /** Runs a change of the graph, or of what hangs on its nodes, when no other runs. */
  alone<T>(task: () => Promise<T>): Promise<T>;
  /** Throws CommandError if writes to the node are not all seen in this context. */
  requireHere(node: BitmapNode): void;
}

interface Found {
  readonly node: BitmapNode;
  readonly list: BitmapList;
  readonly bitmap: DirtyBitmap;
}

/** The handlers of bitmapCommandTable for one graph. */
export function bitmapCommands(graph: BitmapGraph): Handlers<typeof bitmapCommandTable> {
  const find = (nodeName: string, name: string): Found => {
    const node = graph.find(nodeName);
    if (node === undefined) throw new CommandError(`Node '${nodeName}' not found`);
    const bitmap = node.bitmaps?.find(name);
    if (bitmap === undefined) throw new CommandError(`Dirty bitmap '${name}' not found`);
    return { node, list: node.bitmaps!, bitmap };
  };
  const record = (node: string, name: string, recording: boolean) => {
    const { list, bitmap } = find(node, name);
    bitmap.check({ readOnly: true });
    list.setRecording(bitmap, recording);
    return {};
  };
  return {
    "block-dirty-bitmap-add": async (args) => {
      const { node: nodeName, name, granularity, persistent = false, disabled = false } = args;
      return await graph.alone(async () => {
        const node = graph.lookup(nodeName, nodeName);
        graph.requireHere(node);
        await addBitmap(node, { name, granularity, persistent, disabled });
        return {};
      });
    },
    "block-dirty-bitmap-remove": async ({ node, name }) =>
      await graph.alone(async () => {
        const found = find(node, name);
        await removeBitmap(found.node, found.bitmap);
        return {};
      }),
    "block-dirty-bitmap-clear": ({ node, name }) => {
      const { bitmap } = find(node, name);
      bitmap.check();
      bitmap.bits.clearAll();
      return {};
    },
    "block-dirty-bitmap-enable": ({ node, name }) => record(node, name, true),
    "block-dirty-bitmap-disable": ({ node, name }) => record(node, name, false),
    "block-dirty-bitmap-merge": ({ node, target, bitmaps }) => {
      const { bitmap } = find(node, target);
      const sources = bitmaps.map((source) => {
        const found = typeof source === "string"
          ? find(node, source)
          : find(source.node, source.name);
        checkSource(bitmap, found.bitmap);
        return found.bitmap;
      });
      bitmap.check();
      for (const { bits } of sources) bitmap.bits.merge(bits);
      return {};
    },
    "x-debug-block-dirty-bitmap-sha256": ({ node, name }) => ({
      sha256: loadCrypto().createHash("sha256").update(find(node, name).bitmap.bits.bytes)
        .digest("hex"),
    }),
  };
}

/** What query-named-block-nodes tells, newest first. */
export function bitmapInfo(list: BitmapList): BlockDirtyInfoValue[] {
  return list.all().toReversed().map((bitmap) => ({
    name: bitmap.name,
    count: bitmap.bits.count * bitmap.granularity,
    granularity: bitmap.granularity,
    recording: bitmap.recording,
    busy: bitmap.busy,
    persistent: bitmap.persistent,
    ...(bitmap.inconsistent ? { inconsistent: true } : {}),
  }));
}
