/** Lines of text from a byte stream. */

/** Iterates over the lines (without their ends) of a stream of UTF-8; a last line without an end counts. */
export class TextLineStream implements AsyncIterable<string> {
  readonly #stream: ReadableStream<Uint8Array<ArrayBuffer>>;

  constructor(stream: ReadableStream<Uint8Array<ArrayBuffer>>) {
    this.#stream = stream;
  }

  async *[Symbol.asyncIterator](): AsyncIterator<string> {
    let rest = "";
    for await (const text of this.#stream.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + text).split("\n");
      rest = lines.pop()!;
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
    if (rest !== "") yield rest;
  }
}
