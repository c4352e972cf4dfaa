/** The one error type that users see: a stable code, the values, and a hint. */

/** Exit codes of the CLI; scripts depend on them, so they never change meaning. */
export const EXIT = { ok: 0, failed: 1, usage: 2, notPermitted: 3, wrongState: 4 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export interface ErrorDetails {
  /** What the reader can do about it, one sentence. */
  readonly hint?: string;
  readonly exitCode?: ExitCode;
  readonly cause?: unknown;
}

/**
 * An expected failure. Match on `code`, never on the text. Bugs stay plain `Error`.
 * The message carries values but never a credential.
 */
export class ProxyVpnError extends Error {
  readonly hint: string | undefined;
  readonly exitCode: ExitCode;

  constructor(
    /** `E_` and upper case words, listed in docs/errors.md. */
    readonly code: string,
    message: string,
    details: ErrorDetails = {},
  ) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'ProxyVpnError';
    this.hint = details.hint;
    this.exitCode = details.exitCode ?? EXIT.failed;
  }
}

/** A failed system call as it crosses from the native addon. */
export interface SystemCallFailure {
  /** Symbolic errno: `ENOENT`. */
  readonly code: string;
  readonly syscall: string;
  readonly errno: number;
}

export function isSystemCallFailure(value: unknown): value is Error & SystemCallFailure {
  return value instanceof Error && 'code' in value && 'syscall' in value && 'errno' in value;
}
