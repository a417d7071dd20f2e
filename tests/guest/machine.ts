/** A virtual machine whose shell the test talks to over a virtio console (an emulated UART loses
 * input now and then). */
import { within } from "../harness/wait.ts";
import type { GuestSystem } from "./kernel.ts";

/** Milliseconds that a boot may take: without KVM, on a machine that is busy with other tests. */
const BOOT_LIMIT = 240_000;
const COMMAND_LIMIT = 120_000;

/** A running machine. Use with `await using`. */
export class Machine {
  readonly #child: Deno.ChildProcess;
  readonly #input: WritableStreamDefaultWriter<Uint8Array>;
  readonly #reading: Promise<void>;
  readonly #errors: Promise<string>;
  #said = "";
  #wake: () => void = () => {};
  #ended = false;

  /** Starts QEMU with `options` (processors, memory, disks) and waits for the guest's shell. */
  static async boot(system: GuestSystem, options: readonly string[]): Promise<Machine> {
    const machine = new Machine(system, options);
    try {
      await within(machine.#until("@@ready"), BOOT_LIMIT, "the guest to boot");
      return machine;
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Starts QEMU with `options`, which have `-incoming`: the guest's shell is another machine's until it comes. */
  static expect(system: GuestSystem, options: readonly string[]): Machine {
    return new Machine(system, options);
  }

  private constructor(system: GuestSystem, options: readonly string[]) {
    this.#child = new Deno.Command("qemu-system-x86_64", {
      args: [
        ...options,
        ...["-cpu", "max", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"],
        ...["-chardev", "stdio,id=console,signal=off", "-device", "virtio-serial-pci"],
        ...["-device", "virtconsole,chardev=console"],
        ...["-kernel", system.kernel, "-initrd", system.initramfs, "-append", "quiet panic=-1"],
      ],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#input = this.#child.stdin.getWriter();
    this.#reading = this.#read();
    this.#errors = new Response(this.#child.stderr).text();
  }

  async #read(): Promise<void> {
    const text = this.#child.stdout.pipeThrough(new TextDecoderStream());
    for await (const piece of text) {
      this.#said += piece.replaceAll("\r", "");
      this.#wake();
    }
    this.#ended = true;
    this.#wake();
  }

  /** Waits until the console shows `marker` at the beginning of a line; what came before it. */
  async #until(marker: string): Promise<string> {
    for (;;) {
      const at = this.#said.indexOf(marker);
      const end = this.#said.indexOf("\n", at);
      if (at >= 0 && end >= 0) {
        const before = this.#said.slice(0, at);
        this.#said = this.#said.slice(at + marker.length);
        return before;
      }
      if (this.#ended) {
        throw new Error(`the machine ended: ${this.#said.slice(-2000)}${await this.#errors}`);
      }
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  /** Runs a command in the guest's shell: its output. Throws unless its status is as wanted. */
  async sh(command: string, want = 0, limit = COMMAND_LIMIT): Promise<string> {
    this.begin(`${command}`);
    return await this.finish(command, want, limit);
  }

  /** Starts a command; `finish` waits for it. */
  begin(command: string): void {
    const line = `{ ${command} ; } 2>&1; echo "@@"end $?\n`;
    void this.#input.write(new TextEncoder().encode(line));
  }

  /** Waits for the command that `begin` started. */
  async finish(command: string, want = 0, limit = COMMAND_LIMIT): Promise<string> {
    const output = await within(this.#until("@@end "), limit, `the guest: ${command}`);
    const status = Number(/^\d+/.exec(this.#said)?.[0]);
    this.#said = this.#said.slice(this.#said.indexOf("\n") + 1);
    if (status !== want) throw new Error(`${command}: status ${status}: ${output.slice(-2000)}`);
    return output.trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch {
      // It has ended already.
    }
    await this.#child.status;
    await this.#reading;
    await this.#errors;
    await this.#input.abort().catch(() => {});
  }
}
