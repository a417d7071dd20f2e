/** A binary heap of one-shot timers by deadline. Pure; deadlines in nanoseconds of any one clock. */
import type { Timer } from "./types.ts";

/** One timer in the heap. */
export class HeapTimer implements Timer {
  /** It was cancelled, or taken. */
  over = false;

  constructor(
    readonly deadline: number,
    readonly task: () => void,
    readonly order: number,
    private readonly heap: TimerHeap,
  ) {}

  cancel(): void {
    if (this.over) return;
    this.over = true;
    this.heap.cancelled();
  }
}

/** Timers that expire in the order of their deadlines, equal ones in the order they were set. */
export class TimerHeap {
  #heap: HeapTimer[] = [];
  /** Timers in the heap that were cancelled. */
  #cancelled = 0;
  #order = 0;

  /** Timers in the heap: those that are still to expire, and at most as many that were cancelled. */
  get size(): number {
    return this.#heap.length;
  }

  /** Adds a timer. */
  add(deadline: number, task: () => void): HeapTimer {
    const timer = new HeapTimer(deadline, task, this.#order++, this);
    this.#heap.push(timer);
    this.#up(this.#heap.length - 1);
    return timer;
  }

  /** The earliest deadline, or Infinity. */
  next(): number {
    while (this.#heap.length > 0 && this.#heap[0]!.over) {
      this.#pop();
      this.#cancelled--;
    }
    return this.#heap.length === 0 ? Infinity : this.#heap[0]!.deadline;
  }

  /** Takes the earliest timer out if its deadline is at most `now`. */
  take(now: number): HeapTimer | undefined {
    if (this.next() > now) return undefined;
    const timer = this.#pop();
    timer.over = true;
    return timer;
  }

  /**
   * For HeapTimer. Cancelled timers leave before they become the greater part: whatever sets a long timer again and
   * again (a handshake's, for each client) would else pile them up, and all that their tasks refer to.
   */
  cancelled(): void {
    if (++this.#cancelled * 2 <= this.#heap.length) return;
    // In order, a list is a heap.
    this.#heap = this.#heap.filter((timer) => !timer.over).sort(compare);
    this.#cancelled = 0;
  }

  /** Forgets all. */
  clear(): void {
    for (const timer of this.#heap) timer.over = true;
    this.#heap = [];
    this.#cancelled = 0;
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
    return compare(this.#heap[a]!, this.#heap[b]!) < 0;
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

/** Negative: `a` expires before `b`. */
function compare(a: HeapTimer, b: HeapTimer): number {
  return a.deadline - b.deadline || a.order - b.order;
}
