/**
 * The fixed newstyle handshake, server side: a state machine that is fed whole messages and answers with
 * bytes. It does no I/O, allocates no more than the limits below, and never throws for what a client sends.
 */
import type { TracePoint } from "../sys/mod.ts";
import type { ExportDirectory, MetaContext, NbdExport } from "./export.ts";
import { Framing, HandshakeFlag, Info, MAX_PAYLOAD, Opt, optionName, Rep } from "./wire.ts";
import {
  blockSizeInfo,
  exportInfo,
  exportNameReply,
  metaContextReply,
  optionError,
  optionReply,
  parseInfoRequest,
  parseMetaRequest,
  serverReply,
  textInfo,
} from "./wire_options.ts";

/**
 * Longest option data that is looked at (bytes): a name and some hundred queries. Longer data, up to
 * QEMU's limit of 32 MiB, is passed over and answered with ERR_TOO_BIG.
 */
export const MAX_OPTION_DATA = 64 * 1024;
/** Longest option data at all: beyond it the connection ends, as in QEMU. */
const MAX_OPTION_LENGTH = MAX_PAYLOAD;

/** Trace points of the handshake, looked up once per server. */
export interface NegotiateTraces {
  readonly option: TracePoint;
  readonly flags: TracePoint;
  readonly error: TracePoint;
  readonly meta: TracePoint;
}

/** What a finished handshake chose. */
export interface Negotiated {
  readonly target: NbdExport;
  readonly framing: Framing;
  readonly contexts: readonly MetaContext[];
}

/** What happens after an option: go on, enter transmission, or hang up (after sending what there is). */
export type Outcome =
  | { readonly next: "option" }
  | { readonly next: "transmission"; readonly chosen: Negotiated }
  | { readonly next: "close"; readonly reason?: string };

const goOn: Outcome = { next: "option" };

/** One client's handshake. */
export class Negotiation {
  framing: Framing = Framing.simple;
  readonly #exports: ExportDirectory;
  readonly #send: (bytes: Uint8Array) => void;
  readonly #traces: NegotiateTraces;
  #fixed = false;
  #noZeroes = false;
  /** What SET_META_CONTEXT chose last, and for which export. */
  #metaExport: NbdExport | undefined;
  #contexts: readonly MetaContext[] = [];

  /** `send` queues an answer. */
  constructor(
    exports: ExportDirectory,
    traces: NegotiateTraces,
    send: (bytes: Uint8Array) => void,
  ) {
    this.#exports = exports;
    this.#traces = traces;
    this.#send = send;
  }

  /** The client's flags. */
  clientFlags(flags: number): Outcome {
    if (this.#traces.flags.enabled) {
      this.#traces.flags.emit(`Received client flags 0x${flags.toString(16)}`);
    }
    this.#fixed = (flags & HandshakeFlag.fixedNewstyle) !== 0;
    this.#noZeroes = (flags & HandshakeFlag.noZeroes) !== 0;
    const unknown = (flags & ~(HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)) >>> 0;
    if (unknown === 0) return goOn;
    return close(`Unknown client flags 0x${unknown.toString(16)} received`);
  }

  /** Whether an option of this length is looked at at all; undefined: yes. Checked before its data comes. */
  refuses(option: number, length: number): Outcome | undefined {
    if (length > MAX_OPTION_LENGTH) {
      return close(`len (${length} ) is larger than max len (${MAX_OPTION_LENGTH})`);
    }
    // A client that cannot read option replies gets one chance, as does one that asks too much of it.
    if (!this.#fixed && option !== Opt.exportName) {
      return close(`Unsupported option ${option} (${optionName(option)})`);
    }
    if (option === Opt.exportName && length > 4096) return close("Bad length received");
    return undefined;
  }

  /** An option whose data was longer than MAX_OPTION_DATA, and is gone. */
  oversized(option: number): Outcome {
    switch (option) {
      case Opt.abort:
        return this.#abort();
      case Opt.list:
      case Opt.starttls:
      case Opt.structuredReply:
      case Opt.extendedHeaders:
        return this.#unexpectedLength(option);
      case Opt.info:
      case Opt.go:
      case Opt.listMetaContext:
      case Opt.setMetaContext:
        if (option === Opt.setMetaContext) this.#setContexts(undefined, []);
        return this.#error(option, Rep.errTooBig, `option '${optionName(option)}' is too long`);
      default:
        return this.#unsupported(option);
    }
  }

  /** A complete option. `data` is only read during the call. */
  option(option: number, data: Uint8Array): Outcome {
    if (this.#traces.option.enabled) {
      this.#traces.option.emit(`Checking option ${option} (${optionName(option)})`);
    }
    switch (option) {
      case Opt.exportName:
        return this.#exportName(data);
      case Opt.abort:
        return this.#abort();
      case Opt.list:
        return data.length > 0 ? this.#unexpectedLength(option) : this.#list();
      case Opt.starttls:
        if (data.length > 0) return this.#unexpectedLength(option);
        return this.#error(option, Rep.errPolicy, "TLS not configured");
      case Opt.info:
      case Opt.go:
        return this.#info(option, data);
      case Opt.structuredReply:
        return this.#structuredReply(data);
      case Opt.extendedHeaders:
        return this.#extendedHeaders(data);
      case Opt.listMetaContext:
      case Opt.setMetaContext:
        return this.#metaContext(option, data);
      default:
        return this.#unsupported(option);
    }
  }

  #error(option: number, type: number, text: string): Outcome {
    if (this.#traces.error.enabled) {
      this.#traces.error.emit(`Sending error msg "${text}"`);
    }
    this.#send(optionError(option, type, text));
    return goOn;
  }

  #unexpectedLength(option: number): Outcome {
    const text = `option '${optionName(option)}' has unexpected length`;
    return this.#error(option, Rep.errInvalid, text);
  }

  #unsupported(option: number): Outcome {
    const text = `Unsupported option ${option} (${optionName(option)})`;
    return this.#error(option, Rep.errUnsup, text);
  }

  #notPresent(option: number, name: string): Outcome {
    const shown = name.length > 80 ? `${name.slice(0, 80)}...` : name;
    return this.#error(option, Rep.errUnknown, `export '${shown}' not present`);
  }

  #abort(): Outcome {
    this.#send(optionReply(Opt.abort, Rep.ack));
    return { next: "close" };
  }

  #list(): Outcome {
    for (const { name, description } of this.#exports.list()) {
      this.#send(serverReply(name, description));
    }
    this.#send(optionReply(Opt.list, Rep.ack));
    return goOn;
  }

  #structuredReply(data: Uint8Array): Outcome {
    if (data.length > 0) return this.#unexpectedLength(Opt.structuredReply);
    if (this.framing === Framing.extended) {
      const text = "extended headers already negotiated";
      return this.#error(Opt.structuredReply, Rep.errExtHeaderReqd, text);
    }
    if (this.framing === Framing.structured) {
      const text = "structured reply already negotiated";
      return this.#error(Opt.structuredReply, Rep.errInvalid, text);
    }
    this.framing = Framing.structured;
    this.#send(optionReply(Opt.structuredReply, Rep.ack));
    return goOn;
  }

  #extendedHeaders(data: Uint8Array): Outcome {
    if (data.length > 0) return this.#unexpectedLength(Opt.extendedHeaders);
    if (this.framing === Framing.extended) {
      const text = "extended headers already negotiated";
      return this.#error(Opt.extendedHeaders, Rep.errInvalid, text);
    }
    this.framing = Framing.extended;
    this.#send(optionReply(Opt.extendedHeaders, Rep.ack));
    return goOn;
  }

  #exportName(data: Uint8Array): Outcome {
    if (this.framing === Framing.extended) {
      return close("Option 0x1 not permitted with extended headers");
    }
    const target = this.#exports.find(new TextDecoder().decode(data));
    if (target === undefined) return close("export not found");
    const contexts = this.#contextsFor(target);
    const flags = target.flags(this.framing, this.#exports.multiConn, contexts.length);
    this.#send(exportNameReply(target.size, flags, this.#noZeroes));
    return this.#enter(target, contexts);
  }

  #info(option: number, data: Uint8Array): Outcome {
    const request = parseInfoRequest(option, data);
    if (typeof request === "string") return this.#error(option, Rep.errInvalid, request);
    const target = this.#exports.find(request.name);
    if (target === undefined) return this.#notPresent(option, request.name);
    if (request.kinds.includes(Info.name)) this.#send(textInfo(option, Info.name, target.name));
    if (target.description !== undefined) {
      this.#send(textInfo(option, Info.description, target.description));
    }
    // Clients that do not ask for block sizes need not obey them: GO promises them any size then.
    const asked = request.kinds.includes(Info.blockSize);
    const minimum = asked || option === Opt.info ? target.minimumBlock : 1;
    const preferred = Math.max(4096, minimum);
    this.#send(blockSizeInfo(option, minimum, preferred, target.maximumBlock));
    const contexts = this.#contextsFor(target);
    const flags = target.flags(this.framing, this.#exports.multiConn, contexts.length);
    this.#send(exportInfo(option, target.size, flags));
    if (option === Opt.info && !asked && minimum > 1) {
      const text = "request NBD_INFO_BLOCK_SIZE to use this export";
      return this.#error(option, Rep.errBlockSizeReqd, text);
    }
    this.#send(optionReply(option, Rep.ack));
    return option === Opt.go ? this.#enter(target, contexts) : goOn;
  }

  #metaContext(option: number, data: Uint8Array): Outcome {
    const setting = option === Opt.setMetaContext;
    if (setting) this.#setContexts(undefined, []);
    if (setting && this.framing === Framing.simple) {
      const text = `request option '${optionName(option)}' when structured reply is not negotiated`;
      return this.#error(option, Rep.errInvalid, text);
    }
    const request = parseMetaRequest(option, data);
    if (typeof request === "string") return this.#error(option, Rep.errInvalid, request);
    const target = this.#exports.find(request.name);
    if (target === undefined) return this.#notPresent(option, request.name);
    if (this.#traces.meta.enabled) {
      this.#traces.meta.emit(`export ${target.name}: ${request.queries.join(" ")}`);
    }
    const chosen = target.contexts.filter(({ name }) =>
      setting
        ? request.queries.includes(name)
        : request.queries.length === 0 || request.queries.some((query) => matches(query, name))
    );
    for (const { id, name } of chosen) this.#send(metaContextReply(option, setting ? id : 0, name));
    if (setting) this.#setContexts(target, chosen);
    this.#send(optionReply(option, Rep.ack));
    return goOn;
  }

  #setContexts(target: NbdExport | undefined, contexts: readonly MetaContext[]): void {
    this.#metaExport = target;
    this.#contexts = contexts;
  }

  /** Contexts count only for the export that they were chosen for. */
  #contextsFor(target: NbdExport): readonly MetaContext[] {
    return this.#metaExport === target ? this.#contexts : [];
  }

  #enter(target: NbdExport, contexts: readonly MetaContext[]): Outcome {
    return { next: "transmission", chosen: { target, framing: this.framing, contexts } };
  }
}

function close(reason: string): Outcome {
  return { next: "close", reason };
}

/** LIST knows whole names and the namespaces `base:`, `qemu:` and `qemu:dirty-bitmap:`. */
function matches(query: string, name: string): boolean {
  if (query === name) return true;
  const wildcard = query === "base:" || query === "qemu:" || query === "qemu:dirty-bitmap:";
  return wildcard && name.startsWith(query);
}
