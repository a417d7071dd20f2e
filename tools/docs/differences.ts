/**
 * Every intentional difference from the original, for the compatibility page. Those that a parity test expects are
 * the `differs` of its cases.
 */
export const differences: Readonly<Record<string, readonly string[]>> = {
  "Numbers": [
    "64-bit integers are exact, both ways, in QMP and on the command line. Lengths and offsets that qsd computes with (`size` of `block_resize`, `blockdev-create` and `null-co`; the sizes of caches; the polling of IOThreads) are refused by name and limit beyond 2^53 - 1, which no file, device or time reaches.",
    "For those alone, negative numbers are refused where the type is unsigned; else 2^64 is added, as in QEMU.",
    "`--chardev ringbuf,size=N` uses all 64 bits; QEMU the lower 32.",
    "`--chardev socket,to=N` is refused above 65535; QEMU takes any number.",
    "TCP ports above 65535 and empty ones are refused; QEMU starts all the same. An empty `cid` of a vsock address listens for every one; QEMU refuses it.",
    "`--blockdev null-co,size=-1` and the like are refused; QEMU aborts.",
  ],
  "Command line": [
    "`--help`, `--version` and `--object help` are qsd's own texts in the form that scripts know; types whose feature is still to come are not listed and refused as types that were not built in.",
    "`--chardev socket,help` exits with status 0, QEMU with 1; keys of displays and of what qsd refuses are not listed.",
    "`--config`, which has to be written in full, is qsd's own, and so are `qmp`, `status`, `check`, `snapshot` and `measure` as a first argument (docs/using.md).",
    "Of several mistakes in one definition or request, qsd may name another one than QEMU: it looks at a node's name and common options before it opens children.",
  ],
  "Start and end": [
    "Sockets that qsd has bound are removed at the end and after a failed start, with `--daemonize` too; QEMU leaves the NBD server's.",
    "An inherited socket (`fd:` addresses, `fd=` of a chardev) has one user; a second one is refused. QEMU's take each other's clients.",
    "A SIGTERM, SIGINT or SIGHUP that comes a second or more after the first one ends a stop that hangs, and says what it was waiting for. SIGTERM works while a `wait=on` character device waits.",
    "A stale socket file, or an empty file, is replaced when a server binds; a file with contents is kept and the address is in use. QEMU deletes it.",
    "The runtime reserves 50 GiB of address space when it starts (and uses little of it), and has 30 descriptors open: limits on them (`ulimit -v`, a hard `ulimit -n`) have to leave that.",
  ],
  "Images": [
    "An empty `cache` object is taken; QEMU refuses it as an option that the driver does not have.",
    "A FIFO is refused by `file`; QEMU's start waits for another program to open it.",
    "`drop-cache` and `x-check-cache-dropped` are about live migration: only their defaults are taken.",
    "A name with a null byte is refused with EINVAL; QEMU uses what stands before it.",
    "The hint `Is another process using the image [...]?` follows every refused lock.",
    "`blockdev-create` refuses what can be refused before an old file is emptied.",
    "`blockdev-reopen` with another driver says so; QEMU names an option that only the old driver has. An empty list is not fatal.",
    "A repair of a qcow2 image keeps what a table or snapshot that cannot be followed leads to, and ends with status 2; QEMU gives those clusters away.",
    "A qcow2 disk that grows reads as zeroes where it is new, also within a cluster that a smaller disk had cut; QEMU shows what was there before.",
    "Reads of `null-co` and `null-aio` give zeroes without `read-zeroes` too; QEMU leaves older contents of memory in the buffer.",
  ],
  "NBD": [
    "`query-blockstats` counts what exports and jobs have asked of a node; QEMU's counters of nodes stay at zero.",
    "Errors are those of the protocol document: EPERM for changes to a read-only export, ENOSPC for writes and zeroes past the end, EINVAL else. QEMU answers all of them with EINVAL.",
    "A structured read that fails is answered with an error; QEMU closes the connection.",
    "`LIST_META_CONTEXT` with bytes left over is refused; QEMU aborts.",
    "`tls-authz` without `tls-creds` has no effect, and a warning says so.",
  ],
  "Dirty bitmaps": [
    "A merge of no bitmaps does nothing; QEMU crashes.",
    "A persistent bitmap of a read-only node is refused; QEMU takes it, and loses it when the node is closed.",
    "A bitmap with more bits than there is memory for is refused.",
    "A resize beyond what a persistent bitmap can be stored for is refused; QEMU loses all bitmaps when the node is closed.",
    "A name in an image that is not UTF-8 is shown with `\\xHH` for what is not ASCII, and can be used so; QEMU shows a name by which it finds nothing.",
  ],
  "Character devices": [
    "When `chardev-change` fails, the old device stays; QEMU has lost it.",
    "A multiplexer without frontends is not busy.",
    "`ringbuf-write` refuses incomplete base64; QEMU drops what is incomplete. A ring buffer of more than 256 MiB is refused; QEMU dies of a size that it cannot allocate.",
    "`query-chardev` lists devices in the order of their making and `qom-list` children by name, QEMU both in that of a hash table. A client's `filename` shows where it is connected to.",
    "`websocket=on` and `tn3270=on` are refused as not supported.",
    "A socket that is to listen, but has no address, is refused; QEMU makes a device that nobody can connect to.",
    "An id that is taken is refused in the same words for every back end.",
  ],
  "QMP": [
    "Members of replies come in an order of their own.",
    "`qom-list` shows `/objects` always, QEMU from the first object on.",
    "A partial path that fits several objects is called ambiguous by `qom-get` and `qom-set`, too; QEMU says that there is no such device.",
    "An IOThread that a node runs in cannot be deleted; QEMU deletes it, and aborts when the node is used.",
    "`query-version` shows the level of QEMU that qsd is compatible with; `package` is qsd and its version.",
    "A client that does not read its events loses the newest ones after a limit, and a warning says how many; memory does not grow.",
    "Long tokens are parsed in linear time.",
  ],
};
