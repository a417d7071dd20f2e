/** What `--object` says: an object to be made, or which help is wanted. */
import { ObjectOptions, type ObjectOptionsValue } from "../qmp/schema/qom.ts";
import { parseKeyval } from "./keyval.ts";
import { parseValue } from "./values.ts";

/** `wanted`: the type that help is asked for; undefined: the list of them. */
export type ObjectArgument =
  | { readonly options: ObjectOptionsValue }
  | { readonly help: true; readonly wanted: string | undefined };

/** Parses the argument, JSON or keyval. Throws CommandError. */
export function parseObject(argument: string): ObjectArgument {
  if (!argument.startsWith("{")) {
    const { value, help } = parseKeyval(argument, "qom-type");
    const type = value["qom-type"];
    if (help) return { help, wanted: typeof type === "string" ? type : undefined };
  }
  return { options: parseValue(argument, "qom-type", ObjectOptions) };
}
