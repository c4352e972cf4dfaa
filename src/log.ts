/** Log lines: levels, one line each, to stderr. Callers must not pass credentials. */

const LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LEVELS)[number];

export type Log = { readonly [L in LogLevel]: (message: string) => void };

/** What a log writes to; process.stderr is one. */
export interface LogSink {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/**
 * A log that drops what is less important than `level`. A terminal gets `warn: text`, anything else
 * `2026-01-31T12:00:00.000Z warn: text`. Control characters are escaped, so one call is one line.
 */
export function createLog(level: LogLevel, sink: LogSink = process.stderr, now: () => Date = () => new Date()): Log {
  const wanted = LEVELS.indexOf(level);
  const writer = (own: LogLevel) => (message: string) => {
    if (LEVELS.indexOf(own) > wanted) return;
    const time = sink.isTTY === true ? '' : `${now().toISOString()} `;
    sink.write(`${time}${own}: ${oneLine(message)}\n`);
  };
  return { error: writer('error'), warn: writer('warn'), info: writer('info'), debug: writer('debug') };
}

/** C0, DEL and C1: line ends would forge log lines, escape sequences would write on terminals. */
function oneLine(text: string): string {
  let line = '';
  for (const character of text) {
    const code = character.charCodeAt(0);
    const isControl = code < 0x20 || (code >= 0x7f && code < 0xa0);
    line += isControl ? `\\x${code.toString(16).padStart(2, '0')}` : character;
  }
  return line;
}
