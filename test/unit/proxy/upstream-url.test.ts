import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ProxyVpnError } from '../../../src/errors.ts';
import { parseUpstream, redactUpstream, upstreamEndpoint } from '../../../src/proxy/upstream-url.ts';

const SECRET = 'MARKERs3cret';

function failure(text: string): ProxyVpnError {
  try {
    parseUpstream(text);
  } catch (error) {
    if (error instanceof ProxyVpnError) return error;
    throw error;
  }
  throw new Error('accepted');
}

describe('parseUpstream reads', () => {
  it.each([
    ['10.0.0.1:3128', '10.0.0.1', 3128, 'address'],
    ['http://10.0.0.1:3128', '10.0.0.1', 3128, 'address'],
    ['HTTP://10.0.0.1:3128/', '10.0.0.1', 3128, 'address'],
    ['  proxy.example:8080\n', 'proxy.example', 8080, 'name'],
    ['Proxy.Example:8080', 'proxy.example', 8080, 'name'],
    ['proxy.example.:8080', 'proxy.example.', 8080, 'name'],
    ['my_proxy:1', 'my_proxy', 1, 'name'],
    ['4proxies.example:65535', '4proxies.example', 65535, 'name'],
    ['[2001:DB8::1]:3128', '2001:db8::1', 3128, 'address'],
    ['http://[::1]:3128/', '::1', 3128, 'address'],
    ['http://[::1]', '::1', 80, 'address'],
    ['http://proxy', 'proxy', 80, 'name'],
    ['http://proxy/', 'proxy', 80, 'name'],
    ['http://bücher.example:81', 'xn--bcher-kva.example', 81, 'name'],
    ['[::ffff:10.0.0.1]:3128', '10.0.0.1', 3128, 'address'],
  ] as const)('%s', (text, host, port, kind) => {
    expect(parseUpstream(text)).toEqual({ host, port, kind, credentials: undefined });
  });

  it.each([
    ['http://alice:secret@h:1', 'alice', 'secret'],
    ['alice:secret@h:1', 'alice', 'secret'],
    ['http://alice@h:1', 'alice', ''],
    ['http://:token@h:1', '', 'token'],
    ['http://a%40b:p%3Aw%2F%25%C3%A4@h:1/', 'a@b', 'p:w/%ä'],
    ['http://alice:p@ss:w/rd#?@h:1', 'alice', 'p@ss:w/rd#?'],
    ['http://CORP\\alice:secret@h:1', 'CORP\\alice', 'secret'],
    ['http://alice:a b+c@h:1', 'alice', 'a b+c'],
    ['http://alice:ключ@h:1', 'alice', 'ключ'],
  ])('credentials of %s', (text, user, password) => {
    const { credentials, host, port } = parseUpstream(text);
    expect([credentials?.user, credentials?.password, host, port]).toEqual([user, password, 'h', 1]);
  });

  it('an empty user part as no credentials', () => {
    expect(parseUpstream('http://@h:1').credentials).toBeUndefined();
  });
});

describe('parseUpstream refuses', () => {
  it.each([
    ['', 'empty'],
    ['   ', 'empty'],
    ['proxy', 'no port'],
    ['10.0.0.1', 'no port'],
    ['[::1]', 'no port'],
    [':3128', 'no host'],
    ['http://:3128', 'no host'],
    ['http://', 'no host'],
    ['h:', 'port'],
    ['h:0', 'port'],
    ['h:65536', 'port'],
    ['h:8o', 'port'],
    ['h:-1', 'port'],
    ['h:1/path', 'path'],
    ['http://h:1//', 'path'],
    ['http://h:1?x', 'path'],
    ['2001:db8::1:3128', 'more than one colon'],
    ['[2001:db8::1:3128', 'brackets'],
    ['[2001:db8::1]3128', 'brackets'],
    ['[fe80::1%eth0]:3128', 'IPv6'],
    ['[10.0.0.1]:3128', 'IPv6'],
    ['10.0.0.300:3128', 'IPv4'],
    ['10.1:3128', 'IPv4'],
    ['2130706433:3128', 'IPv4'],
    ['0x7f.0x1:3128', 'IPv4'],
    ['0.0.0.0:3128', 'unspecified'],
    ['[::]:3128', 'unspecified'],
    ['a..b:1', 'host name'],
    ['-a:1', 'host name'],
    ['a b:1', 'host name'],
    [`${'a'.repeat(64)}:1`, 'host name'],
    [`${'a.'.repeat(140)}a:1`, 'host name'],
    ['http://a%3Ab:p@h:1', 'colon'],
    ['http://a:%@h:1', 'percent'],
    ['http://a:%zz@h:1', 'percent'],
    ['http://a:%E9@h:1', 'percent'],
    ['http://a:\ufffd@h:1', 'UTF-8'],
    ['http://a:\ud800@h:1', 'UTF-8'],
    ['h\0:1', 'control'],
    ['http://a:p\r\nX: y@h:1', 'control'],
    ['http://a:p%0d%0aX: y@h:1', 'control'],
    ['http://a%00:p@h:1', 'control'],
    ['http://a:p%7f@h:1', 'control'],
    [`http://a:${'p'.repeat(5000)}@h:1`, 'longer'],
  ])('%j', (text, why) => {
    const error = failure(text);
    expect([error.code, error.exitCode]).toEqual(['E_PROXY_URL', 2]);
    expect(error.message).toContain(why);
    expect(error.hint).toBeTruthy();
  });

  it.each(['https', 'socks5', 'SOCKS5H', 'socks4a', 'socks'])('%s:// by name', (scheme) => {
    const error = failure(`${scheme}://u:${SECRET}@h:1`);
    expect([error.code, error.exitCode]).toEqual(['E_PROXY_SCHEME', 2]);
    expect(error.message).toBe(`${scheme.toLowerCase()}:// proxies are not supported yet`);
  });

  it('an unknown scheme without repeating it, for it may be a part of a password', () => {
    expect(failure(`${SECRET}://h:1`).message).not.toContain(SECRET);
  });
});

describe('a password', () => {
  const everywhere = [
    `http://alice:${SECRET}`,
    `http://alice:${SECRET}/`,
    `alice:${SECRET}`,
    `alice:${SECRET}:3128`,
    `http://${SECRET}:x@h:99999`,
    `http://alice:${SECRET}@`,
    `http://alice:${SECRET}@h`,
    `http://alice:${SECRET}@h:x`,
    `http://alice:${SECRET}@h:1:2`,
    `http://alice:${SECRET}@[::1`,
    `http://alice:${SECRET}@[zz]:1`,
    `http://alice:${SECRET}@h:1/path`,
    `http://alice:${SECRET}@1.2.3:1`,
    `http://alice:${SECRET}%@h:1`,
    `http://alice:${SECRET}%00@h:1`,
    `http://alice:${SECRET}\n@h:1`,
    `http://a%3A:${SECRET}@h:1`,
    `https://alice:${SECRET}@h:1`,
    `ftp://alice:${SECRET}@h:1`,
    `alice:${SECRET}@h@:1`,
  ];

  it.each(everywhere)('is in no error text and no redaction of %j', (text) => {
    try {
      expect(redactUpstream(parseUpstream(text))).not.toContain(SECRET);
    } catch (error) {
      if (!(error instanceof ProxyVpnError)) throw error;
      expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(SECRET);
      expect(`${error.message} ${error.hint} ${error.stack}`).not.toContain(SECRET);
    }
  });

  it('is in no error text, wherever the URL is cut or one byte is replaced', () => {
    const whole = `http://alice:${SECRET}@proxy.example:3128/`;
    const texts: string[] = [];
    for (let at = 0; at <= whole.length; at++) {
      // What is left of the secret must stay whole to be searched for.
      if (at <= 13 || at >= 13 + SECRET.length) {
        texts.push(whole.slice(0, at), whole.slice(at));
        for (const byte of ['\0', '\n', ' ', '%', '@', ':', '/', '[', ']', '\ufffd', '?']) {
          texts.push(whole.slice(0, at) + byte + whole.slice(at + 1), whole.slice(0, at) + byte + whole.slice(at));
        }
      }
    }
    for (const text of texts) {
      let shown: string;
      try {
        const upstream = parseUpstream(text);
        shown = upstream.host.includes(SECRET.toLowerCase()) ? '' : redactUpstream(upstream) + inspect(upstream);
      } catch (error) {
        if (!(error instanceof ProxyVpnError)) throw error;
        shown = inspect(error, { depth: 9 });
      }
      expect(shown).not.toContain(SECRET);
    }
  });

  it('is not printed by inspect, JSON, template text or a spread', () => {
    const upstream = parseUpstream(`http://alice:${SECRET}@h:1`);
    const shown = [
      inspect(upstream, { depth: 9, showHidden: true, getters: true }),
      JSON.stringify(upstream),
      `${upstream.credentials}`,
      JSON.stringify({ ...upstream.credentials }),
    ].join();
    expect(shown).not.toContain(SECRET);
    expect(shown).not.toContain('alice');
  });
});

describe('redactUpstream', () => {
  it.each([
    ['h:1', 'http://h:1'],
    ['alice:x@h:1', 'http://***@h:1'],
    ['[2001:db8::1]:3128', 'http://[2001:db8::1]:3128'],
  ])('%s -> %s', (text, shown) => {
    expect(redactUpstream(parseUpstream(text))).toBe(shown);
  });

  it('of a proxy without credentials reads back as the same proxy', () => {
    for (const text of ['h:1', '[::1]:2', '10.0.0.1:3']) {
      const upstream = parseUpstream(text);
      expect(parseUpstream(redactUpstream(upstream))).toEqual(upstream);
      expect(upstreamEndpoint(upstream)).toBe(text);
    }
  });
});

it('random text is read or refused with E_PROXY_*, never anything else', () => {
  const alphabet = [...'a1.:@/[]%\\# \0\r\né', '://', 'http://', '%41', '\ud83d'];
  let state = 7;
  const random = (limit: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state % limit;
  };
  for (let round = 0; round < 20_000; round++) {
    let text = '';
    for (let n = random(14); n > 0; n--) text += alphabet[random(alphabet.length)];
    try {
      const { port, host } = parseUpstream(text);
      expect(port > 0 && port < 65536 && host !== '').toBe(true);
    } catch (error) {
      if (!(error instanceof ProxyVpnError) || !error.code.startsWith('E_PROXY_')) throw error;
    }
  }
});
