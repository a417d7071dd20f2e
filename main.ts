/** qsd: the QEMU Storage Daemon, its clients, and its tools for images. See docs/architecture.md. */
import { programArguments } from "./lib/sys/mod.ts";

// Only what is used is loaded. As its first argument the daemon takes options alone, so these words are free.
const [word] = programArguments();
if (word === "qmp" || word === "status") {
  const { runClient } = await import("./lib/client/mod.ts");
  await runClient();
} else if (word === "check" || word === "measure" || word === "snapshot") {
  const { runImageCommand } = await import("./lib/image/mod.ts");
  await runImageCommand();
} else {
  const { runDaemon } = await import("./lib/daemon/mod.ts");
  await runDaemon();
}
