import { describe, expect, it } from 'vitest';
import { keysUpwards, labelsOf, nameFromText, presentation, readName, skipName } from '../../../src/dns/name.ts';
import { nameOf } from './messages.ts';

const wire = (...labels: readonly string[]): Buffer =>
  Buffer.from(`${labels.map((label) => String.fromCharCode(label.length) + label).join('')}\0`, 'latin1');

describe('reading a name', () => {
  it('gives a key in lower case and a host name', () => {
    const read = readName(Buffer.concat([Buffer.from('xx'), wire('WwW', 'Example', 'COM'), Buffer.from('rest')]), 2);
    expect(read).toEqual({ name: { key: '\x03www\x07example\x03com\0', hostname: 'www.example.com' }, end: 2 + 17 });
  });

  it('of the root has no labels and no host name', () => {
    expect(readName(wire(), 0)).toEqual({ name: { key: '\0', hostname: undefined }, end: 1 });
  });

  it('that is cut at any byte is none', () => {
    const bytes = wire('www', 'example', 'com');
    for (let length = 0; length < bytes.length; length++) {
      expect(readName(bytes.subarray(0, length), 0)).toBeUndefined();
      expect(skipName(bytes.subarray(0, length), 0)).toBeUndefined();
    }
    expect(skipName(bytes, 0)).toBe(bytes.length);
  });

  it('takes 255 bytes and no more', () => {
    const label = 'a'.repeat(49);
    const longest = wire(label, label, label, label, 'b'.repeat(53));
    expect(longest).toHaveLength(255);
    expect(readName(longest, 0)?.name.hostname).toHaveLength(253);
    expect(skipName(longest, 0)).toBe(255);
    const tooLong = wire(label, label, label, label, 'b'.repeat(54));
    expect(readName(tooLong, 0)).toBeUndefined();
    expect(skipName(tooLong, 0)).toBeUndefined();
  });

  it('refuses compression and the label types that never came to be', () => {
    for (let first = 64; first < 256; first++) expect(readName(Buffer.from([first, 0, 0]), 0)).toBeUndefined();
  });

  it('skips a compressed name without following it', () => {
    const bytes = Buffer.concat([Buffer.from([1, 0x61, 0xc0, 0xff]), Buffer.from('rest')]);
    expect(skipName(bytes, 0)).toBe(4);
    expect(skipName(bytes.subarray(0, 3), 0)).toBeUndefined();
    for (let first = 64; first < 192; first++) expect(skipName(Buffer.from([first, 0, 0]), 0)).toBeUndefined();
  });

  it('folds ASCII letters only', () => {
    expect(readName(wire('\xc0Z'), 0)?.name.key).toBe('\x02\xc0z\0');
  });
});

describe('a host name', () => {
  it.each([
    ['a-b', 'x_y', '9z'],
    ['-', 'example'],
    ['xn--bcher-kva', 'example'],
    ['1', '2', '3', '4', 'example'],
  ])('may be %s.%s', (...labels) => {
    expect(nameOf(...labels).hostname).toBe(labels.join('.'));
  });

  it.each([
    ['with a dot inside a label', ['a.b', 'example']],
    ['with CR LF', ['a\r\nX: y', 'example']],
    ['with a space', ['a b', 'example']],
    ['with a colon', ['a:80', 'example']],
    ['with a slash', ['a/b', 'example']],
    ['with bytes over 127', ['b\xfccher', 'example']],
    ['with a NUL', ['a\0b', 'example']],
    ['that is an IPv4 address', ['192', '0', '2', '1']],
    ['that ends in a number', ['example', '7']],
    ['that ends in a hexadecimal number', ['example', '0x7f']],
  ])('is not a name %s', (_, labels) => {
    expect(nameOf(...labels).hostname).toBeUndefined();
  });

  it('lets no byte but letters, digits, dot, - and _ through, at any place', () => {
    for (let byte = 0; byte < 256; byte++) {
      const character = String.fromCharCode(byte);
      for (const label of [`${character}a`, `a${character}b`, `a${character}`]) {
        const isFine = /^[a-zA-Z0-9_-]$/.test(character);
        expect(readName(wire(label, 'example'), 0)?.name.hostname !== undefined).toBe(isFine);
      }
    }
  });
});

describe('text', () => {
  it('becomes a name, with or without the final dot', () => {
    expect(nameFromText('WWW.Example.')).toEqual(nameFromText('www.example'));
    expect(nameFromText('www.example')?.hostname).toBe('www.example');
  });

  it.each(['', '.', 'a..b', '.a', 'a b', 'ä.example', 'a'.repeat(64), `${'abcdefghi.'.repeat(26)}com`])(
    '%j is no name',
    (text) => {
      expect(nameFromText(text)).toBeUndefined();
    },
  );

  it('of a key is unambiguous', () => {
    expect(presentation(nameOf('a.b', 'c\\', 'd\n ').key)).toBe('a\\.b.c\\\\.d\\010\\032');
    expect(presentation('\0')).toBe('.');
  });
});

it('the keys upwards are the name, its parents, and not the root', () => {
  expect([...keysUpwards('\x01a\x02bc\x01d\0')]).toEqual(['\x01a\x02bc\x01d\0', '\x02bc\x01d\0', '\x01d\0']);
  expect([...keysUpwards('\0')]).toEqual([]);
  expect(labelsOf('\x01a\x02bc\x01d\0')).toEqual(['a', 'bc', 'd']);
});
