/** A file whose system calls fail on request: a preloaded shim, compiled when the tests run. */
import { TestDir } from "../harness/dir.ts";
import { ok } from "../harness/tools.ts";
import { ROOT } from "../harness/daemon.ts";

/** One rule: which call fails, with which errno, for which bytes. */
export interface Rule {
  readonly call: "read" | "write" | "splice" | "sync" | "fallocate";
  readonly errno: number;
  readonly from?: number;
  readonly to?: number;
}

/** Switches faults on and off while the daemon runs. */
export class Faults {
  private constructor(private readonly dir: TestDir, private readonly file: string) {}

  /** Compiles the shim into the folder; faults will concern files whose path ends in `file`. */
  static async make(dir: TestDir, file: string): Promise<Faults> {
    const source = `${ROOT}/tests/crash/shim.c`;
    await ok("cc", ["-shared", "-fPIC", "-O1", "-o", dir.file("shim.so"), source, "-ldl"]);
    const faults = new Faults(dir, file);
    faults.set();
    return faults;
  }

  /** The environment that the daemon needs. */
  get env(): Record<string, string> {
    return {
      LD_PRELOAD: this.dir.file("shim.so"),
      FAIL_FILE: this.file,
      FAIL_RULE: this.dir.file("rules"),
    };
  }

  /** From now on these calls fail; none without arguments. */
  set(...rules: readonly Rule[]): void {
    const lines = rules.map(({ call, errno, from, to }) =>
      `${call} ${errno} ${from ?? 0} ${to ?? Number.MAX_SAFE_INTEGER}\n`
    );
    Deno.writeTextFileSync(this.dir.file("rules.new"), lines.join(""));
    Deno.renameSync(this.dir.file("rules.new"), this.dir.file("rules"));
  }
}
