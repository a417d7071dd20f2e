/** The telnet protocol (RFC 854, 855; binary transmission: RFC 856), as far as a byte stream needs it. */

const IAC = 255;
const DO = 253;
const WILL = 251;
const SB = 250;
const SE = 240;
/** Options: transmit binary (RFC 856), echo (RFC 857), suppress go-ahead (RFC 858). */
const BINARY = 0;
const ECHO = 1;
const SUPPRESS_GO_AHEAD = 3;

/** What a server says first: it echoes, does not wait for its turn, and wants 8 bits both ways. */
export function telnetOffer(): Uint8Array {
  const offers = [[WILL, ECHO], [WILL, SUPPRESS_GO_AHEAD], [WILL, BINARY], [DO, BINARY]];
  return new Uint8Array(offers.flatMap(([verb, option]) => [IAC, verb!, option!]));
}

/** Data as it is sent: the byte 255 is doubled. The bytes themselves when there is none. */
export function escapeTelnet(bytes: Uint8Array): Uint8Array {
  if (!bytes.includes(IAC)) return bytes;
  return Uint8Array.from([...bytes].flatMap((byte) => byte === IAC ? [IAC, IAC] : [byte]));
}

/** Takes commands out of a stream that comes in pieces; holds no more than its place in a command. */
export class TelnetFilter {
  #state: "data" | "command" | "option" | "sub" | "sub-command" = "data";

  /** A new stream begins. */
  reset(): void {
    this.#state = "data";
  }

  /** The data in `bytes`: a new array, or `bytes` itself when all of it is data. */
  filter(bytes: Uint8Array): Uint8Array {
    if (this.#state === "data" && !bytes.includes(IAC)) return bytes;
    const data = new Uint8Array(bytes.length);
    let length = 0;
    for (const byte of bytes) {
      if (this.#step(byte)) data[length++] = byte;
    }
    return data.subarray(0, length);
  }

  /** Whether `byte` is data. */
  #step(byte: number): boolean {
    switch (this.#state) {
      case "data":
        if (byte !== IAC) return true;
        this.#state = "command";
        return false;
      case "command":
        if (byte === SB) this.#state = "sub";
        else this.#state = byte >= WILL && byte < IAC ? "option" : "data";
        return byte === IAC;
      case "option":
        this.#state = "data";
        return false;
      case "sub":
        if (byte === IAC) this.#state = "sub-command";
        return false;
      case "sub-command":
        this.#state = byte === SE ? "data" : "sub";
        return false;
    }
  }
}
