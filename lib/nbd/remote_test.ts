import assert from "node:assert/strict";
import type { ExportSurroundings } from "../export/mod.ts";
import type { IoThread, PartListener } from "../thread/mod.ts";
import type { NbdExport } from "./export.ts";
import { type RemoteClient, RemoteExport } from "./remote.ts";

/** A thread whose parts answer when they are told to. */
function made() {
  const calls: PromiseWithResolvers<void>[] = [];
  let listener: PartListener | undefined;
  const thread = {
    start: (_kind: string, _options: unknown, heard: PartListener) => {
      listener = heard;
      const call = () => {
        const answer = Promise.withResolvers<void>();
        calls.push(answer);
        return answer.promise;
      };
      return Promise.resolve({ call, post: () => {}, stop: () => Promise.resolve() });
    },
  } as unknown as IoThread;
  const around = {
    thread,
    use: () => Promise.resolve({ release: () => {} }),
    failed: () => {},
  } as unknown as ExportSurroundings;
  const closedFds: number[] = [];
  const closed: RemoteClient[] = [];
  const options = {
    node: "n",
    export: { name: "n", writable: false, writethrough: false, allocationDepth: false },
    bitmaps: [],
  } as unknown as ConstructorParameters<typeof RemoteExport>[1];
  const remote = new RemoteExport(around, options, (fd) => closedFds.push(fd));
  const take = (fd: number) =>
    remote.take(thread, {} as NbdExport, { closed: (client) => closed.push(client) }, {
      fd,
      peer: `client ${fd}`,
      framing: 0,
      contexts: [],
      bytes: new Uint8Array(0),
    });
  return { take, calls, closedFds, closed, lose: () => listener!.lost() };
}

/** All that is ready to run has run. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("a client on its way to a thread that fails is hung up on, and reported once", async () => {
  const { take, calls, closedFds, closed, lose } = made();
  const here = take(7);
  await settled();
  calls[0]!.resolve();
  const underWay = take(8);
  await settled();
  // As an IOThread does it: the calls fail, and then its parts are lost.
  calls[1]!.reject(new Error("the thread has failed"));
  lose();
  await settled();
  assert.deepEqual(closedFds, [8], "what has arrived is the thread's to close");
  assert.deepEqual(closed, [here, underWay]);
});

Deno.test("a client that a part does not take is hung up on, and reported once", async () => {
  const { take, calls, closedFds, closed } = made();
  const client = take(9);
  await settled();
  calls[0]!.reject(new Error("the part of the export is gone"));
  await settled();
  assert.deepEqual(closedFds, [9]);
  assert.deepEqual(closed, [client]);
});
