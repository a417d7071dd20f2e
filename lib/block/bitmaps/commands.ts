/** QMP commands on dirty bitmaps. */
import { CommandError, type MaybePromise } from "../../base/mod.ts";
import { loadCrypto } from "../../sys/mod.ts";
import type { bitmapCommandTable } from "../../qmp/schema/bitmaps.ts";
import type { BlockDirtyInfoValue } from "../../qmp/schema/block.ts";
import type { Handlers } from "../../qmp/schema/core.ts";
import type { BitmapChange } from "./away.ts";
import type { DirtyBitmap } from "./bitmap.ts";
import { addBitmap, type BitmapNode, checkMerge, removeBitmap } from "./life.ts";
import type { BitmapList } from "./list.ts";

/** What the commands need of the graph. */
export interface BitmapGraph {
  find(name: string): BitmapNode | undefined;
  lookup(device: string | undefined, nodeName: string | undefined): BitmapNode;
  /** Runs a change of the graph, or of what hangs on its nodes, when no other runs. */
  alone<T>(task: () => Promise<T>): Promise<T>;
  /** Runs `act` with the node's driver open in this context. In `alone` only. */
  atHome<T>(node: BitmapNode, act: () => Promise<T>): Promise<T>;
  /** Changes a bitmap where its node runs. In `alone` only. Throws CommandError with nothing changed. */
  changeBitmap(node: BitmapNode, bitmap: DirtyBitmap, change: BitmapChange): MaybePromise<void>;
  /** Learns what threads have told nobody yet. */
  refresh(): Promise<void>;
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
  const change = (node: string, name: string, how: (found: Found) => BitmapChange) =>
    graph.alone(async () => {
      const found = find(node, name);
      await graph.changeBitmap(found.node, found.bitmap, how(found));
      return {};
    });
  const record = (node: string, name: string, recording: boolean) =>
    change(node, name, ({ bitmap }) => {
      bitmap.check({ readOnly: true });
      return { op: "record", recording };
    });
  return {
    "block-dirty-bitmap-add": async (args) => {
      const { node: nodeName, name, granularity, persistent = false, disabled = false } = args;
      return await graph.alone(async () => {
        const node = graph.lookup(nodeName, nodeName);
        const wanted = { name, granularity, persistent, disabled };
        await graph.atHome(node, () => addBitmap(node, wanted));
        return {};
      });
    },
    "block-dirty-bitmap-remove": async ({ node, name }) =>
      await graph.alone(async () => {
        const found = find(node, name);
        found.bitmap.check({ inconsistent: true });
        await graph.atHome(found.node, () => removeBitmap(found.node, found.bitmap));
        return {};
      }),
    "block-dirty-bitmap-clear": ({ node, name }) =>
      change(node, name, ({ bitmap }) => {
        bitmap.check();
        return { op: "clear" };
      }),
    "block-dirty-bitmap-enable": ({ node, name }) => record(node, name, true),
    "block-dirty-bitmap-disable": ({ node, name }) => record(node, name, false),
    "block-dirty-bitmap-merge": ({ node, target, bitmaps }) =>
      change(node, target, ({ bitmap }) => {
        const sources = bitmaps.map((source) => {
          const found = typeof source === "string"
            ? find(node, source)
            : find(source.node, source.name);
          checkMerge(bitmap, found.bitmap);
          return found.bitmap.bits.state;
        });
        bitmap.check();
        return { op: "merge", sources };
      }),
    "x-debug-block-dirty-bitmap-sha256": ({ node, name }) =>
      graph.alone(async () => {
        await graph.refresh();
        const { bytes } = find(node, name).bitmap.bits;
        return { sha256: loadCrypto().createHash("sha256").update(bytes).digest("hex") };
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
