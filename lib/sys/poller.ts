/**
 * The poller thread: sleeps in epoll_wait for all contexts that have parked, and wakes the right one. This
 * file is the whole program of a Worker and imports nothing, so that it runs from source, bundled and compiled.
 *
 * Message in: `{ master, words, epollEventSize, epollDataOffset }`. In the master set, event data 0 is the
 * stop eventfd; data n is the context whose word is words[n]. Message out, once, at the end: "done".
 */

/** What the poller is told when it starts. */
export interface PollerStart {
  master: number;
  words: Int32Array<SharedArrayBuffer>;
  epollEventSize: number;
  epollDataOffset: number;
}

const CAPACITY = 64;

function run(start: PollerStart): void {
  const libc = Deno.dlopen("libc.so.6", {
    epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
  });
  const bytes = new Uint8Array(CAPACITY * start.epollEventSize);
  const view = new DataView(bytes.buffer);
  for (;;) {
    // -1 is EINTR (a signal came in on this thread): wait again.
    const count = libc.symbols.epoll_wait(start.master, bytes, CAPACITY, -1);
    let stop = false;
    for (let i = 0; i < count; i++) {
      const at = i * start.epollEventSize + start.epollDataOffset;
      const context = view.getUint32(at, true);
      if (context === 0) {
        stop = true;
        continue;
      }
      Atomics.add(start.words, context, 1);
      Atomics.notify(start.words, context);
    }
    if (stop) break;
  }
  libc.close();
}

/** What a worker's global scope offers. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<PollerStart>) => void) | null;
  postMessage(message: string): void;
  close(): void;
}

const scope = globalThis as unknown as WorkerScope;
if (typeof scope.postMessage === "function") {
  scope.onmessage = (event) => {
    run(event.data);
    scope.postMessage("done");
  };
}
