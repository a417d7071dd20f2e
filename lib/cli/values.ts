/** An option's argument as a typed value: JSON or keyval, against the same schema as QMP. */
import { CommandError } from "../base/mod.ts";
import { parseJson } from "../qmp/json/mod.ts";
import type { Schema } from "../qmp/schema/core.ts";
import { visitJson } from "../qmp/schema/visit_json.ts";
import { visitKeyval } from "../qmp/schema/visit_keyval.ts";
import { parseKeyval } from "./keyval.ts";

/**
 * The value of `text`: JSON if it begins with `{`, else keyval with `impliedKey` for a first element without
 * key. Throws CommandError.
 */
export function parseValue<T>(
  text: string,
  impliedKey: string | undefined,
  schema: Schema<T>,
): T {
  if (text.startsWith("{")) return visitJson(schema, parseJson(text)) as T;
  const { value, help } = parseKeyval(text, impliedKey);
  if (help) throw new CommandError("Help is not available for this option");
  return visitKeyval(schema, value) as T;
}
