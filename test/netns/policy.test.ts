/** What goes where while the tunnel is up: through it, around it, or nowhere. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Cli, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { expectEcho, labProgram } from './lab.ts';
import {
  DATAGRAM_ADDRESS,
  OTHER_RESOLVER,
  originUrl,
  startDatagramServers,
  startNginx,
  startTinyproxy,
} from './servers.ts';
import { ADDRESS, bracketed, makeTopology, type Namespace, type Topology } from './topology.ts';

const UP = ['--proxy', `${ADDRESS.net.v4}:8888`] as const;
const STRICT = [...UP, '--killswitch'] as const;
/** www-data on Debian; any uid but root's will do. */
const BYPASS_UID = '33';

let topology: Topology;
let cli: Cli;
let before: readonly string[];

beforeAll(async () => {
  // Here the origin answers to whoever comes, and tells who it was.
  topology = await makeTopology({ originIsDirect: true });
  cli = new Cli(topology);
  await startNginx(topology);
  await startTinyproxy(topology);
  await startDatagramServers(topology);
  before = await dumpHost(topology.app);
});
afterEach(async () => {
  await cli.clear();
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});
afterAll(() => topology.remove());

/** Whom the origin sees as its client, `proxy` being any address of net; or curl's exit code. */
async function seenAs(
  url: string,
  options: { readonly from?: Namespace; readonly uid?: string } = {},
): Promise<string> {
  const user = options.uid === undefined ? [] : ['setpriv', '--reuid', options.uid, '--clear-groups', '--'];
  const ran = await (options.from ?? topology.app).run([...user, 'curl', '-sS', '--max-time', `${DUE_S}`, url]);
  if (ran.code !== 0) return `curl ${ran.code}`;
  const address = ran.stdout.trim();
  for (const role of ['app', 'guest'] as const)
    if (address === ADDRESS[role].v4 || address === ADDRESS[role].v6) return role;
  return /^(203\.0\.113\.|2001:db8:113::|10\.77\.0\.2$|fd77::2$)/.test(address) ? 'proxy' : address;
}

/** Seconds for which an answer is waited for: long where one is due, short where none may come. */
const DUE_S = 20;
const FORBIDDEN_S = 1;

/** `answered`, `silence` or an errno. */
async function datagram(
  address: string,
  port: number,
  options: { readonly from?: Namespace; readonly uid?: string; readonly patienceS?: number } = {},
): Promise<string> {
  const user = options.uid === undefined ? [] : ['setpriv', '--reuid', options.uid, '--clear-groups', '--'];
  const program = path.join(import.meta.dirname, 'datagram.py');
  const argv = ['/usr/bin/python3', program, address, `${port}`, `${options.patienceS ?? DUE_S}`];
  return (await (options.from ?? topology.app).must([...user, ...argv])).trim();
}

const pingCode = async (address: string, patienceS = DUE_S): Promise<number> =>
  (await topology.app.run(['ping', '-c', '1', '-W', `${patienceS}`, address])).code;

async function dig(server: string, patienceS = DUE_S, ...options: readonly string[]): Promise<string> {
  const limits = [`+time=${patienceS}`, '+tries=1'];
  const ran = await topology.app.run(['dig', '+short', ...limits, `@${server}`, ...options, 'a.test', 'A']);
  return ran.code === 0 ? ran.stdout.trim() : 'no answer';
}

describe.each(['v4', 'v6'] as const)('%s', (family) => {
  const whoami = originUrl(family, '/whoami');

  test('without a tunnel the origin sees app itself, and UDP and ping are answered', async () => {
    expect(await seenAs(whoami)).toBe('app');
    expect(await datagram(DATAGRAM_ADDRESS[family], 7777)).toBe('answered');
    expect(await pingCode(ADDRESS.origin[family])).toBe(0);
  });

  test('killswitch off, --dns direct: TCP goes through the proxy; UDP, DNS and ping go around', async () => {
    await cli.up([...UP, '--dns', 'direct']);
    expect(await seenAs(whoami)).toBe('proxy');
    expect(await datagram(DATAGRAM_ADDRESS[family], 7777)).toBe('answered');
    expect(await datagram(DATAGRAM_ADDRESS[family], 443)).toBe('answered');
    expect(await dig(DATAGRAM_ADDRESS[family])).toBe('192.0.2.1');
    expect(await pingCode(ADDRESS.origin[family])).toBe(0);
  });

  test('killswitch on: TCP goes through the proxy; UDP and ping nowhere; UDP/443 is refused, not dropped', async () => {
    await cli.up(STRICT);
    expect(await seenAs(whoami)).toBe('proxy');
    expect(await datagram(DATAGRAM_ADDRESS[family], 7777, { patienceS: FORBIDDEN_S })).not.toBe('answered');
    expect(await pingCode(ADDRESS.origin[family], FORBIDDEN_S)).not.toBe(0);
    expect(await datagram(DATAGRAM_ADDRESS[family], 443)).toMatch(/^E(CONNREFUSED|HOSTUNREACH|ACCES|PERM)$/);
  });

  test('killswitch on: a program that binds to the uplink is refused at once, even at the proxy itself', async () => {
    await cli.up(STRICT);
    const proxy = `http://${bracketed(ADDRESS.net[family])}:8888/`;
    const toProxy = await topology.app.run(['curl', '-sS', '--max-time', `${DUE_S}`, '--interface', 'uplink', proxy]);
    expect(toProxy.code).toBe(7);
    const ran = await topology.app.run(['curl', '-sS', '--max-time', `${DUE_S}`, '--interface', 'uplink', whoami]);
    // 7 is a refusal; a time-out would be 28.
    expect(ran.code).toBe(7);
  });

  test('--allow-dns: only these resolvers are asked directly, by UDP and TCP', async () => {
    await cli.up([...STRICT, '--dns', 'direct', '--allow-dns', DATAGRAM_ADDRESS[family]]);
    expect(await dig(DATAGRAM_ADDRESS[family])).toBe('192.0.2.1');
    expect(await dig(DATAGRAM_ADDRESS[family], DUE_S, '+tcp')).toBe('192.0.2.1');
    expect(await dig(OTHER_RESOLVER[family], FORBIDDEN_S)).toBe('no answer');
    expect(await datagram(DATAGRAM_ADDRESS[family], 7777, { patienceS: FORBIDDEN_S })).not.toBe('answered');
    expect((await cli.status()).flows?.opened).toBe(0);
  });

  test.each([[], ['--killswitch']])(
    '--bypass %s: the network goes around the tunnel, whatever the protocol',
    async (...flags) => {
      const length = family === 'v4' ? 32 : 128;
      await cli.up([...UP, ...flags, '--bypass', `${ADDRESS.origin[family]}/${length},${DATAGRAM_ADDRESS[family]}`]);
      expect(await seenAs(whoami)).toBe('app');
      expect(await datagram(DATAGRAM_ADDRESS[family], 7777)).toBe('answered');
      expect(await pingCode(ADDRESS.origin[family])).toBe(0);
      const other = `http://${bracketed(OTHER_RESOLVER[family])}:8080/whoami`;
      expect(await seenAs(other)).toBe('proxy');
      expect((await cli.status()).flows?.opened).toBe(1);
    },
  );

  test.each([[], ['--killswitch']])(
    '--bypass-user %s: this user goes around the tunnel, the others through it',
    async (...flags) => {
      await cli.up([...UP, ...flags, '--bypass-user', BYPASS_UID]);
      expect(await seenAs(whoami, { uid: BYPASS_UID })).toBe('app');
      expect(await datagram(DATAGRAM_ADDRESS[family], 7777, { uid: BYPASS_UID })).toBe('answered');
      expect(await seenAs(whoami)).toBe('proxy');
      expect(await seenAs(whoami, { uid: '34' })).toBe('proxy');
    },
  );

  test('--lan block is the default: neighbours are reached through the proxy, or not at all', async () => {
    await cli.up(STRICT);
    expect(await seenAs(`http://${bracketed(ADDRESS.net[family])}:8080/whoami`)).toBe('proxy');
    expect(await pingCode(ADDRESS.net[family], FORBIDDEN_S)).not.toBe(0);
  });

  test.each([[], ['--killswitch']])(
    '--lan allow %s: neighbours directly, all else through the proxy',
    async (...flags) => {
      await cli.up([...UP, ...flags, '--lan', 'allow']);
      expect(await seenAs(`http://${bracketed(ADDRESS.net[family])}:8080/whoami`)).toBe('app');
      expect(await pingCode(ADDRESS.net[family])).toBe(0);
      expect(await seenAs(whoami)).toBe('proxy');
      if (flags.length > 0)
        expect(await datagram(DATAGRAM_ADDRESS[family], 7777, { patienceS: FORBIDDEN_S })).not.toBe('answered');
    },
  );

  test('a route that a DHCP server slips in (option 121) does not draw traffic out of the tunnel', async () => {
    await cli.up(STRICT);
    const route = [`${ADDRESS.origin[family]}/${family === 'v4' ? 32 : 128}`, 'via', ADDRESS.net[family]];
    await topology.app.must(['ip', 'route', 'add', ...route]);
    expect(await seenAs(whoami)).toBe('proxy');
    await topology.app.must(['ip', 'route', 'del', ...route]);
  });

  test.each([[], ['--killswitch']])('forwarded TCP of a container goes through the proxy (%s)', async (...flags) => {
    await cli.up([...UP, ...flags]);
    expect(await seenAs(whoami, { from: topology.guest })).toBe('proxy');
    const patienceS = flags.length > 0 ? FORBIDDEN_S : DUE_S;
    const outcome = await datagram(DATAGRAM_ADDRESS[family], 7777, { from: topology.guest, patienceS });
    if (flags.length > 0) expect(outcome).not.toBe('answered');
    else expect(outcome).toBe('answered');
  });

  test('programs of the host reach each other at every address of the host', async () => {
    const server = await topology.app.serve([await labProgram('labproxy'), '-d', '::', '8000'], 9003);
    await cli.up(STRICT);
    for (const address of [family === 'v4' ? '127.0.0.1' : '::1', ADDRESS.app[family]]) {
      await expectEcho(topology.app, address);
    }
    await server.stop();
  });
});

test('--ipv6 off: IPv6 is refused at once and leaves by no way, IPv4 goes through the proxy', async () => {
  await cli.up([...STRICT, '--ipv6', 'off']);
  const ran = await topology.app.run(['curl', '-sS', '--max-time', `${DUE_S}`, originUrl('v6', '/whoami')]);
  expect(ran.code).toBe(7);
  expect(await seenAs(originUrl('v4', '/whoami'))).toBe('proxy');
});

test('--dns direct without --allow-dns: the resolvers of /etc/resolv.conf are allowed, and no other', async () => {
  const file = path.join(topology.directory, 'resolv.conf');
  fs.writeFileSync(file, `nameserver ${DATAGRAM_ADDRESS.v4}\nnameserver 127.0.0.1\n`);
  const script = `mount --bind ${file} /etc/resolv.conf; ${PROXYVPN} up ${STRICT.join(' ')} --dns direct`;
  const env = { PROXYVPN_STATE_DIR: cli.stateDirectory };
  await topology.app.must(['unshare', '--mount', 'bash', '-c', script], { env });
  expect(await dig(DATAGRAM_ADDRESS.v4)).toBe('192.0.2.1');
  expect(await dig(OTHER_RESOLVER.v4, FORBIDDEN_S)).toBe('no answer');
});

test('--dns direct --allow-dns none: nobody is asked', async () => {
  await cli.up([...STRICT, '--dns', 'direct', '--allow-dns', 'none']);
  expect(await dig(DATAGRAM_ADDRESS.v4, FORBIDDEN_S)).toBe('no answer');
});

test('--no-routes: the device and the engine are there, traffic stays where it was', async () => {
  await cli.up([...UP, '--no-routes']);
  expect(await seenAs(originUrl('v4', '/whoami'))).toBe('app');
  const through = ['curl', '-sS', '--max-time', `${DUE_S}`, '--interface', 'pvpn0', originUrl('v4', '/whoami')];
  expect(await topology.app.must(through)).toBe(`${ADDRESS.origin.v4}\n`);
});
