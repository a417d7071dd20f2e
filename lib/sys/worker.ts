/** Threads: a module that runs in a Worker, and what either side sees of the other. Messages arrive in their order. */

/** A thread, as its maker sees it. */
export interface WorkerThread {
  post(message: unknown): void;
  /** Ends it at once, wherever it is; it must not be blocked in the kernel. */
  terminate(): void;
}

/** What a maker wants to know of its thread. */
export interface WorkerEvents {
  message(message: unknown): void;
  /** The program could not be loaded, or has thrown: the thread is gone. */
  failed(message: string): void;
}

/** Starts the module at `url` in a thread of its own; returns at once. */
export function startWorker(url: URL, name: string, events: WorkerEvents): WorkerThread {
  const worker = new Worker(url, { type: "module", name });
  worker.onmessage = (event) => events.message(event.data);
  worker.onerror = (event) => {
    event.preventDefault();
    events.failed(event.message);
  };
  return {
    post: (message) => worker.postMessage(message),
    terminate: () => worker.terminate(),
  };
}

/** The maker's side, as a thread sees it. */
export interface WorkerScope {
  post(message: unknown): void;
  /** Whoever posts before this is called is heard afterwards. Call it before the thread's module awaits anything. */
  onMessage(handler: (message: unknown) => void): void;
  /** Ends this thread once the present turn is over. */
  close(): void;
}

/** The scope of the Worker that this is called in. */
export function workerScope(): WorkerScope {
  const scope = globalThis as unknown as {
    onmessage: ((event: MessageEvent) => void) | null;
    postMessage(message: unknown): void;
    close(): void;
  };
  return {
    post: (message) => scope.postMessage(message),
    onMessage: (handler) => {
      scope.onmessage = (event) => handler(event.data);
    },
    close: () => scope.close(),
  };
}
