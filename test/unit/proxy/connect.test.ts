import { describe, expect, it } from 'vitest';
import {
  connectAuthority,
  connectRequest,
  connectTemplate,
  headerValues,
  isAccepted,
  LONGEST_REPLY_HEAD,
  type ParsedReply,
  parseReplyHead,
  type ReplyHead,
} from '../../../src/proxy/connect.ts';
import { parseUpstream } from '../../../src/proxy/upstream-url.ts';

const bytes = (text: string) => Buffer.from(text, 'latin1');

function head(text: string): ReplyHead {
  const parsed = parseReplyHead(bytes(text));
  if (parsed.kind !== 'head') throw new Error(`${parsed.kind}: ${JSON.stringify(text.slice(0, 80))}`);
  return parsed;
}

describe('the CONNECT request', () => {
  it('without credentials is two lines', () => {
    const template = connectTemplate(parseUpstream('h:1'));
    expect(connectRequest(template, connectAuthority('192.0.2.1', 5432))).toBe(
      'CONNECT 192.0.2.1:5432 HTTP/1.1\r\nHost: 192.0.2.1:5432\r\n\r\n',
    );
  });

  it('brackets IPv6 in the target and in Host', () => {
    const template = connectTemplate(parseUpstream('h:1'));
    expect(connectRequest(template, connectAuthority('2001:db8::1', 443))).toBe(
      'CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\r\n',
    );
  });

  it('carries Basic credentials in UTF-8 (the example of RFC 7617 §2.1)', () => {
    const template = connectTemplate(parseUpstream('http://test:123%C2%A3@h:1'));
    expect(template.tail).toBe('\r\nProxy-Authorization: Basic dGVzdDoxMjPCow==\r\n\r\n');
  });

  it('takes a host name as authority', () => {
    expect(connectAuthority('origin.example', 80)).toBe('origin.example:80');
  });
});

const REPLIES: [string, string, Partial<ReplyHead>][] = [
  ['HTTP/1.1', 'HTTP/1.1 200 Connection established\r\n\r\n', { version: '1.1', status: 200 }],
  ['HTTP/1.0', 'HTTP/1.0 200 OK\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n', { version: '1.0', status: 200 }],
  ['bare LF', 'HTTP/1.1 200 OK\nA: b\n\n', { status: 200, headers: [{ name: 'a', value: 'b' }] }],
  ['LF and CRLF mixed', 'HTTP/1.1 200 OK\r\nA: b\n\r\n', { status: 200 }],
  ['no reason', 'HTTP/1.1 200\r\n\r\n', { status: 200, reason: '' }],
  ['an empty reason', 'HTTP/1.1 204 \r\n\r\n', { status: 204, reason: '' }],
  ['100 before', 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', { status: 200 }],
  ['102 and 103 before', 'HTTP/1.1 102 P\r\nX: y\r\n\r\nHTTP/1.1 103 E\n\nHTTP/1.0 403 No\r\n\r\n', { status: 403 }],
  ['101 is final', 'HTTP/1.1 101 Switching\r\n\r\n', { status: 101 }],
  ['a Content-Length that means nothing', 'HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n', { status: 200 }],
  ['empty lines in front', '\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', { status: 200 }],
  ['a folded header', 'HTTP/1.1 200 OK\r\nA: b\r\n  c: d\r\n\r\n', { headers: [{ name: 'a', value: 'b c: d' }] }],
  ['a line without colon', 'HTTP/1.1 200 OK\r\nnonsense\r\nA:b\r\n\r\n', { headers: [{ name: 'a', value: 'b' }] }],
  ['space before the colon', 'HTTP/1.1 200 OK\r\nA : b\r\n\r\n', { headers: [{ name: 'a', value: 'b' }] }],
  ['Latin-1 and NUL in a value', 'HTTP/1.1 200 OK\r\nA: \xe9\0\r\n\r\n', { headers: [{ name: 'a', value: '\xe9\0' }] }],
  ['HTTP/2 status line', 'HTTP/2 200\r\n\r\n', { version: '2', status: 200 }],
];

describe.each(REPLIES)('a reply with %s', (_, text, expected) => {
  it('is read, byte by byte or at once, and what follows is left alone', () => {
    const data = bytes(`${text}\x16\x03\r\n\r\nHTTP/1.1 500 app data`);
    for (let length = 0; length < text.length; length++) {
      expect(parseReplyHead(data.subarray(0, length)), `prefix of ${length}`).toEqual({ kind: 'incomplete' });
    }
    for (let length = text.length; length <= data.length; length++) {
      expect(parseReplyHead(data.subarray(0, length))).toMatchObject({
        kind: 'head',
        ...expected,
        length: text.length,
      });
    }
  });
});

describe('parseReplyHead', () => {
  it('keeps repeated headers in order', () => {
    const reply = head('HTTP/1.1 407 x\r\nProxy-Authenticate: NTLM\r\nX: 1\r\nproxy-authenticate: Basic\r\n\r\n');
    expect(headerValues(reply, 'proxy-authenticate')).toEqual(['NTLM', 'Basic']);
  });

  it('takes any 2xx as acceptance and nothing else', () => {
    for (let status = 101; status < 1000; status++) {
      if (status > 101 && status < 200) continue;
      expect(isAccepted(head(`HTTP/1.1 ${status} x\r\n\r\n`)), `${status}`).toBe(status >= 200 && status <= 299);
    }
  });

  it('reads a head of 64 KiB to the last byte, and refuses one byte more', () => {
    const begin = 'HTTP/1.1 200 OK\r\nA: ';
    const longest = `${begin}${'x'.repeat(LONGEST_REPLY_HEAD - begin.length - 4)}\r\n\r\n`;
    expect(longest.length).toBe(LONGEST_REPLY_HEAD);
    expect(head(longest).length).toBe(LONGEST_REPLY_HEAD);
    expect(head(`${longest}more`).length).toBe(LONGEST_REPLY_HEAD);
    expect(parseReplyHead(bytes(longest.slice(0, -1)))).toEqual({ kind: 'incomplete' });
    const longer = longest.replace('A: ', 'A: x');
    expect(parseReplyHead(bytes(longer))).toMatchObject({ kind: 'malformed' });
    expect(parseReplyHead(bytes(longer.slice(0, LONGEST_REPLY_HEAD)))).toMatchObject({ kind: 'malformed' });
  });

  it('ends a proxy that sends 1xx for ever', () => {
    const interim = 'HTTP/1.1 100 Continue\r\n\r\n';
    expect(parseReplyHead(bytes(interim.repeat(2000)))).toEqual({ kind: 'incomplete' });
    expect(parseReplyHead(bytes(interim.repeat(3000)))).toMatchObject({ kind: 'malformed' });
  });

  it.each([
    ['\x15\x03\x01\x00\x02\x02\x46', 'TLS'],
    ['SSH-2.0-OpenSSH_9.2p1\r\n', 'SSH'],
    ['\x05\xff', 'SOCKS'],
    ['\x00\x5b\0\0\0\0\0\0', 'SOCKS'],
    ['220 smtp.example ESMTP\r\n', 'not HTTP'],
    ['<html>', 'not HTTP'],
    ['HTTP/1.1 20 OK\r\n', 'status line'],
    ['HTTP/1.1 2000 OK\r\n', 'status line'],
    ['HTTP/1.1 099 OK\r\n', 'status line'],
    ['HTTP/1.1200 OK\r\n', 'status line'],
    ['HTTP/\r\n', 'status line'],
    ['HTTP/1.1 100 C\r\n\r\ngarbage', 'not HTTP'],
  ])('says what is wrong with %j', (text, why) => {
    const parsed = parseReplyHead(bytes(text));
    expect(parsed.kind === 'malformed' && parsed.why).toContain(why);
  });

  it('never changes its mind when more bytes come', () => {
    let state = 99;
    const random = (limit: number) => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return (state >>> 8) % limit;
    };
    const words = [
      'HTTP/1.1 ',
      '200',
      '100',
      ' ',
      '\r',
      '\n',
      '\r\n',
      ':',
      'A: b',
      '\t',
      '\0',
      '\xff',
      'HTTP/',
      '407 x',
    ];
    for (let round = 0; round < 5_000; round++) {
      let text = random(3) > 0 ? 'HTTP/1.1 100 x\r\n' : '';
      for (let n = random(12); n > 0; n--) text += words[random(words.length)];
      const data = bytes(text);
      let before: ParsedReply = { kind: 'incomplete' };
      for (let length = 0; length <= data.length; length++) {
        const now = parseReplyHead(data.subarray(0, length));
        if (before.kind === 'malformed') expect(now.kind).toBe('malformed');
        if (before.kind === 'head') expect(now).toEqual(before);
        before = now;
      }
    }
  });

  it('survives random bytes', () => {
    let state = 3;
    for (let round = 0; round < 2_000; round++) {
      const data = Buffer.alloc(round % 67);
      for (let i = 0; i < data.length; i++) {
        state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
        data[i] = state >>> 24;
      }
      expect(['incomplete', 'malformed']).toContain(parseReplyHead(data).kind);
      expect(['incomplete', 'malformed', 'head']).toContain(
        parseReplyHead(Buffer.concat([bytes('HTTP/1.1 200 '), data])).kind,
      );
    }
  });

  it('reads a view into a larger buffer', () => {
    const view = bytes('xxHTTP/1.1 200 OK\r\n\r\nyy').subarray(2, 21);
    expect(parseReplyHead(view)).toMatchObject({ kind: 'head', length: 19 });
  });
});
