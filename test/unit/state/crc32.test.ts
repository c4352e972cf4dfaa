import { expect, it } from 'vitest';
import { crc32 } from '../../../src/state/crc32.ts';

it.each([
  ['', 0],
  ['123456789', 0xcbf43926],
  ['The quick brown fox jumps over the lazy dog', 0x414fa339],
])('CRC-32 of %j is the published one', (text, crc) => {
  expect(crc32(Buffer.from(text))).toBe(crc);
});

it('CRC-32 finds every flipped bit', () => {
  const data = Buffer.from('{"v":1,"n":1}');
  const good = crc32(data);
  for (let bit = 0; bit < data.length * 8; bit++) {
    const bad = Buffer.from(data);
    bad[bit >> 3] = (bad[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    expect(crc32(bad)).not.toBe(good);
  }
});
