/** qsd: the QEMU Storage Daemon. See docs/architecture.md. */
import { runDaemon } from "./lib/daemon/mod.ts";

await runDaemon();
