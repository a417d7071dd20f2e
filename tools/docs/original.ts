/** What `qemu-storage-daemon` 7.2 offers (its query-qmp-schema, its help): facts for the compatibility page. */

/** Names of one sort, by the feature with which those that qsd lacks come. */
export type Offered = Readonly<Record<string, string>>;

const words = (text: string) => text.split(" ");

/** All 74 commands. */
export const commands: Offered = {
  "control plane":
    "block-export-add block-export-del block-set-write-threshold block_resize blockdev-add blockdev-create " +
    "blockdev-del blockdev-reopen chardev-add chardev-change chardev-remove chardev-send-break job-cancel " +
    "job-complete job-dismiss job-finalize job-pause job-resume nbd-server-add nbd-server-remove " +
    "nbd-server-start nbd-server-stop object-add object-del qmp_capabilities qom-get qom-list " +
    "qom-list-properties qom-list-types qom-set query-block query-block-exports query-blockstats query-chardev " +
    "query-chardev-backends query-commands query-jobs query-named-block-nodes query-qmp-schema query-version " +
    "quit ringbuf-read ringbuf-write x-debug-query-block-graph",
  "block jobs":
    "block-commit block-job-cancel block-job-complete block-job-dismiss block-job-finalize block-job-pause " +
    "block-job-resume block-job-set-speed block-stream blockdev-backup blockdev-mirror " +
    "drive-backup drive-mirror query-block-jobs",
  "snapshots and transactions": "blockdev-snapshot blockdev-snapshot-sync transaction",
  "dirty bitmaps":
    "block-dirty-bitmap-add block-dirty-bitmap-clear block-dirty-bitmap-disable block-dirty-bitmap-enable " +
    "block-dirty-bitmap-merge block-dirty-bitmap-remove x-debug-block-dirty-bitmap-sha256",
  qcow2:
    "change-backing-file blockdev-snapshot-delete-internal-sync blockdev-snapshot-internal-sync x-blockdev-amend",
  quorum: "x-blockdev-change",
  IOThreads: "x-blockdev-set-iothread",
};

/** All 13 events. */
export const events: Offered = {
  "control plane": "BLOCK_EXPORT_DELETED BLOCK_WRITE_THRESHOLD JOB_STATUS_CHANGE",
  "block jobs":
    "BLOCK_IO_ERROR BLOCK_JOB_CANCELLED BLOCK_JOB_COMPLETED BLOCK_JOB_ERROR BLOCK_JOB_PENDING BLOCK_JOB_READY",
  qcow2: "BLOCK_IMAGE_CORRUPTED",
  quorum: "QUORUM_FAILURE QUORUM_REPORT_BAD",
  "nothing: it is about a device of virtual machines": "VSERPORT_CHANGE",
};

/** The 42 values of BlockdevDriver. */
export const drivers: Offered = {
  "raw images": "file host_cdrom host_device null-aio null-co raw",
  qcow2: "qcow2",
  "other image formats": "bochs cloop dmg parallels qcow qed vdi vhdx vmdk vpc vvfat",
  encryption: "luks",
  "network drivers": "ftp ftps gluster http https iscsi nbd nfs rbd ssh",
  filters:
    "blkdebug blklogwrites blkreplay blkverify compress copy-before-write copy-on-read preallocate quorum " +
    "replication snapshot-access throttle",
  "NVMe devices": "nvme",
};

/** The 4 types of exports. */
export const exports: Offered = {
  NBD: "nbd",
  "vhost-user-blk": "vhost-user-blk",
  FUSE: "fuse",
  VDUSE: "vduse-blk",
};

/** What `--object help` lists. */
export const objects: Offered = {
  secrets: "secret",
  "keys of the kernel": "secret_keyring",
  TLS:
    "authz-list authz-listfile authz-simple tls-cipher-suites tls-creds-anon tls-creds-psk tls-creds-x509",
  IOThreads: "iothread main-loop",
  "placing threads on processors": "thread-context",
  throttling: "throttle-group",
  "persistent reservations": "pr-manager-helper",
};

/** What `--chardev help` lists. */
export const chardevs: Offered = {
  "character devices": "file memory mux null parallel pipe pty ringbuf serial socket stdio udp",
};

/** The names of one sort, with their feature. */
export function* named(offered: Offered): Iterable<readonly [name: string, feature: string]> {
  for (const [feature, names] of Object.entries(offered)) {
    for (const name of words(names)) yield [name, feature];
  }
}

/** Members of commands, events and types that qsd has, that it does not have yet, and what they come with. */
export const members: readonly (readonly [string, string])[] = [
  ["`tls-creds`, `tls-authz` of socket character devices", "TLS"],
  ["`websocket`, `tn3270` of socket character devices", "nothing yet"],
  ["`encrypt` of qcow2, with the types that it brings", "encryption"],
  [
    "`format-specific` in image information: the branches of other formats",
    "encryption, other formats",
  ],
];

/** What newer QEMU has in this plane and qsd has not. */
export const newer: readonly (readonly [string, string])[] = [
  ["`path` of pty character devices; `monitor-hmp`", "11.0, 11.1"],
  ["`poll-weight` of `iothread`", "11.1"],
  ["a list for `iothread` of `block-export-add`", "10.1"],
  ["`hub` character devices", "10.0"],
];
