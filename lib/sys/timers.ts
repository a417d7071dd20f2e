/** A binary heap of one-shot timers by deadline. Pure; deadlines in nanoseconds of any one clock. */
import type { Timer } from "./types.ts";

/** One timer in the heap. */
export class HeapTimer implements Timer {
  cancelled = false;

  constructor(readonly deadline: number, readonly task: () => void, readonly order: number) {}

  cancel(): void {
    this.cancelled = true;
  }
}

/** Timers that expire in the order of their deadlines, equal ones in the order they were set. */
export class TimerHeap {
  readonly #heap: HeapTimer[] = [];
  #order = 0;

  /** Adds a timer. */
  add(deadline: number, task: () => void): HeapTimer {
    const timer = new HeapTimer(deadline, task, this.#order++);
    this.#heap.push(timer);
    this.#up(this.#heap.length - 1);
    return timer;
  }

  /** The earliest deadline, or Infinity. Cancelled timers are dropped on the way. */
  next(): number {
    while (this.#heap.length > 0 && this.#heap[0]!.cancelled) this.#pop();
    return this.#heap.length === 0 ? Infinity : this.#heap[0]!.deadline;
  }

  /** Takes the earliest timer out if its deadline is at most `now`. */
  take(now: number): HeapTimer | undefined {
    return this.next() <= now ? this.#pop() : undefined;
  }

  /** Forgets all. */
  clear(): void {
    this.#heap.length = 0;
  }

  #pop(): HeapTimer {
    const top = this.#heap[0]!;
    const last = this.#heap.pop()!;
    if (this.#heap.length > 0) {
      this.#heap[0] = last;
      this.#down(0);
    }
    return top;
  }

  #before(a: number, b: number): boolean {
    const x = this.#heap[a]!;
    const y = this.#heap[b]!;
    return x.deadline < y.deadline || (x.deadline === y.deadline && x.order < y.order);
  }

  #swap(a: number, b: number): void {
    [this.#heap[a], this.#heap[b]] = [this.#heap[b]!, this.#heap[a]!];
  }

  #up(at: number): void {
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(at, parent)) return;
      this.#swap(at, parent);
      at = parent;
    }
  }

  #down(at: number): void {
    for (;;) {
      let least = at;
      const left = 2 * at + 1;
      if (left < this.#heap.length && this.#before(left, least)) least = left;
      if (left + 1 < this.#heap.length && this.#before(left + 1, least)) least = left + 1;
      if (least === at) return;
      this.#swap(at, least);
      at = least;
    }
  }
}
