/** What a guest does all day. */
import { RequestFlag } from "../../lib/block/mod.ts";
import type { Guest } from "./power.ts";

/** How often each kind of request comes in a mix. */
export interface Mix {
  readonly rounds: number;
  readonly most: number;
  readonly write: number;
  readonly zero?: number;
  readonly discard?: number;
  /** Most replies that were sent and not read. */
  readonly replies?: number;
}

/** Rounds of requests that run together; every third round or so ends with a flush. */
export async function mix(
  guest: Guest,
  { rounds, most, write, zero = 0, discard = 0, replies = 0 }: Mix,
): Promise<void> {
  const { dice } = guest;
  for (let round = 0; round < rounds; round++) {
    for (let count = replies; count > 0; count -= 4) guest.send(...guest.range(most));
    if (replies > 0) guest.receive(dice.below(replies));
    await guest.together(1 + dice.below(6), most, (at, length) => {
      const kind = dice.below(write + zero + discard);
      if (kind < write) {
        return guest.write(at, length, dice.below(8) === 0 ? RequestFlag.fua : 0);
      }
      if (kind < write + zero) {
        return guest.zero(at, length, dice.below(2) === 0 ? RequestFlag.mayUnmap : 0);
      }
      return guest.discard(at, length);
    });
    if (dice.below(3) === 0) await guest.flush();
  }
}
