/** qsd: the QEMU Storage Daemon, its clients, and its tools for images. See docs/architecture.md. */
// By itself, since the rest of lib/sys takes longer to load than a signal may have to wait for its handler.
import { HeldSignals, onSignals, programArguments } from "./lib/sys/program.ts";

// Only what is used is loaded. As its first argument the daemon takes options alone, so these words are free.
const [word] = programArguments();
if (word === "qmp" || word === "status") {
  const { runClient } = await import("./lib/client/mod.ts");
  await runClient();
} else if (word === "check" || word === "measure" || word === "snapshot") {
  onSignals(["SIGXFSZ"], () => {});
  const { runImageCommand } = await import("./lib/image/mod.ts");
  await runImageCommand();
} else {
  const signals = new HeldSignals(["SIGINT", "SIGTERM", "SIGHUP"]);
  // Nothing sends these on purpose, and nobody expects a daemon to end by them: without effect, as in QEMU. The last
  // one comes with EFBIG, when a file would grow beyond the limit of the process: the call's error is enough.
  onSignals(["SIGUSR1", "SIGALRM", "SIGIO", "SIGXFSZ"], () => {});
  const { runDaemon } = await import("./lib/daemon/mod.ts");
  await runDaemon(signals);
}
