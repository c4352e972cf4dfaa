/** An error as JSON data: how it crosses from the daemon to the CLI, and what `--json` prints of it (pure). */
import { EXIT, type ExitCode, isSystemCallFailure, ProxyVpnError } from '../errors.ts';

export interface ErrorDocument {
  /** `E_…`; `E_BUG` for what nobody expected. */
  readonly code: string;
  readonly message: string;
  readonly hint?: string;
  readonly exitCode: ExitCode;
}

/** What a user shall read of any thrown value. Bugs get the code E_BUG and keep their stack for the log only. */
export function errorDocument(error: unknown): ErrorDocument {
  if (error instanceof ProxyVpnError) {
    const { code, message, hint, exitCode } = error;
    return hint === undefined ? { code, message, exitCode } : { code, message, hint, exitCode };
  }
  if (isSystemCallFailure(error)) {
    return { code: 'E_SYSTEM', message: `${error.syscall}: ${error.message}`, exitCode: EXIT.failed };
  }
  return {
    code: 'E_BUG',
    message: error instanceof Error ? `${error.name}: ${error.message}` : String(error),
    hint: 'this is a bug in proxyvpn: please report it with the log file',
    exitCode: EXIT.failed,
  };
}

function isExitCode(value: unknown): value is ExitCode {
  return Object.values(EXIT).some((code) => code === value);
}

/** The other direction. Anything malformed becomes E_BUG rather than a second failure. */
export function errorFromDocument(document: unknown): ProxyVpnError {
  const fields: Partial<Record<keyof ErrorDocument, unknown>> =
    typeof document === 'object' && document !== null ? document : {};
  const { code, message, hint, exitCode } = fields;
  return new ProxyVpnError(
    typeof code === 'string' ? code : 'E_BUG',
    typeof message === 'string' ? message : `unreadable error: ${JSON.stringify(document)}`,
    {
      exitCode: isExitCode(exitCode) ? exitCode : EXIT.failed,
      ...(typeof hint === 'string' ? { hint } : {}),
    },
  );
}
