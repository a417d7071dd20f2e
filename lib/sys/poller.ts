/**
 * The poller thread: sleeps in epoll_wait for all contexts that have parked, and wakes the right one. Its program
 * is the text of one function, in a data: URL: so it needs no file beside a bundle or an executable, and no
 * permission to read one. The function may therefore use nothing of this module; minifiers may rename within it.
 *
 * Message in: a PollerStart. In the master set, event data 0 is the stop eventfd; data n is the context whose word
 * is words[n]. Message out, once, at the end: "done".
 */

/** What the poller is told when it starts. */
export interface PollerStart {
  master: number;
  words: Int32Array<SharedArrayBuffer>;
  epollEventSize: number;
  epollDataOffset: number;
}

/** What a worker's global scope offers. */
interface WorkerScope {
  onmessage: ((event: MessageEvent<PollerStart>) => void) | null;
  postMessage(message: string): void;
}

function program(): void {
  const CAPACITY = 64;
  const run = (start: PollerStart): void => {
    const libc = Deno.dlopen("libc.so.6", {
      epoll_wait: { parameters: ["i32", "buffer", "i32", "i32"], result: "i32" },
    });
    const bytes = new Uint8Array(CAPACITY * start.epollEventSize);
    const view = new DataView(bytes.buffer);
    for (let stop = false; !stop;) {
      // -1 is EINTR (a signal came in on this thread): wait again.
      const count = libc.symbols.epoll_wait(start.master, bytes, CAPACITY, -1);
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
    }
    libc.close();
  };
  const scope = globalThis as unknown as WorkerScope;
  scope.onmessage = (event) => {
    run(event.data);
    scope.postMessage("done");
  };
}

/** Address of the poller's program, for a module Worker. */
export function pollerProgram(): string {
  return `data:text/javascript,${encodeURIComponent(`(${program})()`)}`;
}
