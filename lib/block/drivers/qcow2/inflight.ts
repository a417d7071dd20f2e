/**
 * Guest clusters whose entries are about to change: a write has been told where they will lie, and the entries
 * follow when the data is there. Whoever wants to change the same clusters waits; reads never do.
 */

/** Neighbouring guest clusters, by number. */
export interface Busy {
  readonly first: number;
  readonly end: number;
  /** Set when somebody waits. */
  ended: Promise<void> | undefined;
  resolve: (() => void) | undefined;
}

/** Those of one image. There are never more than requests in flight, so a list does. */
export class InFlight {
  readonly #busy: Busy[] = [];

  get active(): number {
    return this.#busy.length;
  }

  /** What to wait for before `cluster` may be changed. */
  wait(cluster: number): Promise<void> | undefined {
    for (const busy of this.#busy) {
      if (cluster < busy.first || cluster >= busy.end) continue;
      return busy.ended ??= new Promise((resolve) => busy.resolve = resolve);
    }
    return undefined;
  }

  /** How many of the `count` clusters from `first` on come before one that is busy. */
  clear(first: number, count: number): number {
    let clear = count;
    for (const busy of this.#busy) {
      if (busy.end > first && busy.first < first + clear) clear = Math.max(0, busy.first - first);
    }
    return clear;
  }

  begin(first: number, count: number): Busy {
    const busy: Busy = { first, end: first + count, ended: undefined, resolve: undefined };
    this.#busy.push(busy);
    return busy;
  }

  end(busy: Busy): void {
    this.#busy.splice(this.#busy.indexOf(busy), 1);
    busy.resolve?.();
  }
}
