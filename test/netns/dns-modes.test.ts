/** `--dns over-tcp`, `doh` and `direct`, and what of each mode is seen on port 53 outside. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Capture } from './capture.ts';
import { Cli } from './cli.ts';
import {
  DNS_PACKET,
  dig,
  NOBODY,
  rounds,
  runNamed,
  startDnsmasq,
  startLeakingQueries,
  upWith,
} from './dns-client-lab.ts';
import { makeCertificates } from './dns-lab.ts';
import { IPTABLES_FILTER, NFT_FILTER, startLeakServers, watchLeaks } from './leak-scenario.ts';
import { type Background, until } from './process.ts';
import { type ProxyServer, startNginx, startTinyproxy } from './servers.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

/** On the "internet", out of app's reach but through the proxy. */
const RESOLVER = '203.0.113.53';
const DOH_ADDRESS = '203.0.113.80';
const DOH = 'https://dns.origin.test/dns-query';
const PROXY = ['--proxy', `${ADDRESS.net.v4}:8888`] as const;
const LONG_MS = 120_000;
const NO_RESOLVER = `nameserver ${NOBODY.v4}\n`;
const OVER_TCP = ['--dns', 'over-tcp', '--dns-server', RESOLVER] as const;

let topology: Topology;
let cli: Cli;
let proxy: ProxyServer;

beforeEach(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
});
afterEach(() => topology.remove());

/** A resolver that knows origin.test, big.test and www.*, behind the proxy. */
async function startResolver(): Promise<Background> {
  const texts = Array.from({ length: 12 }, (_, i) => `--txt-record=big.test,${`${i}-`.padEnd(200, 'y')}`);
  const hosts = [
    `--host-record=origin.test,${ADDRESS.origin.v4},${ADDRESS.origin.v6}`,
    '--address=/many.test/192.0.2.7',
  ];
  return startDnsmasq(topology.net, RESOLVER, [...hosts, '--mx-host=origin.test,mail.origin.test,10', ...texts]);
}

async function startDohServer(): Promise<{ readonly server: Background; readonly authority: string }> {
  const directory = path.join(topology.directory, 'doh');
  fs.mkdirSync(directory);
  await makeCertificates(directory, 'dns.origin.test');
  const program = path.join(import.meta.dirname, 'doh_server.mjs');
  const files = ['key.pem', 'cert.pem'].map((name) => path.join(directory, name));
  const server = topology.net.start([process.execPath, program, ...files, DOH_ADDRESS, RESOLVER]);
  await server.until('its port', () => server.stdout.includes('ready'));
  return { server, authority: path.join(directory, 'ca.pem') };
}

/** What every mode that asks real servers must give to programs. */
async function expectRealAnswers(): Promise<void> {
  const { app } = topology;
  expect((await dig(app, NOBODY.v4, 'origin.test')).answers).toEqual([`A ${ADDRESS.origin.v4}`]);
  expect((await dig(app, NOBODY.v6, 'origin.test', 'AAAA', '+tcp')).answers).toEqual([`AAAA ${ADDRESS.origin.v6}`]);
  expect((await dig(app, ADDRESS.net.v4, 'origin.test', 'MX')).answers).toEqual(['MX 10 mail.origin.test.']);
  // Too long for a datagram: dig comes again by TCP.
  expect((await dig(app, NOBODY.v4, 'big.test', 'TXT')).answers).toHaveLength(12);
  expect((await dig(app, NOBODY.v4, 'nothing.test')).status).toMatch(/NXDOMAIN|REFUSED/);
  const ran = await runNamed(topology, ['curl', '-sS', '--max-time', '10', 'http://origin.test:8080/hello']);
  expect(ran).toMatchObject({ code: 0, stdout: 'hello from the origin\n' });
}

describe.each([['--killswitch'], []])('through the proxy (%s)', (...flags) => {
  beforeEach(async () => {
    await startNginx(topology);
    await startResolver();
  });

  test('over-tcp: real answers of a server that only the proxy reaches, over few connections', async () => {
    proxy = await startTinyproxy(topology);
    await upWith(topology, cli, NO_RESOLVER, [...PROXY, ...OVER_TCP, ...flags]);
    await expectRealAnswers();
    const names = Array.from({ length: 200 }, (_, i) => `host-${i}.many.test`);
    const list = path.join(topology.directory, 'names');
    fs.writeFileSync(list, names.map((name) => `${name} A\n`).join(''));
    const ran = await topology.app.run(['dig', `@${NOBODY.v4}`, '+short', '+tries=1', '+time=5', '-f', list]);
    expect(ran.stdout.split('\n').filter(Boolean)).toEqual(names.map(() => '192.0.2.7'));
    const connects = proxy.log().match(/CONNECT 203\.0\.113\.53:53/g) ?? [];
    expect(connects.length).toBeGreaterThan(0);
    expect(connects.length).toBeLessThan(12);
  });

  test('over-tcp: the second server answers where the first is dead', async () => {
    proxy = await startTinyproxy(topology);
    const servers = ['--dns-server', `203.0.113.66,${RESOLVER}`];
    await upWith(topology, cli, NO_RESOLVER, [...PROXY, '--dns', 'over-tcp', ...servers, ...flags]);
    expect((await dig(topology.app, NOBODY.v4, 'origin.test')).answers).toEqual([`A ${ADDRESS.origin.v4}`]);
  });

  test('doh: the proxy resolves the name of the server, whose certificate is verified', async () => {
    proxy = await startTinyproxy(topology, 8888, {
      names: { 'dns.origin.test': DOH_ADDRESS, [ADDRESS.origin.v4]: ADDRESS.origin.v4 },
    });
    const { server, authority } = await startDohServer();
    const up = [...PROXY, '--dns', 'doh', '--dns-server', DOH, ...flags];
    await upWith(topology, cli, NO_RESOLVER, up);
    // Nobody vouches for it here.
    expect((await dig(topology.app, NOBODY.v4, 'origin.test')).status).toBe('SERVFAIL');
    await cli.down();
    await upWith(topology, cli, NO_RESOLVER, up, { NODE_EXTRA_CA_CERTS: authority });
    await expectRealAnswers();
    expect(server.stdout).toContain('POST dns.origin.test/dns-query');
    expect(proxy.log()).toContain('CONNECT dns.origin.test:443');
  });

  test("virtual with --dns-server: addresses are ours, other types are the server's", async () => {
    proxy = await startTinyproxy(topology);
    await upWith(topology, cli, NO_RESOLVER, [...PROXY, '--dns-server', RESOLVER, ...flags]);
    expect((await dig(topology.app, NOBODY.v4, 'origin.test')).answers[0]).toMatch(/^A 198\.1[89]\./);
    const mail = await dig(topology.app, NOBODY.v4, 'origin.test', 'MX');
    expect(mail.answers).toEqual(['MX 10 mail.origin.test.']);
    expect((await dig(topology.app, NOBODY.v4, 'origin.test', 'HTTPS')).answers).toEqual([]);
  });

  test('--sniff: a program that knows the number has its CONNECT by name', async () => {
    proxy = await startTinyproxy(topology, 8888, { names: { 'origin.test': ADDRESS.origin.v4 } });
    await upWith(topology, cli, NO_RESOLVER, [...PROXY, '--dns', 'direct', '--allow-dns', 'none', '--sniff', ...flags]);
    const curl = ['curl', '-sSk', '--max-time', '10'];
    for (const [port, url] of [
      [8080, 'http://origin.test:8080/hello'],
      [8443, 'https://origin.test:8443/hello'],
    ] as const) {
      const ran = await topology.app.run([...curl, '--resolve', `origin.test:${port}:192.0.2.99`, url]);
      expect(ran, url).toMatchObject({ code: 0, stdout: 'hello from the origin\n' });
      expect(proxy.log()).toContain(`CONNECT origin.test:${port}`);
    }
  });
});

describe('packets to port 53, seen outside', () => {
  async function seen(args: readonly string[], act: () => Promise<void> = async () => {}): Promise<readonly string[]> {
    await upWith(topology, cli, NO_RESOLVER, [...PROXY, ...args]);
    const capture = await Capture.start(topology, 'dns');
    const queries = await startLeakingQueries(topology);
    await rounds(queries, 2);
    await act();
    await queries.stop('SIGKILL');
    await capture.stop();
    return (await capture.packets(DNS_PACKET)).map(({ text }) => text);
  }

  beforeEach(async () => {
    await startResolver();
    proxy = await startTinyproxy(topology);
  });

  test('--dns direct without the killswitch: many, so the capture sees them', { timeout: LONG_MS }, async () => {
    expect((await seen(['--dns', 'direct'])).length).toBeGreaterThan(50);
  });

  test.each([
    ['virtual', []],
    ['virtual', ['--lan', 'allow', '--bypass', '10.0.0.0/8,fd00::/8,203.0.113.0/24']],
    ['over-tcp', ['--dns-server', RESOLVER]],
    ['doh', ['--dns-server', DOH]],
  ])('--dns %s %s, no killswitch: none', { timeout: LONG_MS }, async (mode, args) => {
    expect(await seen(['--dns', mode, ...args])).toEqual([]);
  });
});

describe('with the killswitch no packet to port 53 leaves: during up, steady, killed, up again, during down', () => {
  beforeEach(async () => {
    // What goes astray has somewhere to go.
    await topology.remove();
    topology = await makeTopology({ originIsDirect: true });
    cli = new Cli(topology);
    await startLeakServers(topology);
  });

  test.each([
    ['virtual', ['--lan', 'allow', '--bypass', '10.0.0.0/8,fd00::/8'], 'libnftables', NFT_FILTER],
    ['virtual', ['--lan', 'allow', '--bypass', '10.0.0.0/8,fd00::/8'], 'iptables', IPTABLES_FILTER],
    ['over-tcp', ['--dns-server', RESOLVER], 'libnftables', NFT_FILTER],
    ['doh', ['--dns-server', DOH], 'libnftables', NFT_FILTER],
  ] as const)('--dns %s %s by %s', { timeout: LONG_MS }, async (mode, args, backend, filter) => {
    const env = { PROXYVPN_FIREWALL: backend };
    const local = new Cli(topology, { environment: env });
    const up = [...PROXY, '--dns', mode, ...args, '--killswitch'];
    const queries = await startLeakingQueries(topology);
    const report = await watchLeaks(topology, filter, async () => {
      await upWith(topology, local, NO_RESOLVER, up, env);
      await rounds(queries, 1);
      await local.killDaemon();
      await rounds(queries, 1);
      await upWith(topology, local, NO_RESOLVER, up, env);
      await rounds(queries, 1);
      await local.down();
    });
    await queries.stop('SIGKILL');
    expect(report.gaps).toEqual([]);
    expect(report.leaks.map(({ text }) => text).filter((text) => /\.53: /.test(text))).toEqual([]);
  });
});

test('strict reverse-path filtering harms neither what is caught nor what is asked of the LAN', async () => {
  await topology.remove();
  topology = await makeTopology({ reversePathFilter: 1 });
  cli = new Cli(topology);
  await startTinyproxy(topology);
  const texts = Array.from({ length: 10 }, (_, i) => `--txt-record=big.local,${`${i}`.padEnd(200, 'z')}`);
  await startDnsmasq(topology.net, ADDRESS.net.v4, ['--host-record=printer.local,10.77.0.9', ...texts]);
  await upWith(topology, cli, `nameserver ${ADDRESS.net.v4}\n`, [...PROXY]);
  for (const resolver of [ADDRESS.net.v4, NOBODY.v4, NOBODY.v6])
    expect((await dig(topology.app, resolver, 'strict.test')).answers[0]).toMatch(/^A 198\./);
  expect((await dig(topology.app, NOBODY.v4, 'printer.local')).answers).toEqual(['A 10.77.0.9']);
  // By TCP from us to the LAN, because the datagram is cut.
  expect((await dig(topology.app, NOBODY.v4, 'big.local', 'TXT')).answers).toHaveLength(10);
});

test('a crash without the killswitch fails open: the filter that keeps DNS in takes the daemon for dead', {
  timeout: LONG_MS,
}, async () => {
  await startResolver();
  proxy = await startTinyproxy(topology);
  await topology.net.must(['nft', 'flush', 'table', 'inet', 'lab']);
  await upWith(topology, cli, NO_RESOLVER, [...PROXY, '--dns', 'virtual']);
  const leftMs = async (): Promise<number> => {
    const { stdout } = await topology.app.run(['nft', 'list', 'set', 'inet', 'proxyvpn', 'alive']);
    const [, seconds = '0', ms = '0'] = /expires (?:(\d+)s)?(?:(\d+)ms)?/.exec(stdout) ?? [];
    return Number(seconds) * 1000 + Number(ms);
  };
  let least = await leftMs();
  expect(least).toBeGreaterThan(0);
  // By itself it only gets less.
  const hasGrown = async (): Promise<boolean> => {
    const left = await leftMs();
    if (left > least) return true;
    least = left;
    return false;
  };
  await until('a heartbeat', hasGrown, 30_000);
  const bound = (timeS: number): readonly string[] => {
    const limits = ['+tries=1', `+time=${timeS}`];
    return ['dig', '-b', ADDRESS.app.v4, `@${RESOLVER}`, '+short', ...limits, 'origin.test'];
  };
  expect((await topology.app.run(bound(20))).stdout).toMatch(/^198\./);
  await cli.killDaemon();
  await until(
    'an answer as without us',
    async () => {
      return (await topology.app.run(bound(1))).stdout === `${ADDRESS.origin.v4}\n`;
    },
    60_000,
  );
  await cli.down();
});

test('a user that goes around asks around, and reaches names of a stub all the same', async () => {
  await startResolver();
  proxy = await startTinyproxy(topology);
  await topology.net.must(['nft', 'flush', 'table', 'inet', 'lab']);
  await upWith(topology, cli, NO_RESOLVER, [...PROXY, '--bypass-user', '33', '--killswitch']);
  const asUser = (command: readonly string[]) => ['setpriv', '--reuid', '33', '--clear-groups', '--', ...command];
  const ran = await topology.app.run(asUser(['dig', `@${RESOLVER}`, '+short', 'origin.test']));
  expect(ran.stdout).toBe(`${ADDRESS.origin.v4}\n`);
  expect((await dig(topology.app, RESOLVER, 'origin.test')).answers[0]).toMatch(/^A 198\./);
});
