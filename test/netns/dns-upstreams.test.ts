/** src/dns between real clients and real servers, on loopback: what the codec, the upstreams and the server are worth. */
import dns from 'node:dns/promises';
import fs from 'node:fs';
import net from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { bypassRules, NO_BYPASS } from '../../src/dns/bypass.ts';
import type { DecisionRules } from '../../src/dns/decision.ts';
import { connectDoh } from '../../src/dns/doh-connect.ts';
import { DohUpstream } from '../../src/dns/doh-upstream.ts';
import { LanUpstream } from '../../src/dns/lan-upstream.ts';
import { nameFromText } from '../../src/dns/name.ts';
import { NameMap } from '../../src/dns/name-map.ts';
import type { DnsServer, DnsServerOptions } from '../../src/dns/server.ts';
import { TcpUpstream } from '../../src/dns/tcp-upstream.ts';
import { DEFAULT_RANGE_4, DEFAULT_RANGE_6, VirtualRange } from '../../src/dns/virtual-range.ts';
import {
  DOH,
  dig,
  FORWARDER,
  LAN_RESOLVER,
  makeCertificates,
  OURS,
  type Served,
  STUB,
  startDoh,
  startForwarder,
  startLanResolver,
  startOurs,
  startStub,
  startUnbound,
  temporaryDirectory,
  UNBOUND,
  withResolver,
} from './dns-lab.ts';
import { Background, run, until } from './process.ts';
import { refuseOnHost } from './topology.ts';

const range = new VirtualRange(DEFAULT_RANGE_4, DEFAULT_RANGE_6);
const VIRTUAL_4 = /^198\.1[89]\.\d+\.\d+$/;
const VIRTUAL_6 = /^fd70:7670:6e00:1:/;

let directory: string;
let unbound: Background;
let lanResolver: Background;
let served: Served | undefined;
const closers: (() => void)[] = [];
const problems: string[] = [];

beforeAll(async () => {
  refuseOnHost();
  directory = temporaryDirectory();
  unbound = await startUnbound(directory);
  lanResolver = await startLanResolver();
});
beforeEach(() => {
  problems.length = 0;
});
afterEach(async () => {
  await served?.close();
  served = undefined;
  for (const close of closers.splice(0)) close();
});
afterAll(async () => {
  await unbound?.stop();
  await lanResolver?.stop();
  fs.rmSync(directory, { recursive: true, force: true });
});

function tcpUpstream(): TcpUpstream {
  const upstream = new TcpUpstream({ servers: [UNBOUND] });
  closers.push(() => upstream.close());
  return upstream;
}

async function serveOurs(rules: Partial<DecisionRules>, options: Partial<DnsServerOptions> = {}): Promise<DnsServer> {
  const local = nameFromText('local');
  served = await startOurs({
    rules: {
      mode: 'virtual',
      ipv6: true,
      bypass: local === undefined ? NO_BYPASS : bypassRules([local], true),
      relaysOtherTypes: false,
      isVirtual: (address) => range.covers(address),
      hosts: new Map(),
      ttl: 60,
      ...rules,
    },
    names: NameMap.open({ range, holdMs: 120_000 }, performance.now()),
    relay: undefined,
    lan: undefined,
    ttl: 60,
    negativeTtl: 30,
    onProblem: (text) => problems.push(text),
    ...options,
  });
  return served.server;
}

/** Data of the only answer. */
async function addressOf(name: string, type: 'A' | 'AAAA', ...options: readonly string[]): Promise<string> {
  const { answers } = await dig(OURS.address, name, type, ...options);
  expect(answers).toEqual([expect.stringMatching(`^${type} `)]);
  return answers[0]?.split(' ')[1] ?? '';
}

describe('virtual mode, asked by dig', () => {
  beforeEach(() => serveOurs({}));

  test('A and AAAA are of the virtual ranges, by UDP and TCP alike', async () => {
    const v4 = await addressOf('www.example.com', 'A');
    const v6 = await addressOf('www.example.com', 'AAAA');
    expect([v4, v6]).toEqual([expect.stringMatching(VIRTUAL_4), expect.stringMatching(VIRTUAL_6)]);
    expect(await addressOf('www.example.com', 'A', '+tcp')).toBe(v4);
    expect(await addressOf('WWW.EXAMPLE.COM', 'AAAA', '+tcp')).toBe(v6);
  });

  test.each(['HTTPS', 'SVCB', 'MX', 'TXT', 'SRV', 'CNAME', 'NS', 'DS'])(
    '%s is "no such data" with an SOA',
    async (type) => {
      const { status, answers, text } = await dig(OURS.address, 'www.example.com', type);
      expect([status, answers]).toEqual(['NOERROR', []]);
      expect(text).toMatch(/AUTHORITY SECTION:\n\.\s+30\s+IN\s+SOA\s+proxyvpn\.invalid\. nobody\.invalid\. /);
    },
  );

  test('ANY gets HINFO, by TCP as dig asks it and by UDP', async () => {
    for (const option of ['+tcp', '+notcp']) {
      const { answers, over } = await dig(OURS.address, 'www.example.com', 'ANY', option);
      expect([answers, over]).toEqual([['HINFO "RFC8482" ""'], option === '+tcp' ? 'TCP' : 'UDP']);
    }
  });

  test('EDNS and DO come back, and dig finds nothing to warn of', async () => {
    const { edns, text, flags } = await dig(
      OURS.address,
      'www.example.com',
      'A',
      '+dnssec',
      '+nsid',
      '+ednsopt=65001:c0ffee',
    );
    expect(edns).toBe('EDNS: version: 0, flags: do; udp: 1232');
    expect(text).not.toMatch(/warning|malformed/i);
    expect(flags).toEqual(['qr', 'rd', 'ra']);
    expect((await dig(OURS.address, 'www.example.com', 'A', '+noedns')).edns).toBeUndefined();
  });

  test('EDNS version 1 is BADVERS, an unknown opcode NOTIMP, an unknown class REFUSED', async () => {
    expect((await dig(OURS.address, 'a.example', 'A', '+edns=1', '+noednsneg')).status).toBe('BADVERS');
    expect((await dig(OURS.address, 'a.example', 'A', '+opcode=5')).status).toBe('NOTIMP');
    expect((await dig(OURS.address, 'version.bind', 'TXT', '-c', 'CH')).status).toBe('REFUSED');
  });

  test('dig -x finds the name of a virtual address', async () => {
    for (const type of ['A', 'AAAA'] as const) {
      const { answers } = await dig(OURS.address, '-x', await addressOf('host.example.com', type));
      expect(answers).toEqual(['PTR host.example.com.']);
    }
    expect((await dig(OURS.address, '-x', '198.18.1.77')).status).toBe('NXDOMAIN');
  });

  test('a local name does not exist where no local resolver may be asked, and dig says why', async () => {
    const { status, text } = await dig(OURS.address, 'printer.local', 'A');
    expect(status).toBe('NXDOMAIN');
    expect(text).toContain('EDE: 15 (Blocked)');
  });

  test('a zone transfer is refused', async () => {
    const ran = await run(['dig', `@${OURS.address}`, '+time=3', 'example.com', 'AXFR']);
    expect(ran.stdout).toContain('Transfer failed');
  });

  test('many queries on one TCP connection, and garbage on others, are all dealt with', async () => {
    const names = Array.from({ length: 200 }, (_, i) => `+tcp host-${i}.example.com A`);
    const file = `${directory}/batch`;
    fs.writeFileSync(file, `${names.join('\n')}\n`);
    const ran = await run(['dig', `@${OURS.address}`, '+keepopen', '+tcp', '+short', '-f', file]);
    expect(new Set(ran.stdout.trim().split('\n')).size).toBe(200);
    const socket = net.connect({ host: OURS.address, port: OURS.port });
    socket.on('error', () => {});
    socket.write(Buffer.from('\0\x05hello'));
    await new Promise((resolve) => socket.once('close', resolve));
    expect(await addressOf('after.example', 'A')).toMatch(VIRTUAL_4);
  });
});

describe('virtual mode, asked by other programs', () => {
  beforeEach(() => serveOurs({}));

  test('getent finds both families, and the name of an address', async () => {
    const found = await withResolver(directory, OURS.address, ['getent', 'ahosts', 'www.example.com']);
    const addresses = [
      ...new Set(
        found.stdout
          .trim()
          .split('\n')
          .map((line) => line.split(' ')[0] ?? ''),
      ),
    ];
    expect(addresses.sort()).toEqual([expect.stringMatching(VIRTUAL_4), expect.stringMatching(VIRTUAL_6)]);
    for (const address of addresses) {
      const { stdout } = await withResolver(directory, OURS.address, ['getent', 'hosts', address]);
      expect(stdout).toMatch(/\swww\.example\.com$/m);
    }
  });

  test('for a name that cannot be getent finds nothing, because it is told so', async () => {
    const found = await withResolver(directory, OURS.address, ['getent', 'ahosts', 'nothing.invalid']);
    expect([found.code, found.stdout]).toEqual([2, '']);
    const program = [
      'import socket',
      'try: socket.getaddrinfo("nothing.invalid", 443)',
      'except socket.gaierror as e: print(e.errno == socket.EAI_NONAME)',
    ].join('\n');
    // Silence would be EAI_AGAIN.
    const told = await withResolver(directory, OURS.address, ['/usr/bin/python3', '-c', program]);
    expect(told.stdout).toBe('True\n');
  });

  test('c-ares finds both families and "no such data" for the rest', async () => {
    const resolver = new dns.Resolver({ timeout: 20_000, tries: 1 });
    resolver.setServers([`${OURS.address}:${OURS.port}`]);
    expect(await resolver.resolve4('www.example.com')).toEqual([expect.stringMatching(VIRTUAL_4)]);
    expect(await resolver.resolve6('www.example.com')).toEqual([expect.stringMatching(VIRTUAL_6)]);
    await expect(resolver.resolveMx('www.example.com')).rejects.toMatchObject({ code: 'ENODATA' });
    await expect(resolver.resolve4('x.invalid')).rejects.toMatchObject({ code: 'ENOTFOUND' });
  });

  test('python finds both families', async () => {
    const program = 'import socket; print(sorted({a[4][0] for a in socket.getaddrinfo("www.example.com", 443)}))';
    const ran = await withResolver(directory, OURS.address, ['/usr/bin/python3', '-c', program]);
    expect(JSON.parse(ran.stdout.replaceAll("'", '"'))).toEqual([
      expect.stringMatching(VIRTUAL_4),
      expect.stringMatching(VIRTUAL_6),
    ]);
  });
});

describe('behind a local stub, dnsmasq', () => {
  let stub: Background;
  let server: DnsServer;
  beforeEach(async () => {
    server = await serveOurs({});
    stub = await startStub();
  });
  afterEach(() => stub.stop());

  test('programs get the same addresses as without it', async () => {
    const { answers } = await dig(STUB.address, 'www.example.com', 'A');
    expect(answers).toEqual([`A ${await addressOf('www.example.com', 'A')}`]);
    const found = await withResolver(directory, STUB.address, ['getent', 'ahosts', 'www.example.com']);
    expect(found.stdout).toMatch(/198\.1[89]\./);
    expect(found.stdout).toMatch(/fd70:7670:6e00:1:/);
  });

  test('"no such data" and "no such name" are cached by it, thanks to the SOA', async () => {
    for (const [name, type] of [
      ['www.example.com', 'AAAA'],
      ['www.example.com', 'MX'],
      ['x.y.invalid', 'A'],
    ] as const) {
      await dig(STUB.address, name, type);
    }
    const asked = server.counters.udpQueries;
    await dig(STUB.address, 'www.example.com', 'AAAA');
    await dig(STUB.address, 'x.y.invalid', 'A');
    expect(server.counters.udpQueries).toBe(asked);
  });
});

test('behind unbound, which mixes the case of names and trusts no other answer, programs get the same', async () => {
  await serveOurs({});
  const forwarder = await startForwarder(directory);
  try {
    for (const type of ['A', 'AAAA'] as const) {
      const { status, answers } = await dig(FORWARDER.address, 'www.some-longer-name.example.com', type);
      const address = await addressOf('www.some-longer-name.example.com', type);
      expect([status, answers]).toEqual(['NOERROR', [`${type} ${address}`]]);
    }
    expect((await dig(FORWARDER.address, 'www.example.com', 'MX')).status).toBe('NOERROR');
    expect((await dig(FORWARDER.address, 'www.example.com', 'HTTPS')).status).toBe('NOERROR');
    expect((await dig(FORWARDER.address, 'printer.local', 'A')).status).toBe('NXDOMAIN');
  } finally {
    await forwarder.stop();
  }
});

describe('over-tcp mode, relayed to unbound', () => {
  test('answers are those of the server, whatever the transport', async () => {
    await serveOurs({ mode: 'over-tcp', bypass: NO_BYPASS }, { relay: tcpUpstream() });
    for (const option of ['+notcp', '+tcp']) {
      expect(await addressOf('www.upstream.test', 'A', option)).toBe('192.0.2.80');
      expect(await addressOf('www.upstream.test', 'AAAA', option)).toBe('2001:db8::80');
    }
    expect((await dig(OURS.address, 'nothing.upstream.test', 'A')).status).toBe('NXDOMAIN');
    const mixed = await dig(OURS.address, 'wWw.uPstream.Test', 'A', '+dnssec');
    expect(mixed.text).toContain(';wWw.uPstream.Test.');
    expect(mixed.edns).toMatch(/flags: do/);
  });

  test('an answer of 4 KiB comes by TCP after TC, as dig does by itself', async () => {
    await serveOurs({ mode: 'over-tcp', bypass: NO_BYPASS }, { relay: tcpUpstream() });
    const cut = await dig(OURS.address, 'big.upstream.test', 'TXT', '+ignore', '+bufsize=4096');
    expect([cut.flags.includes('tc'), cut.answers]).toEqual([true, []]);
    const whole = await dig(OURS.address, 'big.upstream.test', 'TXT');
    expect([whole.over, whole.answers.length]).toEqual(['TCP', 20]);
  });

  test('two hundred queries at once share two connections', async () => {
    const relay = tcpUpstream();
    await serveOurs({ mode: 'over-tcp', bypass: NO_BYPASS }, { relay });
    const resolver = new dns.Resolver({ timeout: 8000, tries: 1 });
    resolver.setServers([`${OURS.address}:${OURS.port}`]);
    const queries = Array.from({ length: 200 }, (_, i) =>
      resolver.resolve4(i % 2 ? 'www.upstream.test' : 'mail.upstream.test'),
    );
    const { stdout } = await run(['ss', '-Htn', 'state', 'established', `dst ${UNBOUND.address}:53`]);
    expect(stdout.trim().split('\n').filter(Boolean).length).toBeLessThanOrEqual(2);
    const answers = await Promise.all(queries);
    expect(answers.map(String)).toEqual(Array.from({ length: 200 }, (_, i) => (i % 2 ? '192.0.2.80' : '192.0.2.25')));
    expect(relay.counters).toMatchObject({ answered: 200, failed: 0 });
  });

  test('the server may go away and come back', async () => {
    await serveOurs({ mode: 'over-tcp', bypass: NO_BYPASS }, { relay: tcpUpstream() });
    expect(await addressOf('www.upstream.test', 'A')).toBe('192.0.2.80');
    await unbound.stop();
    const away = await dig(OURS.address, 'www.upstream.test', 'A');
    expect([away.status, away.text]).toEqual(['SERVFAIL', expect.stringMatching(/EDE: 23 .*ECONNREFUSED/)]);
    expect(problems).toEqual([expect.stringContaining('www.upstream.test A: ')]);
    unbound = await startUnbound(directory);
    expect(await addressOf('www.upstream.test', 'A')).toBe('192.0.2.80');
  });

  test('in virtual mode other types are relayed, without the addresses that unbound adds', async () => {
    await serveOurs({ relaysOtherTypes: true }, { relay: tcpUpstream() });
    const direct = await dig(UNBOUND.address, 'upstream.test', 'MX');
    const { answers, text } = await dig(OURS.address, 'upstream.test', 'MX');
    expect(answers).toEqual(direct.answers);
    expect(text).not.toContain('192.0.2.25');
    expect(await addressOf('mail.upstream.test', 'A')).toMatch(VIRTUAL_4);
  });
});

describe('doh mode', () => {
  test('answers come over TLS that is verified by the name', async () => {
    const certificates = await makeCertificates(directory, 'doh.test');
    closers.push(await startDoh(certificates, tcpUpstream()));
    const url = { host: 'doh.test', port: DOH.port, authority: 'doh.test', path: '/dns-query' };
    const relay = new DohUpstream({
      url,
      connect: () => connectDoh({ url, address: DOH.address, ca: certificates.ca }),
    });
    closers.push(() => relay.close());
    await serveOurs({ mode: 'doh', bypass: NO_BYPASS }, { relay });
    expect(await addressOf('www.upstream.test', 'A')).toBe('192.0.2.80');
    expect(await addressOf('www.upstream.test', 'AAAA', '+tcp')).toBe('2001:db8::80');
    expect((await dig(OURS.address, 'big.upstream.test', 'TXT')).answers).toHaveLength(20);
    const { stdout } = await run(['ss', '-Htn', 'state', 'established', `dst ${DOH.address}:443`]);
    expect(stdout.trim().split('\n')).toHaveLength(1);
  });

  test.each([
    ['another name', 'other.test', true, /ERR_TLS_CERT_ALTNAME_INVALID/],
    ['an authority nobody knows', 'doh.test', false, /UNABLE_TO_VERIFY|SELF_SIGNED/],
  ])('a certificate of %s is refused', async (_, host, isKnown, why) => {
    const certificates = await makeCertificates(directory, 'doh.test');
    closers.push(await startDoh(certificates, tcpUpstream()));
    const url = { host, port: DOH.port, authority: host, path: '/dns-query' };
    const target = { url, address: DOH.address, ...(isKnown ? { ca: certificates.ca } : {}) };
    const relay = new DohUpstream({ url, connect: () => connectDoh(target) });
    closers.push(() => relay.close());
    await serveOurs({ mode: 'doh', bypass: NO_BYPASS }, { relay });
    expect((await dig(OURS.address, 'www.upstream.test', 'A')).status).toBe('SERVFAIL');
    expect(problems).toEqual([expect.stringMatching(why)]);
  });

  test('a TLS server that speaks no HTTP/2 is refused', async () => {
    const { key, certificate, ca } = await makeCertificates(directory, 'doh.test');
    fs.writeFileSync(`${directory}/both.pem`, key + certificate);
    const program = [
      'openssl',
      's_server',
      '-accept',
      `${DOH.address}:${DOH.port}`,
      '-cert',
      `${directory}/both.pem`,
      '-www',
    ];
    const server = new Background(program);
    try {
      await until('openssl listens', async () => (await run(['ss', '-Hltn', `sport = :${DOH.port}`])).stdout !== '');
      const url = { host: 'doh.test', port: DOH.port };
      await expect(connectDoh({ url, address: DOH.address, ca })).rejects.toThrow(/HTTP\/2|NO_APPLICATION_PROTOCOL/);
    } finally {
      await server.stop();
    }
  });
});

describe('names of the local network, asked of dnsmasq', () => {
  beforeEach(async () => {
    const lan = new LanUpstream({ servers: [LAN_RESOLVER] });
    closers.push(() => lan.close());
    await serveOurs({}, { lan });
  });

  test('are what it says, and nothing else goes there', async () => {
    expect(await addressOf('printer.local', 'A')).toBe('192.168.1.9');
    expect(await addressOf('printer.local', 'AAAA')).toBe('fd00::9');
    expect((await dig(OURS.address, 'nothing.local', 'A')).status).toBe('NXDOMAIN');
    expect(await addressOf('www.example.com', 'A')).toMatch(VIRTUAL_4);
  });

  test('an answer that does not fit comes by TCP on both sides', async () => {
    const { answers, over } = await dig(OURS.address, 'printer.local', 'TXT');
    expect([answers.length, over]).toEqual([12, 'TCP']);
  });

  test('a resolver that is away is SERVFAIL', async () => {
    await lanResolver.stop();
    const { status, text } = await dig(OURS.address, 'printer.local', 'A');
    expect([status, text]).toEqual(['SERVFAIL', expect.stringContaining('ECONNREFUSED')]);
    lanResolver = await startLanResolver();
    expect(await addressOf('printer.local', 'A')).toBe('192.168.1.9');
  });
});
