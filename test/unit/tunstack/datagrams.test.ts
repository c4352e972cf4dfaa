import { describe, expect, it } from 'vitest';
import type { Datagram } from '../../../src/datagram.ts';
import { DATAGRAM_RECORD_BYTES, decodeDatagrams, encodeDatagrams } from '../../../src/tunstack/datagrams.ts';

const V4: Datagram = {
  family: 4,
  clientAddress: '192.0.2.1',
  clientPort: 40000,
  serverAddress: '203.0.113.53',
  serverPort: 53,
  payload: Buffer.from('query'),
};
const V6: Datagram = {
  family: 6,
  clientAddress: '2001:db8::1',
  clientPort: 65535,
  serverAddress: 'fd00::53',
  serverPort: 53,
  payload: Buffer.alloc(0),
};

/** As native/stack/datagrams.h lays it out. */
const V4_RECORD = Buffer.concat([
  Buffer.from([45, 0, 4, 0, 0x40, 0x9c, 53, 0]),
  Buffer.from([192, 0, 2, 1]),
  Buffer.alloc(12),
  Buffer.from([203, 0, 113, 53]),
  Buffer.alloc(12),
  Buffer.from('query'),
]);

/** With payloads as plain bytes, so that a view equals a copy. */
function plain(datagrams: readonly Datagram[]): readonly object[] {
  return datagrams.map(({ payload, ...ends }) => ({ ...ends, payload: [...payload] }));
}

describe('encodeDatagrams and decodeDatagrams', () => {
  it('write and read the layout of the engine', () => {
    expect(encodeDatagrams([V4])).toEqual(V4_RECORD);
    expect(plain(decodeDatagrams(V4_RECORD).datagrams)).toEqual(plain([V4]));
  });

  it('what is written is read again, both families, any length', () => {
    const largest = { ...V6, payload: Buffer.alloc(0xffff - DATAGRAM_RECORD_BYTES, 7) };
    const all = [V4, V6, largest, V4];
    const { datagrams, malformed } = decodeDatagrams(encodeDatagrams(all));
    expect(malformed).toBeUndefined();
    expect(plain(datagrams)).toEqual(plain(all));
  });

  it('a payload beyond every packet is left out, its neighbours stay', () => {
    const tooLong = { ...V4, payload: Buffer.alloc(0x10000 - DATAGRAM_RECORD_BYTES) };
    expect(encodeDatagrams([V4, tooLong, V4])).toEqual(Buffer.concat([V4_RECORD, V4_RECORD]));
  });

  it('an empty batch is one', () => {
    expect(encodeDatagrams([])).toHaveLength(0);
    expect(decodeDatagrams(new Uint8Array())).toEqual({ datagrams: [] });
  });

  it('payloads are views of the batch, which may start at an odd byte of a larger buffer', () => {
    const larger = Buffer.concat([Buffer.from('x'), V4_RECORD, Buffer.from('y')]);
    const { datagrams } = decodeDatagrams(larger.subarray(1, 1 + V4_RECORD.length));
    expect(datagrams[0]?.payload.buffer).toBe(larger.buffer);
    expect(plain(datagrams)).toEqual(plain([V4]));
  });

  it('cut at any byte gives the whole records before the cut and says where it stopped', () => {
    const batch = encodeDatagrams([V4, V6]);
    for (let length = 0; length <= batch.length; length++) {
      const { datagrams, malformed } = decodeDatagrams(batch.subarray(0, length));
      const whole = [V4_RECORD.length, batch.length].filter((end) => end <= length);
      expect(datagrams).toHaveLength(whole.length);
      expect(malformed?.offset).toBe(length === 0 || whole.includes(length) ? undefined : (whole.at(-1) ?? 0));
    }
  });

  it.each([
    ['length 0, which would loop', { at: 0, value: 0 }, 'record of 0 bytes in 45'],
    ['a length below the fixed part', { at: 0, value: 39 }, 'record of 39 bytes in 45'],
    ['a length behind the end', { at: 0, value: 46 }, 'record of 46 bytes in 45'],
    ['an unknown family', { at: 2, value: 5 }, 'family 5'],
  ])('decoding stops at %s', (_, { at, value }, why) => {
    const bad = Buffer.from(V4_RECORD);
    bad.writeUInt8(value, at);
    const { datagrams, malformed } = decodeDatagrams(Buffer.concat([V4_RECORD, bad]));
    expect([datagrams.length, malformed]).toEqual([1, { offset: V4_RECORD.length, why }]);
  });

  it('any number of IPv6 addresses is written and read, however many came before', () => {
    const all = Array.from({ length: 1000 }, (_, i) => ({ ...V6, clientAddress: `2001:db8::${(i + 1).toString(16)}` }));
    expect(plain(decodeDatagrams(encodeDatagrams(all)).datagrams)).toEqual(plain(all));
    expect(plain(decodeDatagrams(encodeDatagrams(all)).datagrams)).toEqual(plain(all));
  });

  it('a port that is none is an error, not another port', () => {
    expect(() => encodeDatagrams([{ ...V4, clientPort: 65536 }])).toThrow(RangeError);
  });

  it('an IPv6 address that is none is an error', () => {
    expect(() => encodeDatagrams([{ ...V6, clientAddress: 'fd00::x' }])).toThrow('fd00::x');
  });
});
