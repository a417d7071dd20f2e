/** Character devices (QAPI char.json). */
import { array, bool, command, empty, str, struct } from "./core.ts";

export const ChardevInfo = struct("ChardevInfo", {
  label: str,
  filename: str,
  "frontend-open": bool,
});
export const ChardevBackendInfo = struct("ChardevBackendInfo", { name: str });

/** Commands on character devices. */
export const chardevCommands = {
  "query-chardev": command(empty, array(ChardevInfo), { doc: "All character devices." }),
  "query-chardev-backends": command(empty, array(ChardevBackendInfo), {
    doc: "The kinds of character devices that can be made.",
  }),
} as const;
