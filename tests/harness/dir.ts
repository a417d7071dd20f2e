/** A temporary folder that goes away with the test. */

/** Files of one test. */
export class TestDir {
  private constructor(readonly path: string) {}

  /** Makes an empty folder. Its path is short, since it also holds sockets. */
  static make(): TestDir {
    return new TestDir(Deno.makeTempDirSync({ prefix: "qsd-" }));
  }

  /** The path of a file in the folder. */
  file(name: string): string {
    return `${this.path}/${name}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true }).catch(() => {});
  }
}
