/**
 * Every trace event that qsd has, as `-T help` lists them. The names are QEMU's wherever the same thing happens.
 */
import { allCommands } from "../qmp/schema/mod.ts";

/** Those that the code names; a test keeps this list and the code in step. */
export const namedEvents: readonly string[] = [
  "bdrv_co_flush",
  "bdrv_co_preadv_part",
  "bdrv_co_pwrite_zeroes",
  "bdrv_co_pwritev_part",
  "bdrv_open_common",
  "blk_root_attach",
  "blk_root_detach",
  "handle_qmp_command",
  "job_apply_verb",
  "job_completed",
  "job_state_transition",
  "luring_cleanup_state",
  "luring_co_submit",
  "luring_do_submit_done",
  "luring_init_state",
  "luring_process_completion",
  "monitor_protocol_event_emit",
  "monitor_qmp_cmd_in_band",
  "monitor_qmp_cmd_out_of_band",
  "monitor_qmp_err_in_band",
  "monitor_qmp_in_band_dequeue",
  "monitor_qmp_in_band_enqueue",
  "monitor_qmp_respond",
  "nbd_co_send_structured_error",
  "nbd_handshake_timer_cb",
  "nbd_negotiate_begin",
  "nbd_negotiate_meta_context",
  "nbd_negotiate_options_check_option",
  "nbd_negotiate_options_flags",
  "nbd_negotiate_send_rep_err",
  "nbd_negotiate_success",
  "nbd_receive_request",
  "qcow2_cache_flush",
  "qcow2_cache_get_read",
  "qcow2_do_alloc_clusters_offset",
  "thread_pool_complete",
  "thread_pool_submit",
  "vhost_user_read",
  "vhost_user_write",
  "virtio_blk_handle_read",
  "virtio_blk_handle_write",
];

/** The events before and after a QMP command's handler. */
export function commandEvents(command: string): { readonly enter: string; readonly exit: string } {
  const name = command.replaceAll("-", "_");
  return { enter: `qmp_enter_${name}`, exit: `qmp_exit_${name}` };
}

/** All events. */
export const traceEvents: readonly string[] = [
  ...namedEvents,
  ...Object.keys(allCommands).map(commandEvents).flatMap(({ enter, exit }) => [enter, exit]),
];
