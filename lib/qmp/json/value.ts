/** JSON values as QMP has them: 64-bit integers are exact. */

/** An object; made without a prototype, so that no member name is special. */
export interface JsonObject {
  [member: string]: JsonValue;
}

/**
 * A JSON value. Integers are numbers where a number is exact, else bigints (-2^63 to 2^64-1). Numbers written
 * with a fraction or an exponent are plain numbers if they are not integral, else a JsonDouble: QAPI's
 * integers do not take them, and so they must be told apart.
 */
export type JsonValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | JsonDouble
  | JsonValue[]
  | JsonObject;

/** A floating point number that a plain number would confuse with an integer: `1e3`, `10.0`, `-0.0`. */
export class JsonDouble {
  constructor(readonly value: number) {}
}

/** An empty object without a prototype. */
export function jsonObject(): JsonObject {
  return Object.create(null);
}

/** Whether `value` is a JSON object (and none of the other things that JavaScript calls objects). */
export function isJsonObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof JsonDouble);
}

const decimal = /^(-?)([0-9]+)$/;

/** The value of a number's text, which is a JSON number. */
export function numberFromText(text: string): number | bigint | JsonDouble {
  if (decimal.test(text)) {
    const plain = Number(text);
    if (Number.isSafeInteger(plain)) return plain === 0 ? 0 : plain;
    const exact = text.length <= 21 ? BigInt(text) : undefined;
    if (exact !== undefined && exact >= -(2n ** 63n) && exact < 2n ** 64n) return exact;
    return new JsonDouble(plain);
  }
  const value = Number(text);
  return Number.isInteger(value) || !Number.isFinite(value) ? new JsonDouble(value) : value;
}
