/** The trace points of NBD clients, looked up once for each server and each part of an export in a thread. */
import type { Context } from "../sys/mod.ts";
import type { ConnectionTraces } from "./connection.ts";

/** The trace points of `context`. */
export function connectionTraces(context: Context): ConnectionTraces {
  return {
    begin: context.trace("nbd_negotiate_begin"),
    success: context.trace("nbd_negotiate_success"),
    timeout: context.trace("nbd_handshake_timer_cb"),
    option: context.trace("nbd_negotiate_options_check_option"),
    flags: context.trace("nbd_negotiate_options_flags"),
    error: context.trace("nbd_negotiate_send_rep_err"),
    meta: context.trace("nbd_negotiate_meta_context"),
    request: context.trace("nbd_receive_request"),
    replyError: context.trace("nbd_co_send_structured_error"),
  };
}
