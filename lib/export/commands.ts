/** QMP's commands on exports of all types. */
import type { Handlers } from "../qmp/schema/core.ts";
import type { exportCommandTable } from "../qmp/schema/export.ts";
import type { ExportRegistry } from "./registry.ts";

/** Handlers of exportCommandTable. */
export function exportHandlers(exports: ExportRegistry): Handlers<typeof exportCommandTable> {
  return {
    "block-export-add": async (options) => {
      await exports.add(options);
      return {};
    },
    "block-export-del": ({ id, mode }) => {
      exports.del(id, mode);
      return {};
    },
    "query-block-exports": () => exports.query(),
  };
}
