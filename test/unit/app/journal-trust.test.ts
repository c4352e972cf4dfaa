import { describe, expect, it } from 'vitest';
import { openHost } from '../../../src/app/host.ts';
import { appliersAfterDeath, isKnownOp } from '../../../src/app/journal-trust.ts';
import { type Op, planUp } from '../../../src/app/plan.ts';
import type { Snapshot } from '../../../src/app/snapshot.ts';
import type { AnyOp } from '../../../src/op.ts';
import { configFor, PLAIN_HOST } from './sample.ts';

const { appliers } = openHost();
const isKnownOfDefault = isKnownOp(appliers, 'default');
/** As it is read: any JSON object with a kind. */
const isKnown = (op: unknown, before: unknown): boolean => isKnownOfDefault(op as AnyOp, before);

/** What `observe` of each kind gives. */
const BEFORE: { readonly [K in Op['kind']]: readonly unknown[] } = {
  'firewall.load': [
    { backend: 'nft', leftBy: [] },
    { backend: 'libnftables', leftBy: ['nft', 'iptables'] },
  ],
  'tun.create': [null],
  'link.up': [null, { index: 7, mtu: 1500, txQueueLength: 500, isUp: false }],
  'address.add': [{ existed: false }],
  'route.add': [{ existed: true }],
  'rule.add': [{ existed: false }],
  'sysctl.set': ['0', '1', null],
};
const CONNECTION = { localAddress: '10.0.0.9', localPort: 22, remoteAddress: '10.0.0.8', remotePort: 5555 };
const HOSTS: readonly Snapshot[] = [
  PLAIN_HOST,
  { ...PLAIN_HOST, slot: 15, ipv6: 'off-by-default', isPathFilterStrict: true },
  { ...PLAIN_HOST, connections: [{ family: 4, ...CONNECTION }], sshSession: { family: 4, ...CONNECTION } },
];
const ARGUMENTS: readonly (readonly string[])[] = [
  [],
  ['--killswitch', '--allow-inbound', '22,80'],
  ['--killswitch', '--allow-inbound', 'all', '--lan', 'allow'],
  ['--bypass', '10.0.0.0/8,fd00::/8', '--bypass-user', '0,backup', '--ipv6', 'off'],
  ['--tun', 'eth0.1', '--fwmark', '1', '--queues', '16', '--no-routes'],
  ['--dns', 'direct', '--allow-dns', '10.0.0.53,fd00::53'],
  ['--dns', 'over-tcp', '--dns-server', '9.9.9.9', '--mtu', '65535'],
];

it('all that the planner makes is known', () => {
  for (const argv of ARGUMENTS)
    for (const host of HOSTS) {
      const { prepare, divert } = planUp(configFor(...argv), host);
      for (const op of [...prepare, ...divert])
        for (const before of BEFORE[op.kind]) {
          const read: AnyOp = JSON.parse(JSON.stringify(op));
          expect(isKnown(read, before), `${JSON.stringify(op)} ${JSON.stringify(before)}`).toBe(true);
        }
    }
});

describe('no change is believed that the planner does not make', () => {
  const existed = { existed: false };
  const rule = { kind: 'rule.add', family: 4, priority: 5206, table: 52100, protocol: 210, ipProto: 'tcp' };
  const route = { kind: 'route.add', family: 4, destination: 'default', table: 52100, type: 'unicast', protocol: 210 };
  const sysctl = (key: string, value: string) => ({ kind: 'sysctl.set', key, value });
  const [firewall] = planUp(configFor('--killswitch'), PLAIN_HOST).prepare;
  const policy = firewall?.kind === 'firewall.load' ? firewall.policy : undefined;
  const load = (change: object) => ({ kind: 'firewall.load', policy: { ...policy, ...change } });
  const loaded = { backend: 'nft', leftBy: [] };

  it('the samples themselves are good', () => {
    expect(isKnown(rule, existed) && isKnown({ ...route, dev: 'pvpn0' }, existed) && isKnown(load({}), loaded)).toBe(
      true,
    );
  });

  it.each<[string, unknown, unknown]>([
    ["the kernel's rule for main", { ...rule, priority: 32766, table: 254, protocol: 2 }, existed],
    ['a rule of another protocol number', { ...rule, protocol: 2 }, existed],
    ['a rule of another priority', { ...rule, priority: 100 }, existed],
    ["a rule of another slot's table", { ...rule, table: 52101 }, existed],
    ['a rule for main with its default route', { ...rule, table: 254 }, existed],
    ['a rule that goes elsewhere', { ...rule, table: undefined, goto: 1 }, existed],
    ['a rule with a field nobody knows', { ...rule, flush: true }, existed],
    ['a rule without an observation', rule, null],
    ['a route of main', { ...route, table: 254 }, existed],
    ['a route of another protocol number', { ...route, protocol: 4 }, existed],
    ['a device name that is a path', { kind: 'link.up', name: '../eth0', mtu: 1, txQueueLength: 1 }, null],
    ['a device without its observation', { kind: 'link.up', name: 'eth0', mtu: 1, txQueueLength: 1 }, {}],
    ['forwarding', sysctl('net.ipv4.ip_forward', '1'), '0'],
    ['a path below /proc/sys', sysctl('/net/ipv4/../../kernel/core_pattern', '2'), '0'],
    ['a path in a device name', sysctl('net.ipv4.conf.../../x.rp_filter', '2'), '0'],
    ['all devices', sysctl('net.ipv4.conf.all.rp_filter', '2'), '0'],
    ['new devices', sysctl('net.ipv6.conf.default.disable_ipv6', '0'), '1'],
    ['another value', sysctl('net.ipv4.conf.pvpn0.rp_filter', '0'), '1'],
    ['another value before', sysctl('net.ipv4.conf.all.src_valid_mark', '1'), '2'],
    ['a command as value before', sysctl('net.ipv4.conf.all.src_valid_mark', '1'), '0\n1'],
    ['a table of somebody else', load({ table: 'filter' }), loaded],
    ["another tunnel's table", load({ table: 'proxyvpn-corp' }), loaded],
    ['a table name with a command', load({ table: 'proxyvpn; flush ruleset' }), loaded],
    [
      'a device name with a command',
      load({ tun: { name: 'a";flush ruleset', address4: '1.1.1.1', address6: '::1' } }),
      loaded,
    ],
    ['an address with a command', load({ allowDns: ['10.0.0.1 } ; flush ruleset'] }), loaded],
    ['a mark that is a text', load({ fwmark: '1 accept' }), loaded],
    ['a policy without fields', { kind: 'firewall.load', policy: {} }, loaded],
    ['a policy that is none', { kind: 'firewall.load', policy: null }, loaded],
    ['a property of Object', { kind: 'constructor' }, null],
    ['a prototype', { kind: '__proto__' }, null],
    ['an unknown kind', { kind: 'file.remove', path: '/' }, null],
  ])('%s', (_what, op, before) => {
    expect(isKnown(op, before)).toBe(false);
  });
});

it('after the death of its process nothing of a device is touched: it is gone, or it is not ours', async () => {
  const dead = appliersAfterDeath(appliers);
  const gone = { outcome: 'absent' };
  const link = { kind: 'link.up', name: 'lo', mtu: 65_536, txQueueLength: 1000 } as const;
  expect(await dead['link.up'].undo(link, { index: 1, mtu: 9, txQueueLength: 9, isUp: false })).toEqual(gone);
  const address = { kind: 'address.add', dev: 'lo', family: 4, address: '127.0.0.1', prefixLength: 8 } as const;
  expect(await dead['address.add'].undo(address, { existed: false })).toEqual(gone);
  const sysctl = { kind: 'sysctl.set', key: 'net.ipv4.conf.lo.rp_filter', value: '0' } as const;
  expect(await dead['sysctl.set'].undo(sysctl, '1')).toEqual(gone);
});
