/** Ids that users give: to objects, character devices and nodes. */
import { CommandError } from "./errors.ts";

const identifier = /^[A-Za-z][A-Za-z0-9._-]*$/;

/** Whether `text` is a well-formed id. */
export function isIdentifier(text: string): boolean {
  return identifier.test(text);
}

/** The error of an id that is not well-formed. */
export function badIdentifier(): CommandError {
  return new CommandError("Parameter 'id' expects an identifier", "GenericError", [
    "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
  ]);
}
