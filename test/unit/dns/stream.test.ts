import { describe, expect, it } from 'vitest';
import { ProxyHeaderReader } from '../../../src/dns/proxy-header.ts';
import { FrameReader, frame } from '../../../src/dns/stream.ts';

describe('messages on a stream', () => {
  const messages = [Buffer.from('one'), Buffer.alloc(0), Buffer.from('three'), Buffer.alloc(300, 7)];
  const stream = Buffer.concat(messages.map(frame));

  it('come out whole however the stream is cut', () => {
    for (let size = 1; size <= stream.length; size++) {
      const reader = new FrameReader();
      const out: Buffer[] = [];
      for (let at = 0; at < stream.length; at += size) out.push(...reader.push(stream.subarray(at, at + size)));
      expect(out).toEqual(messages);
      expect(reader.isInMessage).toBe(false);
    }
  });

  it('share no memory with the chunks, which may be used again', () => {
    const chunk = frame(Buffer.from('secret'));
    const [message] = new FrameReader().push(chunk);
    chunk.fill(0);
    expect(message?.toString()).toBe('secret');
  });

  it('may be as long as two bytes can say', () => {
    const [message] = new FrameReader().push(frame(Buffer.alloc(65535, 1)));
    expect(message).toHaveLength(65535);
  });

  it('that are not whole are known to have begun', () => {
    const reader = new FrameReader();
    expect(reader.push(Buffer.from([0]))).toEqual([]);
    expect(reader.isInMessage).toBe(true);
  });
});

describe('the PROXY line', () => {
  const line = 'PROXY TCP4 10.0.0.1 192.0.2.53 40000 53\r\n';
  const header = {
    family: 4,
    clientAddress: '10.0.0.1',
    clientPort: 40000,
    serverAddress: '192.0.2.53',
    serverPort: 53,
  };

  it('is read however it is cut, and what follows it is kept', () => {
    const stream = Buffer.from(`${line}\0\x01x`);
    for (let cut = 0; cut <= stream.length; cut++) {
      const reader = new ProxyHeaderReader();
      const first = reader.push(stream.subarray(0, cut));
      const result = first ?? reader.push(stream.subarray(cut));
      expect(first === undefined).toBe(cut < line.length);
      expect(result).toEqual({ header, rest: stream.subarray(line.length, first === undefined ? stream.length : cut) });
    }
  });

  it('may be of IPv6', () => {
    const result = new ProxyHeaderReader().push(Buffer.from('PROXY TCP6 fd77::1 2001:db8::53 1 65535\r\n'));
    expect(result).toMatchObject({ header: { family: 6, clientAddress: 'fd77::1', serverPort: 65535 } });
  });

  it.each([
    'PROXY UNKNOWN\r\n',
    'PROXY TCP4 fd77::1 192.0.2.53 1 53\r\n',
    'PROXY TCP6 10.0.0.1 192.0.2.53 1 53\r\n',
    'PROXY TCP4 10.0.0.1 192.0.2.53 1 65536\r\n',
    'PROXY TCP4 10.0.0.1 192.0.2.53 1\r\n',
    'proxy TCP4 10.0.0.1 192.0.2.53 1 53\r\n',
    '\0\x1d\x12\x34\x01\0\r\n',
    'x'.repeat(107),
    `PROXY TCP4 ${' '.repeat(200)}\r\n`,
  ])('%j is none', (text) => {
    expect(new ProxyHeaderReader().push(Buffer.from(text, 'latin1'))).toBe('malformed');
  });
});
