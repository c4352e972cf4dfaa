import { describe, expect, it } from 'vitest';
import { isBypassed } from '../../../src/dns/bypass.ts';
import {
  bypassOf,
  bypassSuffixes,
  type DnsFlags,
  dnsConfig,
  dnsMode,
  dnsServers,
  dohUrl,
  otherTypes,
  virtualPrefixes,
} from '../../../src/dns/options.ts';
import { ProxyVpnError } from '../../../src/errors.ts';
import { prefixText } from '../../../src/ip.ts';
import { hostName } from './messages.ts';

const SECRET = 'http://user:s3cret@proxy.example:3128';

/** The message of the usage error; it must not repeat a password. */
function refusal(parse: () => unknown): string {
  try {
    parse();
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) throw error;
    expect([error.code, error.exitCode, error.hint !== undefined]).toEqual(['E_USAGE', 2, true]);
    expect(`${error.message} ${error.hint}`).not.toContain('s3cret');
    return error.message;
  }
  throw new Error('it was accepted');
}

describe('--dns', () => {
  it.each(['virtual', 'over-tcp', 'doh', 'direct'])('%s', (mode) => expect(dnsMode(mode)).toBe(mode));
  it.each(['', 'Virtual', 'tcp', SECRET])('%j is refused', (text) =>
    expect(refusal(() => dnsMode(text))).toContain('--dns'),
  );
});

describe('--dns-other', () => {
  it.each(['relay', 'no-data'])('%s', (word) => expect(otherTypes(word)).toBe(word));
  it.each(['', 'over-tcp', SECRET])('%j is refused', (text) =>
    expect(refusal(() => otherTypes(text))).toContain('--dns-other'),
  );
});

describe('--dns-server', () => {
  const servers = (...texts: readonly string[]) =>
    texts.reduce<ReturnType<typeof dnsServers> | undefined>((previous, text) => dnsServers(text, previous), undefined);

  it('takes addresses with and without port, in lists and again', () => {
    expect(
      servers('10.0.0.53, fd00::53', '[FD00::54]:5353,10.0.0.53:53,[fd00::55]', '10.0.0.54:5353')?.addresses,
    ).toEqual([
      { address: '10.0.0.53', port: 53 },
      { address: 'fd00::53', port: 53 },
      { address: 'fd00::54', port: 5353 },
      { address: 'fd00::55', port: 53 },
      { address: '10.0.0.54', port: 5353 },
    ]);
  });

  it('takes one URL', () => {
    expect(servers('https://dns.example/dns-query')).toEqual({
      addresses: [],
      url: { host: 'dns.example', port: 443, authority: 'dns.example', path: '/dns-query' },
    });
  });

  it.each([
    '',
    '10.0.0.53,',
    'dns.example',
    '10.0.0.256',
    '10.0.0.53:0',
    '10.0.0.53:65536',
    '10.0.0.53:x',
    '[10.0.0.53',
    'fe80::1%eth0',
    '[fd00::53]:',
  ])('%j is refused', (text) => {
    expect(refusal(() => servers(text))).toContain('--dns-server');
  });

  it('refuses two URLs, and a URL beside addresses', () => {
    expect(refusal(() => servers('https://a.example/,https://b.example/'))).toContain('one URL');
    expect(refusal(() => servers('https://a.example/', '10.0.0.53'))).toContain('exclude');
    expect(refusal(() => servers('10.0.0.53', 'https://a.example/'))).toContain('exclude');
  });

  it('never repeats the proxy URL that a slip put there', () => {
    expect(refusal(() => servers(SECRET))).toContain('not an https URL');
    expect(refusal(() => servers('https://user:s3cret@dns.example/'))).toContain('password');
    expect(refusal(() => servers('user:s3cret@proxy.example:3128'))).toContain('this value');
  });
});

describe('the URL of a DNS server', () => {
  it.each([
    ['https://dns.example', { host: 'dns.example', port: 443, authority: 'dns.example', path: '/' }],
    [
      'HTTPS://DNS.Example:8443/q?x=1',
      { host: 'dns.example', port: 8443, authority: 'dns.example:8443', path: '/q?x=1' },
    ],
    [
      'https://dns.example/dns-query{?dns}',
      { host: 'dns.example', port: 443, authority: 'dns.example', path: '/dns-query' },
    ],
    ['https://[2001:DB8::1]/d', { host: '2001:db8::1', port: 443, authority: '[2001:db8::1]', path: '/d' }],
    ['https://192.0.2.1:444/d', { host: '192.0.2.1', port: 444, authority: '192.0.2.1:444', path: '/d' }],
    [
      'https://bücher.example/',
      { host: 'xn--bcher-kva.example', port: 443, authority: 'xn--bcher-kva.example', path: '/' },
    ],
  ])('%s', (text, url) => expect(dohUrl(text)).toEqual(url));

  it.each(['http://dns.example/', 'https://', 'https://dns.example/#x', 'https://a b/', 'sdns://x'])(
    '%j is refused',
    (text) => {
      expect(refusal(() => dohUrl(text))).toContain('--dns-server');
    },
  );
});

describe('--dns-bypass', () => {
  it('takes names with and without dots or stars around them, in lists and again', () => {
    const first = bypassSuffixes('.corp.example,*.Home.Arpa', undefined);
    const { names, withDefaults } = bypassSuffixes('lan.', first);
    expect([names.map(({ hostname }) => hostname), withDefaults]).toEqual([['corp.example', 'home.arpa', 'lan'], true]);
  });

  it('none drops the default ones only', () => {
    const { names, withDefaults } = bypassSuffixes('none,corp.example', undefined);
    expect([names.length, withDefaults]).toEqual([1, false]);
    expect(bypassSuffixes('lan', { names, withDefaults }).withDefaults).toBe(false);
  });

  it.each(['', '.', 'a..b', 'a b', 'corp.example,', SECRET])('%j is refused', (text) => {
    expect(refusal(() => bypassSuffixes(text, undefined))).toContain('--dns-bypass');
  });
});

describe('--dns-range', () => {
  const ranges = (text: string) => {
    const { v4, v6 } = virtualPrefixes(text, undefined);
    return [prefixText(v4), prefixText(v6)];
  };

  it('takes one network of each family, the other keeps its default', () => {
    expect(ranges('10.64.0.0/16')).toEqual(['10.64.0.0/16', 'fd70:7670:6e00:1::/64']);
    expect(ranges('fd00:1::/48')).toEqual(['198.18.0.0/15', 'fd00:1::/48']);
    expect(ranges('198.18.0.0/16,fd00::/112')).toEqual(['198.18.0.0/16', 'fd00::/112']);
    const both = virtualPrefixes('fd00::/64', virtualPrefixes('10.0.0.0/8', undefined));
    expect([prefixText(both.v4), prefixText(both.v6)]).toEqual(['10.0.0.0/8', 'fd00::/64']);
  });

  it.each([
    '',
    'x',
    '10.0.0.0/25',
    '10.0.0.0/7',
    '10.0.0.1/16',
    '127.0.0.0/16',
    '224.0.0.0/8',
    'fd00::/113',
    'fe80::/64',
    'ff00::/16',
    'fd70:7670:6e00::/64',
    'fd70:7670::/32',
    SECRET,
  ])('%j is refused', (text) => expect(refusal(() => ranges(text))).toContain('--dns-range'));
});

describe('the flags together', () => {
  const NONE: DnsFlags = {
    mode: undefined,
    servers: undefined,
    bypass: undefined,
    other: undefined,
    ranges: undefined,
  };
  const byIp = dnsServers('10.0.0.53', undefined);
  const byUrl = dnsServers('https://dns.example/dns-query', undefined);

  it('mean virtual mode without any server when there are none', () => {
    expect(dnsConfig(NONE)).toMatchObject({ mode: 'virtual', relay: undefined, relaysOtherTypes: false });
  });

  it.each([
    ['over-tcp', byIp, 'tcp'],
    ['doh', byUrl, 'https'],
    ['virtual', byIp, 'tcp'],
    ['virtual', byUrl, 'https'],
  ] as const)('%s relays to the server given', (mode, servers, over) => {
    expect(dnsConfig({ ...NONE, mode, servers })).toMatchObject({
      mode,
      relay: { over },
      relaysOtherTypes: mode === 'virtual',
    });
  });

  it('a server in virtual mode may serve as nothing', () => {
    expect(dnsConfig({ ...NONE, servers: byIp, other: 'no-data' }).relaysOtherTypes).toBe(false);
  });

  it.each([
    [{ mode: 'over-tcp' }, '--dns over-tcp needs'],
    [{ mode: 'over-tcp', servers: byUrl }, '--dns over-tcp needs'],
    [{ mode: 'doh' }, '--dns doh needs'],
    [{ mode: 'doh', servers: byIp }, '--dns doh needs'],
    [{ other: 'relay' }, '--dns-other relay needs'],
    [{ mode: 'over-tcp', servers: byIp, other: 'relay' }, '--dns-other belongs'],
    [{ mode: 'direct', servers: byIp }, '--dns-server has no meaning'],
    [{ mode: 'direct', bypass: bypassSuffixes('lan', undefined) }, '--dns-bypass has no meaning'],
    [{ mode: 'direct', ranges: virtualPrefixes('10.0.0.0/8', undefined) }, '--dns-range has no meaning'],
  ] as const)('%j is refused', (flags, words) => {
    expect(refusal(() => dnsConfig({ ...NONE, ...flags }))).toContain(words);
  });
});

describe('local names', () => {
  const resolvConf = 'search office.example\n';
  const given = bypassSuffixes('lan', undefined);
  const isLocal = (name: string, mode: 'virtual' | 'over-tcp' | 'direct', bypass = given): boolean =>
    isBypassed(hostName(name), bypassOf({ mode, bypass }, resolvConf));

  it('in virtual mode are .local, single labels, the search domains, and those given', () => {
    expect(['a.local', 'printer', 'git.office.example', 'a.lan'].map((name) => isLocal(name, 'virtual'))).toEqual([
      true,
      true,
      true,
      true,
    ]);
    expect(isLocal('www.example', 'virtual')).toBe(false);
  });

  it('after none are only those given', () => {
    const bypass = bypassSuffixes('none,lan', undefined);
    expect(
      ['a.local', 'printer', 'git.office.example', 'a.lan'].map((name) => isLocal(name, 'virtual', bypass)),
    ).toEqual([false, false, false, true]);
  });

  it('where servers are asked are only those given', () => {
    expect(['a.local', 'printer', 'a.lan'].map((name) => isLocal(name, 'over-tcp'))).toEqual([false, false, true]);
    expect(isLocal('a.lan', 'direct')).toBe(false);
  });
});
