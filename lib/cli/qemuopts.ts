/** The older option language (QemuOpts), which --chardev still speaks: flat keys, short-form booleans. */
import { badIdentifier, isIdentifier } from "../base/mod.ts";

/** One `key=value`, in order. */
export interface FlatOption {
  readonly key: string;
  readonly value: string;
}

/** What an argument says. */
export interface FlatOptions {
  readonly id: string | undefined;
  readonly options: readonly FlatOption[];
  readonly help: boolean;
  /** Each with the line that follows it on stderr. */
  readonly warnings: readonly { readonly message: string; readonly hint: string }[];
}

/** Parses `text`; `impliedKey` is the key of a first element without one. Throws CommandError. */
export function parseQemuOpts(text: string, impliedKey: string): FlatOptions {
  const options: FlatOption[] = [];
  const warnings: { message: string; hint: string }[] = [];
  let id: string | undefined;
  let help = false;
  elements(text).forEach((element, i) => {
    const equals = element.indexOf("=");
    let key = element;
    let value: string;
    if (equals >= 0) {
      key = element.slice(0, equals);
      value = element.slice(equals + 1);
    } else if (i === 0) {
      if (element === "help" || element === "?") help = true;
      key = impliedKey;
      value = element;
    } else if (element === "help" || element === "?") {
      help = true;
      return;
    } else {
      value = "on";
      if (element.startsWith("no")) {
        key = element.slice(2);
        value = "off";
      }
      warnings.push({
        message: `short-form boolean option '${element}' deprecated`,
        hint: `Please use ${key}=${value} instead`,
      });
    }
    if (key !== "id") options.push({ key, value });
    else if (id === undefined) {
      if (!isIdentifier(value)) throw badIdentifier();
      id = value;
    }
  });
  return { id, options, help, warnings };
}

/** Splits at commas; a doubled one, in a value, is a comma. */
function elements(text: string): string[] {
  if (text === "") return [];
  const found: string[] = [];
  let current = "";
  for (let i = 0; i < text.length; i++) {
    if (text[i] !== ",") current += text[i];
    else if (text[i + 1] === ",") {
      current += ",";
      i++;
    } else {
      found.push(current);
      current = "";
    }
  }
  if (current !== "" || !text.endsWith(",")) found.push(current);
  return found;
}
