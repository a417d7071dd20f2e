/**
 * Every trace event that qsd has, as `-T help` lists them. The names are QEMU's wherever the same thing happens. A
 * test keeps this list and the code in step.
 */
export const traceEvents: readonly string[] = [
  "bdrv_co_flush",
  "bdrv_co_preadv_part",
  "bdrv_co_pwrite_zeroes",
  "bdrv_co_pwritev_part",
  "job_state_transition",
  "nbd_co_send_structured_error",
  "nbd_handshake_timer_cb",
  "nbd_negotiate_begin",
  "nbd_negotiate_meta_context",
  "nbd_negotiate_options_check_option",
  "nbd_negotiate_options_flags",
  "nbd_negotiate_send_rep_err",
  "nbd_negotiate_success",
  "nbd_receive_request",
];
