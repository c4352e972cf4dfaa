import { describe, expect, it } from 'vitest';
import { decodeFlowEvents, FLOW_RECORD_BYTES } from '../../../src/tunstack/flow.ts';

interface Fields {
  readonly kind: number;
  readonly family?: number;
  readonly status?: number;
  readonly errno?: number;
  readonly hostname?: string;
  readonly text?: string | Uint8Array;
  readonly length?: number;
}

const V4 = [192, 0, 2, 1, ...new Array(12).fill(0)];
const V6 = [0x20, 0x01, 0x0d, 0xb8, ...new Array(11).fill(0), 1];

/** A record as native/engine/events.h lays it out. */
function record({ kind, family = 4, status = 0, errno = 0, hostname = '', text = '', length }: Fields): Buffer {
  const tail = Buffer.concat([Buffer.from(hostname), Buffer.from(text as string)]);
  const bytes = Buffer.alloc(70 + tail.length);
  const address = family === 6 ? V6 : V4;
  bytes.writeUInt16LE(length ?? bytes.length, 0);
  bytes.writeUInt8(kind, 2);
  bytes.writeUInt8(family, 3);
  bytes.writeUInt16LE(40000, 4);
  bytes.writeUInt16LE(443, 6);
  bytes.set(address, 8);
  bytes.set(address, 24);
  bytes[24 + 3] = 9;
  bytes.writeUInt16LE(status, 40);
  bytes.writeUInt16LE(errno, 42);
  bytes.writeUInt32LE(4_000_000_000, 44);
  bytes.writeBigUInt64LE(2n ** 40n + 1n, 48);
  bytes.writeBigUInt64LE(7n, 56);
  bytes.writeUInt32LE(3, 64);
  bytes.writeUInt16LE(hostname.length, 68);
  bytes.set(tail, 70);
  return bytes;
}

function withHostnameBytes(bytes: Buffer, count: number): Buffer {
  bytes.writeUInt16LE(count, 68);
  return bytes;
}

const flow4 = {
  family: 4,
  localAddress: '192.0.2.1',
  localPort: 40000,
  destinationAddress: '192.0.2.9',
  destinationPort: 443,
  durationMs: 4_000_000_000,
  bytesToUpstream: 2 ** 40 + 1,
  bytesToApp: 7,
  suppressed: 3,
};

const RECORDS = [
  record({ kind: 1 }),
  record({ kind: 3, status: 403, text: 'HTTP/1.1 403 No\r\n\r\n' }),
  record({ kind: 4, errno: 110, text: 'no answer' }),
  record({ kind: 6, family: 0, text: 'ä' }),
  record({ kind: 2, family: 6 }),
  record({ kind: 4, errno: 99, hostname: 'www.example.org', text: 'why' }),
  record({ kind: 1, hostname: 'a' }),
  record({ kind: 5, family: 0, errno: 9, text: 'tun' }),
];
const BATCH = Buffer.concat(RECORDS);

describe('decodeFlowEvents', () => {
  it('decodes every kind of record', () => {
    expect(decodeFlowEvents(BATCH)).toEqual({
      events: [
        { kind: 'opened', ...flow4 },
        { kind: 'refused', ...flow4, status: 403, reply: new Uint8Array(Buffer.from('HTTP/1.1 403 No\r\n\r\n')) },
        { kind: 'failed', ...flow4, errno: 110, code: 'ETIMEDOUT', message: 'no answer' },
        { kind: 'notice', errno: 0, code: '', message: 'ä', suppressed: 3 },
        {
          kind: 'closed',
          ...flow4,
          family: 6,
          localAddress: '2001:db8::1',
          destinationAddress: '2001:d09::1',
        },
        { kind: 'failed', ...flow4, hostname: 'www.example.org', errno: 99, code: 'EADDRNOTAVAIL', message: 'why' },
        { kind: 'opened', ...flow4, hostname: 'a' },
        { kind: 'fatal', errno: 9, code: 'EBADF', message: 'tun', suppressed: 3 },
      ],
    });
  });

  it('an empty batch has no events', () => {
    expect(decodeFlowEvents(new Uint8Array())).toEqual({ events: [] });
  });

  it('decodes a view that starts at an odd byte of a larger buffer', () => {
    const odd = Buffer.concat([Buffer.from('x'), BATCH, Buffer.from('yy')]).subarray(1, 1 + BATCH.length);
    expect(decodeFlowEvents(odd)).toEqual(decodeFlowEvents(BATCH));
  });

  it('keeps nothing of the batch, which the engine reuses', () => {
    const batch = Buffer.from(BATCH);
    const { events } = decodeFlowEvents(batch);
    batch.fill(0xff);
    expect(events).toEqual(decodeFlowEvents(BATCH).events);
  });

  it('cut at any byte gives the whole records before the cut and says where it stopped', () => {
    const ends = RECORDS.map((_, index) => Buffer.concat(RECORDS.slice(0, index + 1)).length);
    for (let length = 0; length <= BATCH.length; length++) {
      const { events, malformed } = decodeFlowEvents(BATCH.subarray(0, length));
      const whole = ends.filter((end) => end <= length);
      expect(events).toHaveLength(whole.length);
      expect(malformed?.offset).toBe(whole.includes(length) || length === 0 ? undefined : (whole.at(-1) ?? 0));
    }
  });

  it.each([
    ['length 0, which would loop', record({ kind: 1, length: 0 }), 'record of 0 bytes in 70'],
    ['a length below the fixed part', record({ kind: 1, length: 69 }), 'record of 69 bytes in 70'],
    ['a length behind the end', record({ kind: 1, length: 71 }), 'record of 71 bytes in 70'],
    ['kind 0', record({ kind: 0 }), 'kind 0'],
    ['an unknown kind', record({ kind: 7 }), 'kind 7'],
    ['a flow without family', record({ kind: 1, family: 0 }), 'family 0'],
    ['an unknown family', record({ kind: 3, family: 5 }), 'family 5'],
    ['a hostname behind the end', withHostnameBytes(record({ kind: 1, hostname: 'a.b' }), 4), 'hostname of 4 bytes'],
  ])('stops at %s', (_, bad, why) => {
    const good = RECORDS[0] ?? Buffer.alloc(0);
    const { events, malformed } = decodeFlowEvents(Buffer.concat([good, bad]));
    expect([events.length, malformed]).toEqual([1, { offset: good.length, why }]);
  });

  it('an errno that Linux does not have is given as a number', () => {
    const { events } = decodeFlowEvents(record({ kind: 4, errno: 65535 }));
    expect(events[0]).toMatchObject({ errno: 65535, code: 'errno 65535' });
  });

  it('carries a text of the largest record', () => {
    const reply = new Uint8Array(65535 - FLOW_RECORD_BYTES).fill(7);
    const { events } = decodeFlowEvents(record({ kind: 3, text: reply }));
    expect(events[0]).toMatchObject({ kind: 'refused', reply });
  });

  it('random bytes neither throw nor hang', () => {
    let state = 17;
    for (let round = 0; round < 3_000; round++) {
      const bytes = Buffer.concat([BATCH.subarray(0, round % 200), Buffer.alloc(round % 150)]);
      for (let i = 0; i < 8; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        if (bytes.length > 0) bytes[state % bytes.length] = state >>> 24;
      }
      expect(decodeFlowEvents(bytes).events.length).toBeLessThan(10);
    }
  });
});
