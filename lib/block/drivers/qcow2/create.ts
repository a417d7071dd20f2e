import { CommandError } from "../../../base/mod.ts";
import type { CreateContext } from "../../mod.ts";
/** TODO */
export function createImage(
  _create: CreateContext,
  _options: Readonly<Record<string, unknown>>,
): Promise<void> {
  throw new CommandError("Driver does not support blockdev-create");
}
