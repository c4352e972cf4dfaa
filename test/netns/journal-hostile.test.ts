/** A journal that somebody else wrote: nothing of the host that proxyvpn did not make is touched, by down or by up. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type JournalRecord, journalLine } from '../../src/state/journal-format.ts';
import { Cli } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { startLabProxy } from './lab.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const PROXY_PORT = 8888;
let topology: Topology;
let cli: Cli;

beforeEach(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startLabProxy(topology.net, PROXY_PORT);
  // What an administrator may have: much like ours, but not ours.
  await topology.app.must([
    'ip',
    'rule',
    'add',
    'priority',
    '100',
    'ipproto',
    'tcp',
    'dport',
    '7999',
    'lookup',
    'main',
  ]);
  await topology.app.must(['ip', 'route', 'add', '192.0.2.0/24', 'via', ADDRESS.net.v4]);
  await topology.app.must(['nft', 'add', 'table', 'inet', 'mine']);
  await topology.app.must(['ip', 'tuntap', 'add', 'dev', 'tun9', 'mode', 'tun']);
  await topology.app.must(['ip', 'link', 'set', 'tun9', 'up']);
  await topology.app.must(['sysctl', '-qw', 'net.ipv4.conf.uplink.rp_filter=2', 'net.ipv4.ip_forward=1']);
});
afterEach(async () => {
  await cli.clear();
  await topology.remove();
});

const existed = { existed: false };
const DOWN = { index: 0, mtu: 1280, txQueueLength: 1, isUp: false };

async function indexOf(link: string): Promise<number> {
  return JSON.parse(await topology.app.must(['ip', '-j', 'link', 'show', 'dev', link]))[0].ifindex;
}

async function hostileOps(): Promise<readonly (readonly [op: object, before: unknown])[]> {
  const link = (name: string, mtu: number) => ({ kind: 'link.up', name, mtu, txQueueLength: 1000 });
  const sysctl = (key: string, value: string) => ({ kind: 'sysctl.set', key, value });
  const policy = { table: 'mine', killswitch: true };
  return [
    [link('uplink', 1500), { ...DOWN, index: await indexOf('uplink') }],
    [link('tun9', 1500), { ...DOWN, index: await indexOf('tun9') }],
    [{ kind: 'address.add', dev: 'uplink', family: 4, address: ADDRESS.app.v4, prefixLength: 24 }, existed],
    [{ kind: 'rule.add', family: 4, priority: 100, table: 254, protocol: 3, ipProto: 'tcp', dport: 7999 }, existed],
    [{ kind: 'rule.add', family: 4, priority: 32766, table: 254, protocol: 2 }, existed],
    [
      {
        kind: 'route.add',
        family: 4,
        destination: '192.0.2.0/24',
        table: 254,
        type: 'unicast',
        protocol: 3,
        dev: 'uplink',
      },
      existed,
    ],
    [
      { kind: 'route.add', family: 4, destination: 'default', table: 254, type: 'unicast', protocol: 3, dev: 'uplink' },
      existed,
    ],
    [sysctl('net.ipv4.conf.uplink.rp_filter', '2'), '0'],
    [sysctl('net.ipv4.ip_forward', '1'), '0'],
    [sysctl('/net/ipv4/../../kernel/core_pattern', '2'), '|/bin/x'],
    [
      { kind: 'firewall.load', policy },
      { backend: 'nft', leftBy: [] },
    ],
    [
      { kind: 'firewall.load', policy: { ...policy, table: 'x; flush ruleset' } },
      { backend: 'nft', leftBy: [] },
    ],
    [{ kind: 'firewall.load', policy: null }, null],
    [{ kind: 'constructor' }, null],
  ];
}

function plant(ops: readonly (readonly [op: object, before: unknown])[]): void {
  const directory = path.join(cli.stateDirectory, 'default');
  fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  const records = ops.map(([op, before], i) => ({ n: i + 1, is: 'intended', op, before }) as JournalRecord);
  const lines = [{ n: 0, is: 'journal', tunnel: 'default' } as const, ...records].map((record) => journalLine(record));
  fs.writeFileSync(path.join(directory, 'journal'), Buffer.concat(lines), { mode: 0o600 });
}

describe('a journal with changes that proxyvpn does not make', () => {
  test('down leaves the host alone, says so, and is rid of it', async () => {
    const before = await dumpHost(topology.app);
    plant(await hostileOps());
    const down = await cli.run(['down']);
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
    expect(down.code).toBe(1);
    expect(down.stdout).toContain('E_JOURNAL_OP');
    expect(down.stdout).toContain('"firewall.load"');
    expect((await cli.run(['down'])).code).toBe(4);
  });

  test('status does not stumble over it', async () => {
    plant(await hostileOps());
    expect(await cli.status()).toMatchObject({ name: 'default', killswitch: false });
  });

  test('up warns of it and works; down restores the host', async () => {
    const before = await dumpHost(topology.app);
    plant(await hostileOps());
    const up = await cli.up(['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`]);
    expect(up.stderr).toContain('is no change of this proxyvpn');
    await cli.down();
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });

  test('killswitch on and off work with it', async () => {
    const before = await dumpHost(topology.app);
    plant(await hostileOps());
    expect((await cli.run(['killswitch', 'on'])).code).toBe(0);
    expect((await cli.run(['killswitch', 'off'])).code).toBe(0);
    expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  });
});

test('a killswitch in it cannot bring a rule that no flag could ask for', async () => {
  await cli.run(['killswitch', 'on']);
  const file = path.join(cli.stateDirectory, 'default', 'journal');
  const lines = fs.readFileSync(file, 'utf8').split('\n').filter(Boolean);
  const records = lines.map((line) => JSON.parse(line));
  const load = records.find(({ op }) => op?.kind === 'firewall.load');
  load.op.policy.allowDns = ['10.0.0.1 } ; } ; table inet evil { chain c { } } #'];
  fs.writeFileSync(file, Buffer.concat(records.map(({ v: _v, crc: _crc, ...record }) => journalLine(record))));
  const status = await cli.run(['killswitch', 'status', '--json']);
  expect(JSON.parse(status.stdout).state).toBe('degraded');
  // The filter is in force and no journal knows it: that is not passed over.
  const up = await cli.run(['up', '--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`, '--killswitch']);
  expect([up.code, up.stderr]).toEqual([4, expect.stringContaining('E_TUNNEL_ELSEWHERE')]);
  expect(await topology.app.must(['nft', 'list', 'ruleset'])).not.toContain('evil');
});
