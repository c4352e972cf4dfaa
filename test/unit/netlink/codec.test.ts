import { describe, expect, it } from 'vitest';
import { ProxyVpnError } from '../../../src/errors.ts';
import {
  Attributes,
  decodeMessages,
  encodeAttributes,
  encodeMessage,
  StructReader,
  StructWriter,
} from '../../../src/netlink/codec.ts';

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof ProxyVpnError) return error.code;
    throw error;
  }
  return 'accepted';
}

describe('messages', () => {
  it('are read back as they were written', () => {
    const payload = Uint8Array.of(1, 2, 3, 4);
    const [message] = decodeMessages(encodeMessage(24, 0x605, 0xfffffffe, payload));
    expect(message).toEqual({ type: 24, flags: 0x605, sequence: 0xfffffffe, payload: Buffer.from(payload) });
  });

  it('are padded to 4 bytes, the last one not', () => {
    const odd = encodeMessage(16, 2, 1, Uint8Array.of(9));
    const padded = Buffer.concat([odd, new Uint8Array(3), odd]);
    expect(decodeMessages(padded).map((message) => [...message.payload])).toEqual([[9], [9]]);
  });

  it.each([
    ['a length below that of the header', { at: 0, value: 15 }],
    ['a length of zero, which would never end', { at: 0, value: 0 }],
    ['a length past the end', { at: 0, value: 21 }],
    ['a length of 4 GiB', { at: 3, value: 0xff }],
  ])('with %s are refused', (_why, { at, value }) => {
    const message = Buffer.from(encodeMessage(16, 0, 1, Uint8Array.of(1, 2, 3, 4)));
    message[at] = value;
    expect(refusal(() => decodeMessages(message))).toBe('E_NETLINK_ANSWER');
  });

  it('with bytes left over are refused', () => {
    const message = Buffer.concat([encodeMessage(16, 0, 1, new Uint8Array()), Uint8Array.of(0)]);
    expect(refusal(() => decodeMessages(message))).toBe('E_NETLINK_ANSWER');
  });
});

describe('attributes', () => {
  it('are read back as they were written, nested ones too', () => {
    const attributes = new Attributes(
      encodeAttributes([
        { type: 1, value: 0xdeadbeef },
        { type: 2, value: 'reno' },
        { type: 3, value: Uint8Array.of(198, 18, 0, 1) },
        { type: 4, value: [{ type: 16, value: 'x' }] },
      ]),
    );
    expect(attributes.u32(1)).toBe(0xdeadbeef);
    expect(attributes.text(2)).toBe('reno');
    expect(attributes.address(3, 4)).toBe('198.18.0.1');
    expect(attributes.nested(4)?.text(16)).toBe('x');
    expect(attributes.types()).toEqual([1, 2, 3, 4]);
  });

  it('end text at the first NUL', () => {
    expect(new Attributes(encodeAttributes([{ type: 3, value: 'pvpn0\0junk' }])).text(3)).toBe('pvpn0');
  });

  it('count by the last one of a type, and without the flags in the type', () => {
    const twice = encodeAttributes([
      { type: 7 | 0x8000, value: 1 },
      { type: 7, value: 2 },
    ]);
    expect(new Attributes(twice).u32(7)).toBe(2);
  });

  it('may be followed by less than a header', () => {
    const data = Buffer.concat([encodeAttributes([{ type: 1, value: 5 }]), Uint8Array.of(0, 0, 0)]);
    expect(new Attributes(data).types()).toEqual([1]);
  });

  it.each([0, 3, 9, 0xffff])('with length %d where 8 bytes are, are refused', (length) => {
    const data = Buffer.from(encodeAttributes([{ type: 1, value: 5 }]));
    data.writeUInt16LE(length, 0);
    expect(refusal(() => new Attributes(data))).toBe('E_NETLINK_ANSWER');
  });

  it('that are too short for their type are refused, longer ones are not', () => {
    const short = new Attributes(encodeAttributes([{ type: 1, value: Uint8Array.of(1, 2, 3) }]));
    expect(refusal(() => short.u32(1))).toBe('E_NETLINK_ANSWER');
    expect(refusal(() => short.address(1, 4))).toBe('E_NETLINK_ANSWER');
    const long = new Attributes(encodeAttributes([{ type: 1, value: Uint8Array.of(1, 0, 0, 0, 9) }]));
    expect(long.u32(1)).toBe(1);
  });
});

describe('structures', () => {
  it('are read back as they were written', () => {
    const bytes = new StructWriter().u8(0xab).zeros(1).u16(0xcdef).u32(0x87654321).be16(0x1234).u32(-5).bytes();
    const reader = new StructReader(bytes, 'a test');
    expect([reader.u8(), reader.skip(1).u16(), reader.u32(), reader.be16(), reader.i32()]).toEqual([
      0xab, 0xcdef, 0x87654321, 0x1234, -5,
    ]);
    expect(reader.rest()).toHaveLength(0);
  });

  it('are never read past their end', () => {
    const inside = new Uint8Array(8).fill(0xee).subarray(2, 5);
    for (const read of ['u32', 'i32'] as const)
      expect(refusal(() => new StructReader(inside, 'a test')[read]())).toBe('E_NETLINK_ANSWER');
    expect(refusal(() => new StructReader(inside, 'a test').skip(3).u8())).toBe('E_NETLINK_ANSWER');
  });
});
