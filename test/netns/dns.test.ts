/** `--dns virtual` with real programs: names become addresses of ours, and the proxy is asked by name. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { Cli } from './cli.ts';
import { dig, NOBODY, runNamed, startDnsmasq, upWith } from './dns-client-lab.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import type { Background } from './process.ts';
import { until } from './process.ts';
import { type ProxyServer, startNginx, startSquid, startTinyproxy, type WebServer } from './servers.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const TINYPROXY = `${ADDRESS.net.v4}:8888`;
const SQUID = `${ADDRESS.net.v4}:3128`;
/** The proxy that goes nowhere and tells whom it was asked for. */
const TELLER = `${ADDRESS.net.v4}:8000`;
const NAMES = { 'origin.test': ADDRESS.origin.v4, 'www.origin.test': ADDRESS.origin.v4 };
const V4 = /^198\.(18|19)\.\d+\.\d+$/;
const V6 = /^fd70:7670:6e00:1::[0-9a-f:]+$/;
const NO_RESOLVER = `nameserver ${NOBODY.v4}\n`;

let topology: Topology;
let cli: Cli;
let web: WebServer;
let tinyproxy: ProxyServer;
let squid: ProxyServer;
let teller: Background;
let before: readonly string[];

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  web = await startNginx(topology);
  tinyproxy = await startTinyproxy(topology, 8888, { names: NAMES });
  squid = await startSquid(topology, 3128, { names: NAMES });
  const program = path.join(import.meta.dirname, 'name_proxy.py');
  teller = await topology.net.serve(['/usr/bin/python3', program, '8000', ADDRESS.net.v4, ADDRESS.net.v6], 8000);
  before = await dumpHost(topology.app);
}, 60_000);
afterEach(async () => {
  await cli.clear();
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});
afterAll(() => topology.remove());

const up = (proxy: string, ...args: readonly string[]) =>
  upWith(topology, cli, NO_RESOLVER, ['--proxy', proxy, ...args]);
const python = (code: string, ...args: readonly string[]) =>
  runNamed(topology, ['/usr/bin/python3', '-c', code, ...args]);

const Statistics = z.object({ dns: z.looseObject({ mode: z.string(), names: z.number(), queries: z.number() }) });
const dnsStatus = async () => Statistics.parse(await cli.status()).dns;

/** The address of a name, as getent gives it. */
async function addressOf(name: string, database: 'ahostsv4' | 'ahostsv6' = 'ahostsv4'): Promise<string> {
  const ran = await runNamed(topology, ['getent', database, name]);
  return ran.stdout.split(/\s/, 1)[0] ?? '';
}

/** Whom the proxy that goes nowhere was asked for, by way of this address. */
async function askedFor(address: string): Promise<string> {
  const ran = await topology.app.run(['bash', '-c', `exec 3<>/dev/tcp/${address}/443 && head -n 1 <&3`]);
  return ran.code === 0 ? ran.stdout.trim() : 'refused';
}

describe.each([['--killswitch'], []])('without any resolver but the proxy (%s)', (...flags) => {
  test.each([
    ['tinyproxy', TINYPROXY, () => tinyproxy],
    ['squid', SQUID, () => squid],
  ] as const)('curl reaches https://name/ through %s, which permits names alone', async (_, address, proxy) => {
    await up(address, ...flags);
    for (const family of ['-4', '-6']) {
      const url = 'https://www.origin.test:8443/hello';
      const ran = await runNamed(topology, ['curl', '-sS', '--max-time', '10', family, '--cacert', web.authority, url]);
      expect(ran).toMatchObject({ code: 0, stdout: 'hello from the origin\n' });
    }
    await until('the name in its log', () => /CONNECT www\.origin\.test:8443/.test(proxy().log()));
    // The same by number is what such proxies refuse.
    const number = ['curl', '-sS', '--max-time', '10', `http://${ADDRESS.origin.v4}:8080/hello`];
    expect((await topology.app.run(number)).code).toBe(7);
  });

  test('a name that the proxy does not permit is refused at connect, not at look-up', async () => {
    await up(TINYPROXY, ...flags);
    expect(await addressOf('other.test')).toMatch(V4);
    const ran = await runNamed(topology, ['curl', '-sS', '--max-time', '10', 'http://other.test:8080/']);
    expect(ran.code).toBe(7);
  });

  test('getent, python and node find the same addresses of both families', async () => {
    await up(TELLER, ...flags);
    const v4 = await addressOf('same.test');
    const v6 = await addressOf('same.test', 'ahostsv6');
    expect([v4, v6]).toEqual([expect.stringMatching(V4), expect.stringMatching(V6)]);
    const infos = 'import socket; print(sorted({i[4][0] for i in socket.getaddrinfo("same.test", 443)}))';
    expect((await python(infos)).stdout.trim()).toBe(`['${v4}', '${v6}']`);
    const script = `const dns = require('dns').promises; (async () => console.log(JSON.stringify([
      await dns.resolve4('same.test'), await dns.resolve6('same.test'),
      await dns.reverse('${v4}'), await dns.reverse('${v6}')])))()`;
    const node = await runNamed(topology, [process.execPath, '-e', script]);
    expect(JSON.parse(node.stdout)).toEqual([[v4], [v6], ['same.test'], ['same.test']]);
    expect(await askedFor(v4)).toBe('same.test:443');
    expect(await askedFor(v6)).toBe('same.test:443');
  });
});

test('dig by UDP and TCP, of both families, with DNSSEC and for every type', async () => {
  await up(TELLER, '--killswitch');
  const { app } = topology;
  const [answer] = (await dig(app, NOBODY.v4, 'dig.test')).answers;
  expect(answer).toMatch(/^A 198\.1[89]\./);
  for (const resolver of [NOBODY.v4, NOBODY.v6, ADDRESS.net.v4, ADDRESS.net.v6]) {
    for (const way of [[], ['+tcp'], ['+dnssec'], ['+noedns'], ['+tcp', '+keepopen']]) {
      expect((await dig(app, resolver, 'dig.test', ...way)).answers, `${resolver} ${way}`).toEqual([answer]);
    }
    expect((await dig(app, resolver, 'dig.test', 'AAAA')).answers[0]).toMatch(/^AAAA fd70:7670:6e00:1::/);
  }
  for (const type of ['HTTPS', 'SVCB', 'MX', 'TXT', 'NS', 'SOA', 'SRV']) {
    expect(await dig(app, NOBODY.v4, 'dig.test', type), type).toMatchObject({ status: 'NOERROR', answers: [] });
  }
  expect((await dig(app, NOBODY.v4, 'dig.test', 'ANY')).answers).toEqual(['HINFO "RFC8482" ""']);
  expect((await dig(app, NOBODY.v4, 'dig.test', 'AXFR')).answers).toEqual([]);
});

test('what a stub resolver on loopback forwards is caught', async () => {
  await up(TELLER, '--killswitch');
  const stub = await startDnsmasq(topology.app, '127.0.0.53', [`--server=${ADDRESS.net.v4}`, '--cache-size=1000']);
  const options = { resolvConf: 'nameserver 127.0.0.53\n' };
  const ran = await runNamed(topology, ['getent', 'ahostsv4', 'stub.test'], options);
  expect(ran.stdout.split(' ')[0]).toMatch(V4);
  expect(await askedFor(ran.stdout.split(' ')[0] ?? '')).toBe('stub.test:443');
  await stub.stop();
});

/** Asks by a socket with an option of its own; the address that came, or the errno. */
const ASK = `
import errno, socket, struct, sys
kind, resolver = sys.argv[1:]
v6 = ':' in resolver
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
index = socket.htonl(socket.if_nametoindex('uplink'))
if kind == 'unicast-if':
    s.setsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, 76 if v6 else 50, struct.pack('I', index))
if kind == 'device':
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'uplink')
if kind == 'source':
    s.bind(('fd77::1' if v6 else '10.77.0.1', 0))
try:
    s.connect((resolver, 53))
    s.send(struct.pack('!HHHHHH', 7, 0x100, 1, 0, 0, 0) + b'\\4kind\\4test\\0\\0\\1\\0\\1')
    print('.'.join(map(str, s.recv(600)[-4:])))
except OSError as error:
    print(errno.errorcode.get(error.errno, error))
`;

describe.each([['--killswitch'], []])('sockets that choose their way (%s)', (...flags) => {
  test('an interface (IP_UNICAST_IF, as systemd-resolved) or a source: caught; a device: refused at once', async () => {
    await up(TELLER, ...flags);
    const ask = async (kind: string, resolver: string): Promise<string> =>
      (await topology.app.run(['/usr/bin/python3', '-c', ASK, kind, resolver])).stdout.trim();
    for (const resolver of [NOBODY.v4, NOBODY.v6, ADDRESS.net.v4, ADDRESS.net.v6]) {
      for (const kind of ['plain', 'unicast-if', 'source']) expect(await ask(kind, resolver), kind).toMatch(V4);
      expect(await ask('device', resolver)).toMatch(/^E(CONNREFUSED|HOSTUNREACH|ACCES|PERM)$/);
    }
  });
});

const NAT =
  'add table inet nat; add chain inet nat out { type nat hook postrouting priority 100; }; ' +
  'add rule inet nat out oifname != "guest0" ip saddr 10.78.0.0/24 masquerade; ' +
  'add rule inet nat out oifname != "guest0" ip6 saddr fd78::/64 masquerade';

describe.each([
  { way: 'routed', rules: undefined },
  { way: 'behind NAT', rules: NAT },
])('what a container asks that is $way', ({ rules }) => {
  test.each([['--killswitch'], []])('of whomever, is caught as well (%s)', async (...flags) => {
    if (rules !== undefined) await topology.app.must(['nft', rules]);
    await up(TELLER, ...flags);
    for (const resolver of [NOBODY.v4, NOBODY.v6, ADDRESS.net.v4]) {
      const [, address = ''] = (await dig(topology.guest, resolver, 'guest.test')).answers[0]?.split(' ') ?? [];
      expect(address).toMatch(V4);
      const ran = await topology.guest.run(['bash', '-c', `exec 3<>/dev/tcp/${address}/443 && head -n 1 <&3`]);
      expect(ran.stdout).toBe('guest.test:443\n');
    }
    if (rules !== undefined) await topology.app.must(['nft', 'delete table inet nat']);
  });
});

describe('the map', () => {
  test('an address that stands for nothing is refused with a log line, and never asked for by number', async () => {
    await up(TELLER, '--killswitch');
    for (const address of ['198.19.77.77', 'fd70:7670:6e00:1::7777']) {
      expect(await askedFor(address)).toBe('refused');
      await until('a line about it', async () => {
        const { lastErrors } = z
          .object({ lastErrors: z.array(z.object({ message: z.string() })) })
          .parse(JSON.parse((await cli.run(['status', '--json'])).stdout));
        return lastErrors.some(({ message }) => message.includes(address) && message.includes('stands for no name'));
      });
      expect(teller.stdout).not.toContain(address);
    }
  });

  test('UDP to an address of a name is refused, not dropped, so that QUIC falls back to TCP', async () => {
    await up(TELLER);
    const address = await addressOf('quic.test');
    const ran = await topology.app.run([
      '/usr/bin/python3',
      path.join(import.meta.dirname, 'datagram.py'),
      address,
      '443',
      '20',
    ]);
    expect(ran.stdout).toMatch(/^E(CONNREFUSED|HOSTUNREACH|ACCES)/);
  });

  test.each([
    ['down and up', () => cli.down()],
    ['SIGKILL and up', () => cli.killDaemon()],
  ] as const)('holds over %s: the same names have the same addresses, of live connections too', async (_, end) => {
    await up(TELLER, '--killswitch');
    const names = Array.from({ length: 20 }, (_unused, i) => `kept-${i}.test`);
    const addresses = await Promise.all(names.map((name) => addressOf(name)));
    const script = `exec 3<>/dev/tcp/${addresses[0]}/443; cat <&3`;
    const live = topology.app.start(['bash', '-c', script]);
    await live.until('the live connection', () => live.stdout.includes('kept-0.test:443'));
    await end();
    await up(TELLER, '--killswitch');
    for (const [i, address] of addresses.entries()) expect(await askedFor(address)).toBe(`kept-${i}.test:443`);
    expect(await addressOf('fresh.test')).not.toBe(addresses[0]);
    expect(await Promise.all(names.map((name) => addressOf(name)))).toEqual(addresses);
    await live.stop();
  });

  test('dns query, map and flush, and status tell of it', async () => {
    await up(TELLER);
    expect((await cli.run(['dns', 'query', 'told.test'])).stdout).toMatch(/^told\.test 60 IN A 198\.1[89]\./);
    const query = JSON.parse((await cli.run(['dns', 'query', 'told.test', 'AAAA', '--json'])).stdout);
    expect(query).toMatchObject({ rcode: 'NOERROR', answers: [{ type: 'AAAA', data: expect.stringMatching(V6) }] });
    expect(await cli.run(['dns', 'query', 'told.test', 'MX'])).toMatchObject({
      code: 1,
      stdout: expect.stringContaining('no record'),
    });
    const { names } = JSON.parse((await cli.run(['dns', 'map', '--json'])).stdout);
    const told = names.find(({ hostname }: { readonly hostname: string }) => hostname === 'told.test');
    expect(told).toMatchObject({ address6: query.answers[0].data, flows: 0 });
    expect((await cli.run(['dns', 'map'])).stdout).toContain(`${told.address4} ${told.address6} told.test`);
    expect((await cli.run(['dns', 'flush', '--json'])).stdout).toMatch(/^\{"forgotten":\d+,"kept":\d+\}\n$/);
    expect(await dnsStatus()).toMatchObject({ mode: 'virtual', queries: expect.any(Number) });
    expect((await dnsStatus()).queries).toBeGreaterThan(2);
    await cli.down();
    expect((await cli.run(['dns', 'map'])).code).toBe(4);
  });

  test('20,000 names: each connection asks for its own name, and memory is bounded', { timeout: 150_000 }, async () => {
    await up(TELLER);
    const program = path.join(import.meta.dirname, 'many_names.py');
    const command = ['/usr/bin/python3', program, '20000', NOBODY.v4, '128'];
    const ran = await topology.app.run(command, { timeoutMs: 120_000 });
    const result = z
      .object({
        connected: z.number(),
        mixups: z.number(),
        failed: z.number(),
        addresses: z.number(),
        first: z.string(),
      })
      .parse(JSON.parse(ran.stdout));
    expect(result).toMatchObject({ connected: 20_000, mixups: 0, failed: 0, addresses: 20_000, first: '' });
    expect((await dnsStatus()).names).toBeGreaterThanOrEqual(20_000);
    const { memory } = z
      .object({ memory: z.object({ residentBytes: z.number() }) })
      .parse(JSON.parse((await cli.run(['status', '--json'])).stdout));
    expect(memory.residentBytes).toBeLessThan(256 * 1024 * 1024);
  });
});

describe('names of the local network', () => {
  let resolver: Background;
  beforeAll(async () => {
    const records = ['--host-record=printer.local,10.77.0.9', '--host-record=git.corp.test,10.77.0.10'];
    resolver = await startDnsmasq(topology.net, ADDRESS.net.v4, [...records, '--local=/local/', '--local=/corp.test/']);
  });
  afterAll(() => resolver.stop());
  const LAN = `nameserver ${ADDRESS.net.v4}\nsearch corp.test\n`;

  test('are asked of the resolver there, and go nowhere with the killswitch', async () => {
    const lookUp = async (name: string): Promise<string> =>
      (await runNamed(topology, ['getent', 'ahostsv4', name], { resolvConf: LAN })).stdout.split(' ')[0] ?? '';
    await upWith(topology, cli, LAN, ['--proxy', TELLER]);
    expect(await lookUp('printer.local')).toBe('10.77.0.9');
    expect(await lookUp('git')).toBe('10.77.0.10');
    expect(await lookUp('www.elsewhere.test')).toMatch(V4);
    await cli.down();
    const { stderr } = await upWith(topology, cli, LAN, ['--proxy', TELLER, '--killswitch']);
    expect(stderr).toContain('corp.test');
    expect(await dig(topology.app, ADDRESS.net.v4, 'printer.local')).toMatchObject({ status: 'NXDOMAIN', answers: [] });
    expect(await lookUp('www.elsewhere.test')).toMatch(V4);
  });

  test('--dns-bypass adds suffixes, and none leaves all to the proxy', async () => {
    await upWith(topology, cli, LAN, ['--proxy', TELLER, '--dns-bypass', 'none']);
    expect((await dig(topology.app, NOBODY.v4, 'printer.local')).answers[0]).toMatch(/^A 198\./);
    await cli.down();
    await upWith(topology, cli, LAN, ['--proxy', TELLER, '--dns-bypass', 'none,.corp.test']);
    expect((await dig(topology.app, NOBODY.v4, 'git.corp.test')).answers).toEqual(['A 10.77.0.10']);
  });
});

test('a proxy given by name is answered with its address, also after a crash with the killswitch', async () => {
  const hosts = path.join(topology.directory, 'hosts-of-lan');
  fs.writeFileSync(hosts, '');
  const records = [`--host-record=proxy.test,${ADDRESS.net.v4}`];
  const resolver = await startDnsmasq(topology.net, ADDRESS.net.v4, records);
  const lan = (timeoutS: number): string => `nameserver ${ADDRESS.net.v4}\noptions timeout:${timeoutS} attempts:1\n`;
  await upWith(topology, cli, lan(20), ['--proxy', 'proxy.test:8000', '--killswitch']);
  expect((await dig(topology.app, NOBODY.v4, 'proxy.test')).answers).toEqual([`A ${ADDRESS.net.v4}`]);
  await cli.killDaemon();
  // The killswitch lets no query out: nothing comes, however long one waits.
  const again = await upWith(topology, cli, lan(1), ['--proxy', 'proxy.test:8000', '--killswitch']);
  expect(again.stderr).toContain(ADDRESS.net.v4);
  expect(await askedFor(await addressOf('after.test'))).toBe('after.test:443');
  await resolver.stop();
});
