import { expect, test } from 'vitest';
import { isReadOnly } from '../../../src/app/snapshot.ts';

const HOST = '22 1 0:20 / / rw,relatime - ext4 /dev/vda rw\n23 22 0:21 / /proc rw,nosuid - proc proc rw\n';
const CONTAINER = `${HOST}24 23 0:21 /sys /proc/sys ro,nosuid - proc proc rw\n`;

test('the innermost mount decides whether a file can be written', () => {
  expect(isReadOnly('/proc/sys/net', HOST)).toBe(false);
  expect(isReadOnly('/proc/sys/net', CONTAINER)).toBe(true);
  expect(isReadOnly('/proc/system', CONTAINER)).toBe(false);
  expect(isReadOnly('/proc/sys/net', `25 1 0:1 / / ro - ext4 x rw\n${HOST}`)).toBe(false);
});

test('of two mounts on one point the later one counts', () => {
  expect(isReadOnly('/proc/sys/net', `${CONTAINER}26 24 0:21 /sys /proc/sys rw - proc proc rw\n`)).toBe(false);
});

test('without a mount table nothing is known to be read-only', () => {
  expect(isReadOnly('/proc/sys/net', '')).toBe(false);
});
