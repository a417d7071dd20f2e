/** QMP commands on character devices. */
import { CommandError } from "../base/mod.ts";
import type { Handlers } from "../qmp/schema/core.ts";
import type { ChardevBackendValue, chardevCommands } from "../qmp/schema/chardev.ts";
import { addFailed, type ChardevRegistry, type ChardevWaiting } from "./registry.ts";

/** The handlers of `chardevCommands`; `around` is for devices made by them. */
export function chardevHandlers(
  chardevs: ChardevRegistry,
  around: ChardevWaiting,
): Handlers<typeof chardevCommands> {
  return {
    "query-chardev": () => chardevs.list(),
    "query-chardev-backends": () => chardevs.backends(),
    async "chardev-add"({ id, backend }) {
      if (chardevs.has(id)) throw new CommandError(`Chardev with id '${id}' already exists`);
      try {
        refuseDescriptors(backend);
        return await chardevs.addBackend(id, backend, around);
      } catch (error) {
        throw addFailed(id, error);
      }
    },
    "chardev-change": ({ id, backend }) =>
      chardevs.change(id, backend, around, () => refuseDescriptors(backend)),
    "chardev-remove"({ id }) {
      chardevs.remove(id);
      return {};
    },
    async "chardev-send-break"({ id }) {
      await chardevs.sendBreak(id);
      return {};
    },
    "ringbuf-write"({ device, data, format }) {
      const ringbuf = chardevs.ringbuf(device);
      ringbuf.transmit(format === "base64" ? decodeBase64(data) : new TextEncoder().encode(data));
      return {};
    },
    "ringbuf-read"({ device, size, format }) {
      const ringbuf = chardevs.ringbuf(device);
      if (size <= 0) throw new CommandError("size must be greater than zero");
      const bytes = ringbuf.read(Number(size));
      return format === "base64"
        ? bytes.toBase64()
        : new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
    },
  };
}

/** A client of a monitor has no business with the daemon's descriptors: they are for who starts it. */
function refuseDescriptors(backend: ChardevBackendValue): void {
  if (backend.type !== "socket" || backend.data.addr.type !== "fd") return;
  throw new CommandError("only QEMU supports file descriptor passing");
}

/** Newlines are allowed in it. What is not complete is refused (the original drops the rest silently). */
function decodeBase64(text: string): Uint8Array {
  const digits = text.replaceAll("\n", "");
  if (digits.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(digits)) {
    throw new CommandError("Base64 data contains invalid characters");
  }
  return Uint8Array.fromBase64(digits);
}
