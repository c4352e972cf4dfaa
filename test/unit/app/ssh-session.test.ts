import { expect, test } from 'vitest';
import { findSshSession, type ProcReader, parseSshConnection } from '../../../src/app/ssh-session.ts';

const session = {
  family: 4,
  localAddress: '10.0.0.9',
  localPort: 22,
  remoteAddress: '192.0.2.7',
  remotePort: 50112,
};

test('SSH_CONNECTION is client first, server last', () => {
  expect(parseSshConnection('192.0.2.7 50112 10.0.0.9 22')).toEqual(session);
  expect(parseSshConnection('2001:db8::7 50112 fe80::9%eth0 2222')).toMatchObject({
    family: 6,
    localAddress: 'fe80::9',
    localPort: 2222,
  });
});

test('an IPv4-mapped connection is an IPv4 connection', () => {
  expect(parseSshConnection('::ffff:192.0.2.7 50112 ::ffff:10.0.0.9 22')).toEqual(session);
});

test('what is not a connection is none', () => {
  for (const value of [
    '',
    'a b c d',
    '192.0.2.7 0 10.0.0.9 22',
    '192.0.2.7 99999 10.0.0.9 22',
    '192.0.2.7 50112 10.0.0.9',
  ])
    expect(parseSshConnection(value)).toBeUndefined();
});

/** pid 40 (sudo, of root) <- 30 (shell) <- 20 (sshd, unreadable) <- 1 */
const proc: ProcReader = {
  environ(pid) {
    if (pid === 30) return 'HOME=/home/ann\0SSH_CONNECTION=192.0.2.7 50112 10.0.0.9 22\0TERM=xterm\0';
    if (pid === 40) return 'HOME=/home/ann\0';
    throw new Error('EACCES');
  },
  stat(pid) {
    const parents: Record<number, string> = { 40: '40 (sudo) S 30 1', 30: '30 (a) b) S 20 1', 20: '20 (sshd) S 1 1' };
    const line = parents[pid];
    if (line === undefined) throw new Error('ENOENT');
    return line;
  },
};

test('the own environment comes first', () => {
  expect(findSshSession({ SSH_CONNECTION: '192.0.2.7 50112 10.0.0.9 22' }, 0, proc)).toEqual(session);
});

test('under sudo the variable is found at an ancestor', () => {
  expect(findSshSession({}, 40, proc)).toEqual(session);
});

test('no ancestor has it: no session', () => {
  expect(findSshSession({}, 20, proc)).toBeUndefined();
  expect(findSshSession({}, 999, proc)).toBeUndefined();
});
