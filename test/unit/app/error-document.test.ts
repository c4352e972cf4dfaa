import { expect, test } from 'vitest';
import { errorDocument, errorFromDocument } from '../../../src/app/error-document.ts';
import { EXIT, ProxyVpnError } from '../../../src/errors.ts';

test('an expected error survives the way there and back', () => {
  const error = new ProxyVpnError('E_LOCKED', 'held by 7', { hint: 'proxyvpn down', exitCode: EXIT.wrongState });
  const back = errorFromDocument(JSON.parse(JSON.stringify(errorDocument(error))));
  expect({ ...back, message: back.message }).toEqual({ ...error, message: error.message });
});

test('an error without a hint gets none', () => {
  expect(errorDocument(new ProxyVpnError('E_X', 'x'))).toEqual({ code: 'E_X', message: 'x', exitCode: 1 });
});

test('a failed system call names the call', () => {
  const error = Object.assign(new Error('EACCES: no'), { code: 'EACCES', syscall: 'open', errno: -13 });
  expect(errorDocument(error)).toMatchObject({ code: 'E_SYSTEM', message: 'open: EACCES: no', exitCode: 1 });
});

test('anything else is a bug, and is called one', () => {
  expect(errorDocument(new TypeError('x is undefined'))).toMatchObject({
    code: 'E_BUG',
    message: 'TypeError: x is undefined',
  });
  expect(errorDocument('thrown text')).toMatchObject({ code: 'E_BUG', message: 'thrown text' });
});

test('a malformed document becomes an error, not a crash', () => {
  for (const document of [null, 7, {}, { code: 1, exitCode: 99 }])
    expect(errorFromDocument(document)).toMatchObject({ code: 'E_BUG', exitCode: 1 });
});
