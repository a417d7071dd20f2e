/** `qsd snapshot [-l|-c NAME|-a NAME|-d NAME] IMAGE`: internal snapshots of an image that nobody has open. */
import { BlockError, CommandError } from "../base/mod.ts";
import type { InternalSnapshot, InternalSnapshots } from "../block/mod.ts";
import { type Context, errnoNumber } from "../sys/mod.ts";
import { makeObjects } from "./objects.ts";
import { imageGraph, openImage, useOf } from "./open.ts";
import { snapshotList } from "./snapshot_list.ts";
import {
  accessOf,
  type ImageAccess,
  onlyImage,
  type Output,
  parseWords,
  usageError,
} from "./words.ts";

/** How it is used. */
export const snapshotUsage = `Usage: PROGRAM snapshot [OPTION]... IMAGE
Lists and changes the internal snapshots of an image that nobody has open, as qemu-img snapshot
does.

  -l                lists them
  -c NAME           takes one
  -a NAME           makes the disk what it was; NAME is an ID or a name
  -d NAME           removes the one with that name
  --image-opts      IMAGE is options, as driver=qcow2,file.filename=NAME
  --object OBJECT   makes an object, as the daemon's option does
  -U                does not lock the image, nor cares for others' locks (with -l only)
  -q                taken, as nothing is said but the list

Exit status: 0 when it was done, else 1.
`;

const ACTIONS = ["-l", "-c", "-a", "-d"];
const names = {
  names: [...ACTIONS, "-U", "-q", "--image-opts", "--object"],
  withValue: ["-c", "-a", "-d", "--object"],
  long: { "--force-share": "-U", "--quiet": "-q" },
};

/** The command line, parsed. */
interface SnapshotArguments extends ImageAccess {
  readonly image: string;
  readonly action: string | undefined;
  readonly name: string;
}

function parse(args: readonly string[]): SnapshotArguments {
  const words = parseWords(args, names);
  const { given } = words;
  const actions = ACTIONS.flatMap((action) =>
    (given.get(action) ?? []).map((name) => ({ action, name }))
  );
  if (actions.length > 1) throw usageError("Cannot mix '-l', '-a', '-c', '-d'");
  return {
    image: onlyImage(words),
    action: actions[0]?.action,
    name: actions[0]?.name ?? "",
    ...accessOf(words),
  };
}

/** Runs it; returns the exit status. Throws CommandError, with hints. */
export async function snapshotCommand(
  context: Context,
  _program: string,
  words: Output,
  args: readonly string[],
): Promise<number> {
  const given = parse(args);
  const { image, action } = given;
  if (makeObjects(context, words, given.objects)) return 0;
  const graph = imageGraph(context);
  try {
    const writes = action !== undefined && action !== "-l";
    const use = useOf(context, { describe: "the snapshot command", image, writes }, given);
    const opened = await openImage(context, graph, use);
    try {
      await act(context, opened.snapshots, given, words);
    } finally {
      await opened.backend.detach();
    }
  } finally {
    await graph.closeAll();
  }
  return 0;
}

async function act(
  context: Context,
  snapshots: InternalSnapshots | undefined,
  { action, name }: SnapshotArguments,
  words: Output,
): Promise<void> {
  const list = await listOf(snapshots);
  switch (action) {
    case "-l":
      words.out(snapshotList(list ?? []));
      return;
    case "-c":
      return await create(context, snapshots, name);
    case "-a": {
      if (snapshots === undefined) {
        throw refused("apply", name, "Block driver does not support snapshots");
      }
      const found = list?.find(({ id }) => id === name) ?? list?.find((one) => one.name === name);
      if (found === undefined) {
        throw refused("apply", name, "Failed to load snapshot: No such file or directory");
      }
      return await attempt("apply", name, () => snapshots.apply(found.id));
    }
    case "-d": {
      const found = list?.find((one) => one.name === name);
      if (found === undefined) throw refused("delete", name, "snapshot not found");
      return await attempt("delete", name, () => snapshots!.delete(found.id));
    }
  }
}

/** Undefined where the image cannot have any. */
async function listOf(
  snapshots: InternalSnapshots | undefined,
): Promise<readonly InternalSnapshot[] | undefined> {
  try {
    return await snapshots?.list();
  } catch (error) {
    if (error instanceof BlockError && error.errno === "ENOTSUP") return undefined;
    throw error;
  }
}

function refused(what: string, name: string, why: string): CommandError {
  return new CommandError(`Could not ${what} snapshot '${name}': ${why}`);
}

async function attempt(what: string, name: string, task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (error instanceof BlockError) throw refused(what, name, error.message);
    throw error;
  }
}

/** No virtual machine ran: its clocks stand at zero. */
async function create(
  context: Context,
  snapshots: InternalSnapshots | undefined,
  name: string,
): Promise<void> {
  const now = context.sys.realtimeUs();
  const dateSec = Math.floor(now / 1e6);
  const dateNsec = (now % 1e6) * 1000;
  try {
    if (snapshots === undefined) throw new BlockError("ENOTSUP", "Operation not supported");
    await snapshots.create({ name, dateSec, dateNsec, vmClockNsec: 0n, icount: 0n });
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw refused("create", name, `-${errnoNumber(error.errno) ?? 5} (${error.message})`);
  }
}
