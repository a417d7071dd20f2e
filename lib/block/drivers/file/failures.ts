/** Errno results as errors, with the node and the place. */
import { BlockError } from "../../../base/mod.ts";
import { errnoName, errnoText } from "../../../sys/mod.ts";

/** The BlockError of a call on node `node` that returned `rc` (-errno). `offset` in bytes. */
export function blockError(rc: number, node: string, op: string, offset?: number): BlockError {
  return new BlockError(errnoName(-rc), errnoText(-rc), {
    node,
    op,
    ...(offset === undefined ? {} : { offset }),
  });
}
