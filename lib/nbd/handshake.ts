/** The handshake of one connection: takes what the client has sent apart into options, some in a turn. */
import type { Input } from "./input.ts";
import { MAX_OPTION_DATA, type Negotiation, type Outcome } from "./negotiate.ts";
import { OPTION_SIZE } from "./wire.ts";
import { parseOptionHeader } from "./wire_options.ts";

/** Options answered in one turn; more than any client needs. */
const TURN_OPTIONS = 32;

/** What a step came to: `more` bytes are needed, the turn's `budget` is spent, or what the negotiation said. */
export type HandshakeStep = "more" | "budget" | Outcome;

/** One client's handshake, as long as it lasts. */
export class Handshake {
  readonly #input: Input;
  readonly #negotiation: Negotiation;
  #flagsSeen = false;
  #optionsLeft = TURN_OPTIONS;
  /** Bytes of an oversized option still to be passed over, and which it was. */
  #skipLeft = 0;
  #skipOption = 0;

  constructor(input: Input, negotiation: Negotiation) {
    this.#input = input;
    this.#negotiation = negotiation;
  }

  /** A new turn begins. */
  refill(): void {
    this.#optionsLeft = TURN_OPTIONS;
  }

  /** Deals with one message, if it is complete. */
  step(): HandshakeStep {
    if (this.#optionsLeft === 0) return "budget";
    if (this.#skipLeft > 0) return this.#skip();
    const input = this.#input;
    if (!this.#flagsSeen) {
      if (!input.require(4)) return "more";
      this.#flagsSeen = true;
      return this.#negotiation.clientFlags(input.takeUint32());
    }
    if (!input.require(OPTION_SIZE)) return "more";
    const header = parseOptionHeader(input.peek(OPTION_SIZE));
    if (header === undefined) return { next: "close", reason: "Bad magic received" };
    const { option, length } = header;
    this.#optionsLeft--;
    const refused = this.#negotiation.refuses(option, length);
    if (refused !== undefined) return refused;
    if (length > MAX_OPTION_DATA) {
      input.skip(OPTION_SIZE);
      this.#skipOption = option;
      this.#skipLeft = length;
      return this.#skip();
    }
    if (!input.require(OPTION_SIZE + length)) return "more";
    const data = input.peek(OPTION_SIZE + length).subarray(OPTION_SIZE);
    const outcome = this.#negotiation.option(option, data);
    input.skip(OPTION_SIZE + length);
    return outcome;
  }

  /** Passes over what has come of an oversized option. */
  #skip(): HandshakeStep {
    this.#skipLeft -= this.#input.skip(this.#skipLeft);
    return this.#skipLeft > 0 ? "more" : this.#negotiation.oversized(this.#skipOption);
  }
}
