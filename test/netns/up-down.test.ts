/** `up`, a crash, `down`: whatever happened in between, the host is as it was before. */
import fs from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Cli, isAlive, PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { expectEcho, type LabProxy, startLabProxy } from './lab.ts';
import { until } from './process.ts';
import { startTinyproxy } from './servers.ts';
import { ADDRESS, bracketed, makeTopology, type Topology, type TopologyOptions } from './topology.ts';

const PORT = 8888;
const proxyAt = (family: 'v4' | 'v6'): string => `${bracketed(ADDRESS.net[family])}:${PORT}`;

let topology: Topology;
let cli: Cli;
let proxy: LabProxy;
let before: readonly string[];

async function setUp(options: TopologyOptions = {}, proxyFlags: readonly string[] = []): Promise<void> {
  topology = await makeTopology(options);
  cli = new Cli(topology);
  proxy = await startLabProxy(topology.net, PORT, proxyFlags);
  before = await dumpHost(topology.app);
}
afterEach(() => topology.remove());

/** An echo through the tunnel, which the proxy has seen. */
async function expectTraffic(destination: string = ADDRESS.origin.v4): Promise<void> {
  const seen = proxy.targets().length;
  await expectEcho(topology.app, destination);
  expect(proxy.targets().slice(seen)).toContain(`${bracketed(destination)} 9003`);
}

async function expectHostAsBefore(): Promise<void> {
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
}

async function expectNobodyLeft(): Promise<void> {
  await until('no process of ours in app', async () => (await topology.app.pids()).length === 0);
}

describe.each([
  { host: 'an ordinary host', options: {}, families: ['v4', 'v6'] },
  { host: 'a host without a default route', options: { defaultRoute: false }, families: ['v4', 'v6'] },
  { host: 'a host without IPv6', options: { ipv6: false }, families: ['v4'] },
  { host: 'a host with strict reverse-path filtering', options: { reversePathFilter: 1 }, families: ['v4', 'v6'] },
  { host: 'a host with loose reverse-path filtering', options: { reversePathFilter: 2 }, families: ['v4', 'v6'] },
] as const)('on $host', ({ options, families }) => {
  test.each([['--killswitch'], []])('up %s carries traffic, and down restores everything', async (...flags) => {
    await setUp(options);
    for (const family of families) {
      await cli.up(['--proxy', proxyAt(family), ...flags]);
      for (const destination of families) await expectTraffic(ADDRESS.origin[destination]);
      expect(dumpDifference(before, await dumpHost(topology.app))).not.toEqual([]);
      await cli.down();
      await expectHostAsBefore();
      await expectNobodyLeft();
    }
  });
});

describe.each([['--killswitch'], []])('after SIGKILL of the daemon (%s)', (...flags) => {
  test('down restores everything', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), ...flags]);
    await cli.killDaemon();
    await cli.down();
    await expectHostAsBefore();
    await expectNobodyLeft();
  });

  test('status says degraded or down, and the dead pid is not called alive', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), ...flags]);
    await cli.killDaemon();
    const { state } = await cli.status();
    expect(state).not.toBe('up');
    if (flags.length > 0) expect(state).toBe('degraded');
  });

  test('up works again, also to another proxy, and down restores everything', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), ...flags]);
    await cli.killDaemon();
    await cli.up(['--proxy', proxyAt('v6')]);
    await expectTraffic();
    await cli.down();
    await expectHostAsBefore();
  });

  test('ten crashes in a row leave nothing behind', async () => {
    await setUp();
    for (let i = 0; i < 10; i++) {
      await cli.up(['--proxy', proxyAt('v4'), ...flags]);
      await cli.killDaemon();
    }
    await cli.down();
    await expectHostAsBefore();
  });
});

describe('up while up', () => {
  test('exits 4, says so, changes nothing, and the tunnel goes on', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), '--killswitch']);
    const during = await dumpHost(topology.app);
    const pid = await cli.daemonPid();
    const again = await cli.run(['up', '--proxy', proxyAt('v6')]);
    expect(again.code).toBe(4);
    expect(again.stderr).toMatch(/^error: E_\w+: /);
    expect(dumpDifference(during, await dumpHost(topology.app))).toEqual([]);
    expect(await cli.daemonPid()).toBe(pid);
    await expectTraffic();
    await cli.down();
    await expectHostAsBefore();
  });

  test('only one of two that start at once comes up, the other exits 4', async () => {
    await setUp();
    const both = await Promise.all([1, 2].map(() => cli.run(['up', '--proxy', proxyAt('v4'), '--killswitch'])));
    expect(both.map(({ code }) => code).sort()).toEqual([0, 4]);
    await expectTraffic();
    await cli.down();
    await expectHostAsBefore();
  });
});

describe('down', () => {
  test('a second time, or before any up, changes nothing', async () => {
    await setUp();
    for (const _ of [1, 2]) {
      expect((await cli.run(['down'])).code).toBe(4);
      await expectHostAsBefore();
    }
    await cli.up(['--proxy', proxyAt('v4')]);
    await cli.down();
    expect((await cli.run(['down'])).code).toBe(4);
    await expectHostAsBefore();
  });

  test('--force removes all that is ours when the journal is lost', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), '--killswitch']);
    await cli.killDaemon();
    fs.rmSync(cli.stateDirectory, { recursive: true });
    expect((await cli.run(['down', '--force'])).code).toBe(0);
    const difference = dumpDifference(before, await dumpHost(topology.app));
    // What a sysctl was before stood only in the journal.
    expect(difference.filter((line) => !line.includes('sysctl: '))).toEqual([]);
    await topology.app.must(['ping', '-c', '1', '-W', '2', ADDRESS.net.v4]);
  });

  test('leaves alone what others changed meanwhile', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), '--killswitch']);
    await topology.app.must(['ip', 'rule', 'add', 'priority', '5207', 'fwmark', '0x50560000', 'lookup', 'main']);
    await topology.app.must(['ip', 'route', 'add', '192.0.2.0/24', 'via', ADDRESS.net.v4]);
    await topology.app.must(['nft', 'add table inet proxyvpn_other']);
    const own = ['ip rule del priority 5207', 'ip route del 192.0.2.0/24', 'nft delete table inet proxyvpn_other'];
    await cli.down();
    for (const command of own) await topology.app.must(command.split(' '));
    await expectHostAsBefore();
  });

  test.each([
    ['down', () => cli.down()],
    // Not followed by SIGKILL, however long it takes: the daemon itself does not wait for them.
    ['SIGTERM', async () => process.kill(await cli.daemonPid(), 'SIGTERM')],
  ])('%s ends connections that run through the tunnel, and does not wait for them', async (_, end) => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4')]);
    const held = topology.app.start([
      'bash',
      '-c',
      `exec 3<>/dev/tcp/${ADDRESS.origin.v4}/9003; echo open; exec cat <&3`,
    ]);
    await held.until('open connection', () => held.stdout.includes('open'));
    await end();
    await held.exitCode();
    await expectNobodyLeft();
    await expectHostAsBefore();
  });

  test('a daemon that is too slow to answer, but takes the tunnel down: that is success', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4'), '--killswitch']);
    const pid = await cli.daemonPid();
    process.kill(pid, 'SIGSTOP');
    const down = cli.start(['down']);
    await down.until('signals', () => down.stderr.includes(`ending process ${pid} by signal`));
    process.kill(pid, 'SIGCONT');
    expect([await down.exitCode(), down.stdout]).toEqual([0, 'default: down\n']);
    await expectHostAsBefore();
  });
});

describe('--dry-run', () => {
  test('prints the ip and nft lines and touches nothing', async () => {
    await setUp();
    const ran = await cli.up(['--proxy', proxyAt('v4'), '--killswitch', '--dry-run']);
    for (const line of [/^ip .*rule add .*ipproto tcp/m, /^ip .*route add default dev pvpn0/m, /nft/, /^sysctl -w /m])
      expect(ran.stdout).toMatch(line);
    await expectHostAsBefore();
    expect(fs.existsSync(cli.stateDirectory) ? fs.readdirSync(cli.stateDirectory) : []).toEqual([]);
    expect((await cli.status()).state).toBe('down');
  });

  test.each([
    ['--killswitch', '--dns', 'direct', '--allow-dns', '203.0.113.53'],
    ['--killswitch'],
    ['--bypass', '10.0.0.0/8', '--bypass-user', '1'],
  ])('its lines, typed by hand, make the rules, routes and filter that up makes: %s %s', async (...flags) => {
    await setUp();
    const up = ['up', '--proxy', proxyAt('v4'), ...flags];
    const { stdout: script } = await cli.run([...up, '--dry-run']);
    // Not addresses and their routes: a device of ip-tuntap(8) has no carrier, because nobody reads it.
    const ours = (dump: readonly string[]): readonly string[] =>
      dump.filter((line) => !before.includes(line) && (/^(rule|nft)/.test(line) || /"table":"521[02]0"/.test(line)));
    await cli.run(up);
    const made = ours(await dumpHost(topology.app));
    await cli.down();
    await topology.app.must(['bash', '-euc', script]);
    const typed = ours(await dumpHost(topology.app)).map((line) => line.replace('"linkdown"', ''));
    expect(made.length).toBeGreaterThan(20);
    expect(dumpDifference(made, typed)).toEqual([]);
  });

  test('--json prints one document', async () => {
    await setUp();
    const ran = await cli.up(['--proxy', proxyAt('v4'), '--killswitch', '--dry-run', '--json']);
    expect(() => JSON.parse(ran.stdout)).not.toThrow();
    await expectHostAsBefore();
  });
});

describe('status --json', () => {
  test('tells down, up with counters, and down again', async () => {
    await setUp();
    expect(await cli.status()).toMatchObject({ name: 'default', state: 'down' });
    await cli.up(['--proxy', proxyAt('v4'), '--killswitch', '--dns', 'direct', '--allow-dns', '203.0.113.53']);
    await expectTraffic();
    const up = await cli.status();
    expect(up).toMatchObject({ name: 'default', state: 'up', tun: 'pvpn0', killswitch: true });
    expect(up.proxy).toContain(proxyAt('v4'));
    expect(JSON.stringify(up.dns)).toContain('203.0.113.53');
    expect(isAlive(up.pid ?? -1)).toBe(true);
    expect(up.uptimeMs).toBeGreaterThan(0);
    expect(up.flows).toMatchObject({ opened: 1, refused: 0, failed: 0 });
    expect(up.bytes).toMatchObject({ toUpstream: 'hello\n'.length, toApp: 'hello\n'.length });
    await cli.down();
    expect(await cli.status()).toMatchObject({ name: 'default', state: 'down' });
  });

  test('counts the active, refused and failed', async () => {
    await setUp();
    await cli.up(['--proxy', proxyAt('v4')]);
    const held = topology.app.start([
      'bash',
      '-c',
      `exec 3<>/dev/tcp/${ADDRESS.origin.v4}/9003; echo open; exec cat <&3`,
    ]);
    await held.until('open connection', () => held.stdout.includes('open'));
    const refuse = `exec 3<>/dev/tcp/${ADDRESS.origin.v4}/9017`;
    expect((await topology.app.run(['bash', '-c', refuse])).stderr).toContain('Connection refused');
    await until('counters', async () => (await cli.status()).flows?.refused === 1);
    expect((await cli.status()).flows).toMatchObject({ active: 1, refused: 1 });
    await held.stop();
    await until('end of the flow', async () => (await cli.status()).flows?.active === 0);
  });
});

describe('running', () => {
  test('up keeps no pipe of its caller open, so $(proxyvpn up) returns', async () => {
    await setUp();
    const script = `text=$(${PROXYVPN} up --proxy ${proxyAt('v4')} 2>&1); echo returned`;
    const env = { PROXYVPN_STATE_DIR: cli.stateDirectory };
    const ran = await topology.app.run(['bash', '-c', script], { env, timeoutMs: 20_000 });
    expect(ran.stdout).toBe('returned\n');
    expect((await cli.status()).state).toBe('up');
  });

  test('--foreground says READY by sd_notify and takes all down at SIGTERM', async () => {
    await setUp();
    const socket = `${topology.directory}/notify`;
    const listen = [
      'import socket, sys',
      's = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.bind(sys.argv[1]); print("bound", flush=True)',
      'while True: print(s.recv(4096).decode(), flush=True)',
    ].join('\n');
    const manager = topology.net.start(['/usr/bin/python3', '-c', listen, socket]);
    await manager.until('notification socket', () => manager.stdout.includes('bound'));
    const env = { NOTIFY_SOCKET: socket };
    const daemon = cli.start(['up', '--foreground', '--proxy', proxyAt('v4'), '--killswitch'], { env });
    await daemon.until('READY', () => manager.stdout.includes('READY=1'), 20_000);
    await expectTraffic();
    await daemon.stop('SIGTERM');
    expect(await daemon.exitCode()).toBe(0);
    expect(manager.stdout).toContain('STOPPING=1');
    await expectHostAsBefore();
  });

  test('a second tunnel that takes everything is refused; without routes it lives beside the first', async () => {
    await setUp({}, ['-d']);
    // The first carries the connections of the second to its proxy as well, so it must be a proxy that does connect.
    await startTinyproxy(topology, 8889);
    await cli.up(['--proxy', `${ADDRESS.net.v4}:8889`]);
    const during = await dumpHost(topology.app);
    const refused = await cli.run(['up', '--proxy', proxyAt('v4'), '--name', 'second']);
    expect(refused.code).toBe(4);
    expect(refused.stderr).toContain('E_ALREADY_DIVERTED');
    expect(dumpDifference(during, await dumpHost(topology.app))).toEqual([]);
    await cli.up(['--proxy', proxyAt('v4'), '--name', 'second', '--no-routes']);
    await expectEcho(topology.app, ADDRESS.origin.v4);
    for (const name of ['default', 'second']) {
      const { stdout } = await cli.run(['status', '--json', '--name', name]);
      expect(JSON.parse(stdout)).toMatchObject({ name, state: 'up' });
    }
    await cli.down(['--name', 'second']);
    await cli.down();
    await expectHostAsBefore();
  });

  test('a proxy given by name is resolved before the routes change', async () => {
    await setUp();
    fs.writeFileSync(`${topology.directory}/hosts`, `${ADDRESS.net.v4} proxy.test\n`);
    const mount = `mount --bind ${topology.directory}/hosts /etc/hosts`;
    const up = `${PROXYVPN} up --proxy proxy.test:${PORT} --killswitch`;
    const env = { PROXYVPN_STATE_DIR: cli.stateDirectory };
    await topology.app.must(['unshare', '--mount', 'bash', '-c', `${mount}; ${up}`], { env });
    await expectTraffic();
    await cli.down();
    await expectHostAsBefore();
  });
});
