import { expect, it } from 'vitest';
import { createLog, type LogLevel } from '../../src/log.ts';

function linesOf(level: LogLevel, isTTY: boolean, text = 'hello'): string {
  let written = '';
  const log = createLog(level, { isTTY, write: (line) => (written += line) }, () => new Date(0));
  log.error(text);
  log.warn(text);
  log.info(text);
  log.debug(text);
  return written;
}

it('a terminal gets level and text', () => {
  expect(linesOf('info', true)).toBe('error: hello\nwarn: hello\ninfo: hello\n');
});

it('anything else gets the time as well', () => {
  expect(linesOf('error', false)).toBe('1970-01-01T00:00:00.000Z error: hello\n');
});

it('debug says everything', () => {
  expect(linesOf('debug', true).split('\n')).toHaveLength(5);
});

it('one call is one line without escape sequences, whatever the text', () => {
  expect(linesOf('error', true, 'a\nwarn: forged\x1b[2J\r\x7f\u009bä')).toBe(
    'error: a\\x0awarn: forged\\x1b[2J\\x0d\\x7f\\x9bä\n',
  );
});
