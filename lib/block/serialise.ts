/**
 * Serialising of overlapping writes on a node that has an alignment: a read-modify-write reads bytes that
 * it writes back, so nobody else may write them in between.
 *
 * Order is first come, first served: a request waits only for those that came before it, overlap it, and
 * are (or make it) serialising. So nothing starves and no two requests wait for each other.
 */

/** A write that has begun. `finish` must be called once, whatever happened. */
export interface Ticket {
  readonly start: number;
  readonly end: number;
  readonly serialising: boolean;
  finish(): void;
}

interface Entry extends Ticket {
  done: Promise<void> | undefined;
  settle: (() => void) | undefined;
}

/** The writes of one node that have begun and not finished, in order of arrival. */
export class Serialiser {
  readonly #entries: Entry[] = [];

  /** Enters [start, end) (bytes, aligned). */
  begin(start: number, end: number, serialising: boolean): Ticket {
    const entry: Entry = {
      start,
      end,
      serialising,
      done: undefined,
      settle: undefined,
      finish: () => {
        this.#entries.splice(this.#entries.indexOf(entry), 1);
        entry.settle?.();
      },
    };
    this.#entries.push(entry);
    return entry;
  }

  /** Waits for those before `ticket` that it must not overtake; undefined when there are none. */
  wait(ticket: Ticket): Promise<void> | undefined {
    let waits: Promise<void>[] | undefined;
    for (const other of this.#entries) {
      if (other === ticket) break;
      if (other.start >= ticket.end || ticket.start >= other.end) continue;
      if (!other.serialising && !ticket.serialising) continue;
      other.done ??= new Promise((resolve) => other.settle = resolve);
      (waits ??= []).push(other.done);
    }
    return waits === undefined ? undefined : Promise.all(waits).then(() => undefined);
  }

  /** Writes that have begun. */
  get active(): number {
    return this.#entries.length;
  }
}
