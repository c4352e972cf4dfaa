import { describe, expect, it } from 'vitest';
import { type BypassRules, bypassRules, isBypassed, NO_BYPASS, searchDomains } from '../../../src/dns/bypass.ts';
import { type Decision, type DecisionRules, decide, reverseAddress } from '../../../src/dns/decision.ts';
import type { DnsName } from '../../../src/dns/name.ts';
import { CLASS, TYPE } from '../../../src/dns/numbers.ts';
import { DEFAULT_RANGE_4, DEFAULT_RANGE_6, VirtualRange } from '../../../src/dns/virtual-range.ts';
import { addressBytes } from '../../../src/ip.ts';
import { hostName, nameOf } from './messages.ts';

const range = new VirtualRange(DEFAULT_RANGE_4, DEFAULT_RANGE_6);
const RULES: DecisionRules = {
  mode: 'virtual',
  ipv6: true,
  bypass: bypassRules([hostName('local'), hostName('corp.example')], true),
  relaysOtherTypes: false,
  isVirtual: (address) => range.covers(address),
  hosts: new Map(),
  ttl: 60,
};

function ask(
  name: string | DnsName,
  type: number,
  rules: Partial<DecisionRules> = {},
  dnsClass: number = CLASS.IN,
): Decision {
  return decide(
    { name: typeof name === 'string' ? hostName(name) : name, type, class: dnsClass },
    { ...RULES, ...rules },
  );
}

const EVERY_TYPE = Array.from({ length: 300 }, (_, type) => type);

describe('in virtual mode', () => {
  it('A and AAAA stand for the name, in lower case', () => {
    expect(ask('WWW.Example.com', TYPE.A)).toEqual({ kind: 'address', family: 4, hostname: 'www.example.com' });
    expect(ask('www.example.com', TYPE.AAAA)).toEqual({ kind: 'address', family: 6, hostname: 'www.example.com' });
  });

  it('AAAA is "no such data" where the tunnel carries no IPv6', () => {
    expect(ask('www.example.com', TYPE.AAAA, { ipv6: false })).toEqual({ kind: 'no-data' });
    expect(ask('www.example.com', TYPE.A, { ipv6: false })).toMatchObject({ kind: 'address' });
  });

  it('no type but A and AAAA ever gets an address, and HTTPS and SVCB are never asked of anybody', () => {
    for (const relaysOtherTypes of [false, true]) {
      for (const type of EVERY_TYPE) {
        const { kind } = ask('www.example.com', type, { relaysOtherTypes });
        expect(kind === 'address').toBe(type === TYPE.A || type === TYPE.AAAA);
      }
      for (const type of [TYPE.HTTPS, TYPE.SVCB]) {
        expect(ask('_8443._https.www.example.com', type, { relaysOtherTypes })).toEqual({ kind: 'no-data' });
      }
    }
  });

  it('other types get "no such data", or are relayed, by option', () => {
    for (const type of [TYPE.MX, TYPE.TXT, TYPE.SRV, TYPE.CNAME, TYPE.NS, TYPE.SOA, TYPE.DS, 65280]) {
      expect(ask('example.com', type)).toEqual({ kind: 'no-data' });
      expect(ask('example.com', type, { relaysOtherTypes: true })).toEqual({ kind: 'relay' });
    }
  });

  it('ANY gets the least that is an answer (RFC 8482)', () => {
    expect(ask('example.com', TYPE.ANY)).toEqual({
      kind: 'records',
      records: [{ type: 'HINFO', ttl: 60, data: { cpu: 'RFC8482', os: '' } }],
    });
  });

  it.each([
    ['an address as a name', nameOf('192', '0', '2', '1')],
    ['CR LF', nameOf('a\r\nb', 'example')],
    ['a dot in a label', nameOf('www.example', 'com')],
    ['other bytes', nameOf('\xff', 'example')],
  ])('%s never becomes the target of a connection', (_, name) => {
    expect(ask(name, TYPE.A)).toEqual({ kind: 'no-such-name' });
    expect(ask(name, TYPE.AAAA)).toEqual({ kind: 'no-such-name' });
  });

  it('the root and the reverse trees have no addresses', () => {
    expect(ask(nameOf(), TYPE.A)).toEqual({ kind: 'no-data' });
    expect(ask('1.in-addr.arpa', TYPE.A)).toEqual({ kind: 'no-data' });
    expect(ask(nameOf(), TYPE.NS, { relaysOtherTypes: true })).toEqual({ kind: 'relay' });
  });

  it('other classes are refused', () => {
    for (const dnsClass of [CLASS.CH, CLASS.NONE, CLASS.ANY, 0]) {
      expect(ask('version.bind', TYPE.TXT, {}, dnsClass)).toEqual({ kind: 'refused' });
    }
  });
});

describe.each(['over-tcp', 'doh'] as const)('in %s mode', (mode) => {
  it('every type is relayed, as are other classes', () => {
    for (const type of [TYPE.A, TYPE.AAAA, TYPE.HTTPS, TYPE.MX, TYPE.ANY, 65280]) {
      expect(ask('www.example.com', type, { mode })).toEqual({ kind: 'relay' });
    }
    expect(ask('version.bind', TYPE.TXT, { mode }, CLASS.CH)).toEqual({ kind: 'relay' });
  });

  it('names are relayed in whatever bytes, for their server knows', () => {
    expect(ask(nameOf('a b', '\xff'), TYPE.A, { mode })).toEqual({ kind: 'relay' });
    expect(ask('ipv4only.arpa', TYPE.AAAA, { mode })).toEqual({ kind: 'relay' });
  });
});

it('in direct mode nothing is answered here', () => {
  for (const type of EVERY_TYPE) expect(ask('www.example.com', type, { mode: 'direct' })).toEqual({ kind: 'refused' });
});

it.each(['virtual', 'over-tcp', 'doh'] as const)('in %s mode zone transfers and TKEY are refused', (mode) => {
  for (const type of [TYPE.AXFR, TYPE.IXFR, TYPE.TKEY, TYPE.TSIG]) {
    expect(ask('example.com', type, { mode, relaysOtherTypes: true })).toEqual({ kind: 'refused' });
  }
});

describe.each(['virtual', 'over-tcp', 'doh'] as const)('special names in %s mode', (mode) => {
  it('localhost is this host (RFC 6761)', () => {
    for (const name of ['localhost', 'a.b.localhost']) {
      expect(ask(name, TYPE.A, { mode })).toMatchObject({
        records: [{ type: 'address', data: addressBytes('127.0.0.1') }],
      });
      expect(ask(name, TYPE.AAAA, { mode })).toMatchObject({
        records: [{ type: 'address', data: addressBytes('::1') }],
      });
      expect(ask(name, TYPE.MX, { mode })).toEqual({ kind: 'no-data' });
    }
  });

  it('what only looks like localhost is not', () => {
    for (const name of ['localhost.example', 'notlocalhost.example', 'xlocalhost']) {
      expect(ask(name, TYPE.A, { mode, bypass: NO_BYPASS }).kind).toBe(mode === 'virtual' ? 'address' : 'relay');
    }
  });

  it('invalid does not exist (RFC 6761)', () => {
    expect(ask('a.invalid', TYPE.A, { mode })).toEqual({ kind: 'no-such-name' });
    expect(ask('invalid', TYPE.MX, { mode })).toEqual({ kind: 'no-such-name' });
  });

  it('a virtual address has its name, whatever else there is', () => {
    const pointer = ask('5.1.18.198.in-addr.arpa', TYPE.PTR, { mode });
    expect(pointer).toEqual({ kind: 'pointer', address: addressBytes('198.18.1.5') });
    expect(ask('5.1.18.198.in-addr.arpa', TYPE.TXT, { mode })).toEqual({ kind: 'no-data' });
    expect(ask(`${'1.'.padEnd(32, '0.')}1.0.0.0.0.0.e.6.0.7.6.7.0.7.d.f.ip6.arpa`, TYPE.PTR, { mode })).toEqual({
      kind: 'pointer',
      address: addressBytes('fd70:7670:6e00:1::1'),
    });
  });

  it('loopback addresses are localhost', () => {
    expect(ask('1.0.0.127.in-addr.arpa', TYPE.PTR, { mode })).toMatchObject({ records: [{ data: 'localhost' }] });
    expect(ask(`${'1.'.padEnd(64, '0.')}ip6.arpa`, TYPE.PTR, { mode })).toMatchObject({
      records: [{ data: 'localhost' }],
    });
  });

  it("other addresses are other servers' affair", () => {
    const expected = mode === 'virtual' ? 'no-data' : 'relay';
    expect(ask('1.2.0.192.in-addr.arpa', TYPE.PTR, { mode }).kind).toBe(expected);
  });
});

it.each(['virtual', 'over-tcp', 'doh'] as const)("in %s mode the proxy's own name has its own addresses", (mode) => {
  const v4 = addressBytes('10.77.0.2');
  const v6 = addressBytes('fd77::2');
  const hosts = new Map([[hostName('proxy.corp.example').key, [v4, v6]]]);
  expect(ask('Proxy.corp.example', TYPE.A, { mode, hosts })).toEqual({
    kind: 'records',
    records: [{ type: 'address', ttl: 60, data: v4 }],
  });
  expect(ask('proxy.corp.example', TYPE.AAAA, { mode, hosts })).toMatchObject({ records: [{ data: v6 }] });
  expect(ask('proxy.corp.example', TYPE.HTTPS, { mode, hosts })).toEqual({ kind: 'no-data' });
  expect(ask('x.proxy.corp.example', TYPE.A, { mode, hosts }).kind).not.toBe('records');
});

describe('special names in virtual mode', () => {
  it('ipv4only.arpa says that there is no NAT64 (RFC 8880)', () => {
    expect(ask('ipv4only.arpa', TYPE.A)).toMatchObject({
      records: ['192.0.0.170', '192.0.0.171'].map((text) => ({ data: addressBytes(text) })),
    });
    expect(ask('ipv4only.arpa', TYPE.AAAA)).toEqual({ kind: 'no-data' });
  });

  it('browsers are told not to resolve by themselves', () => {
    expect(ask('use-application-dns.net', TYPE.A)).toEqual({ kind: 'no-such-name' });
    expect(ask('_dns.resolver.arpa', TYPE.SVCB)).toEqual({ kind: 'no-data' });
  });

  it('names that only the proxy can know go to it', () => {
    for (const name of ['a.test', 'a.example', 'a.onion']) expect(ask(name, TYPE.A)).toMatchObject({ kind: 'address' });
  });
});

describe('local names', () => {
  const rules: BypassRules = RULES.bypass;

  it.each(['local', 'printer.local', 'a.b.local', 'corp.example', 'git.corp.example', 'printer', 'PRINTER'])(
    '%s is one',
    (name) => {
      expect(isBypassed(hostName(name), rules)).toBe(true);
      for (const type of [TYPE.A, TYPE.AAAA, TYPE.MX, TYPE.HTTPS, TYPE.ANY]) {
        expect(ask(name, type)).toEqual({ kind: 'lan' });
      }
    },
  );

  it.each(['local.example', 'xlocal.example', 'example', 'notcorp.example', 'corp.example.com'])(
    '%s is none but for its single label',
    (name) => {
      expect(isBypassed(hostName(name), { ...rules, singleLabels: false })).toBe(false);
    },
  );

  it('a label with a dot inside does not make one', () => {
    expect(isBypassed(nameOf('x.local', 'example'), rules)).toBe(false);
    expect(isBypassed(nameOf('a', 'x.local'), rules)).toBe(false);
    expect(isBypassed(nameOf('a', 'corp.example', 'com'), rules)).toBe(false);
  });

  it('the root is none', () => {
    expect(isBypassed(nameOf(), rules)).toBe(false);
  });

  it('bytes that are no host name may be below one', () => {
    expect(isBypassed(nameOf('My Printer', '_ipp', '_tcp', 'local'), rules)).toBe(true);
  });
});

describe('the search list', () => {
  const domains = (text: string) => searchDomains(text).map(({ hostname }) => hostname);

  it.each([
    ['search corp.example home.arpa', ['corp.example', 'home.arpa']],
    ['domain corp.example', ['corp.example']],
    ['domain a.example\nsearch b.example', ['b.example']],
    ['search b.example\ndomain a.example\n', ['a.example']],
    ['\tsearch\tCorp.Example. \n', ['corp.example']],
    ['search .', []],
    ['# search a.example\n;search b.example\nsearching c.example', []],
    ['nameserver 192.0.2.53', []],
    ['search ..bad a.example', ['a.example']],
    ['', []],
  ])('of %j is %j', (text, expected) => {
    expect(domains(text)).toEqual(expected);
  });
});

describe('a reverse name', () => {
  it.each([
    ['4.3.2.1.in-addr.arpa', '1.2.3.4'],
    ['0.0.0.0.in-addr.arpa', '0.0.0.0'],
    ['255.255.255.255.in-addr.arpa', '255.255.255.255'],
  ])('%s is %s', (name, address) => {
    expect(reverseAddress(hostName(name).key)).toEqual(addressBytes(address));
  });

  it.each([
    '3.2.1.in-addr.arpa',
    '5.4.3.2.1.in-addr.arpa',
    '256.3.2.1.in-addr.arpa',
    '04.3.2.1.in-addr.arpa',
    'x.3.2.1.in-addr.arpa',
    '4.3.2.1.in-addr.example',
    '1.ip6.arpa',
    `${'g.'.repeat(32)}ip6.arpa`,
    `${'00.'.repeat(32)}ip6.arpa`,
    'in-addr.arpa',
    'arpa',
  ])('%s is none', (name) => {
    expect(reverseAddress(hostName(name).key)).toBeUndefined();
  });
});
