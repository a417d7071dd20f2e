/**
 * Errors, in three families: what the user typed is wrong (CommandError), the outside world failed
 * (BlockError), we are wrong (AssertionError, in assert.ts).
 */

/** QMP error classes (QAPI QapiErrorClass). */
export type ErrorClass =
  | "GenericError"
  | "CommandNotFound"
  | "DeviceNotActive"
  | "DeviceNotFound"
  | "KVMMissingCap";

/** What the user typed is wrong or cannot be done: QEMU's class and wording. */
export class CommandError extends Error {
  override readonly name = "CommandError";
  /** Lines for the command line's stderr only, never in QMP (QEMU's error hints). */
  readonly hints: readonly string[];

  constructor(
    desc: string,
    readonly errorClass: ErrorClass = "GenericError",
    hints: readonly string[] = [],
    options?: ErrorOptions,
  ) {
    super(desc, options);
    this.hints = hints;
  }
}

/** What kind of failure, for control flow and for the mapping at the edges (NBD, virtio, QMP). */
export type BlockErrorKind =
  | "io"
  | "no-space"
  | "no-memory"
  | "not-permitted"
  | "read-only"
  | "invalid"
  | "too-large"
  | "not-supported"
  | "shutdown";

/** Which kind each errno is; those not listed are plain "io". */
const kindOfErrno: Readonly<Record<string, BlockErrorKind>> = {
  ENOSPC: "no-space",
  EDQUOT: "no-space",
  EFBIG: "no-space",
  ENOMEM: "no-memory",
  EPERM: "not-permitted",
  EACCES: "not-permitted",
  EROFS: "read-only",
  EINVAL: "invalid",
  EOVERFLOW: "too-large",
  ENOTSUP: "not-supported",
  EOPNOTSUPP: "not-supported",
  ESHUTDOWN: "shutdown",
};

/** Where a block operation failed. `offset` is in bytes, in the node that is named. */
export interface BlockErrorContext {
  node?: string;
  op?: string;
  offset?: number;
  cause?: unknown;
}

/** The outside world failed in a block operation. */
export class BlockError extends Error {
  override readonly name = "BlockError";
  readonly kind: BlockErrorKind;
  readonly node: string | undefined;
  readonly op: string | undefined;
  readonly offset: number | undefined;

  /** `errno` is its symbolic name, as "EIO". */
  constructor(readonly errno: string, message: string, context: BlockErrorContext = {}) {
    super(message, context.cause === undefined ? undefined : { cause: context.cause });
    this.kind = kindOfErrno[errno] ?? "io";
    this.node = context.node;
    this.op = context.op;
    this.offset = context.offset;
  }
}

/** Whether an error says that the driver cannot do it, so that another way is tried. */
export function isNotSupported(error: unknown): boolean {
  return error instanceof BlockError && error.kind === "not-supported";
}
