/**
 * The netlink module and sysctls on a real kernel, in the network namespace in which the tests run:
 *
 *     lo   nlt0 (TUN without a program behind it)   nlt0.5 (another, whose name has a dot)
 */
import { execFileSync } from 'node:child_process';
import { readlinkSync } from 'node:fs';
import net from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type SysctlSetOp, sysctlAppliers } from '../../src/app/sysctl.ts';
import { EXIT } from '../../src/errors.ts';
import { native } from '../../src/native.ts';
import { connections, listeners } from '../../src/netlink/diag.ts';
import { type NetlinkOp, netlinkAppliers, type RouteAddOp, type RuleAddOp } from '../../src/netlink/ops.ts';
import { addresses, linkByName, links, routes, rules } from '../../src/netlink/read.ts';
import type { NetlinkRequest } from '../../src/netlink/socket.ts';
import type { Applier } from '../../src/op.ts';

// Before anything else: these tests change routes and rules of the namespace they run in.
if (process.env['PROXYVPN_PRIVILEGED_TESTS'] !== '1') throw new Error('PROXYVPN_PRIVILEGED_TESTS is not 1');
if (readlinkSync('/proc/self/ns/net') === readlinkSync('/proc/1/ns/net'))
  throw new Error('still in the initial network namespace: run scripts/test-privileged.sh');

const request: NetlinkRequest = (protocol, message) => native().netlinkRequest(protocol, message);

type Op = NetlinkOp | SysctlSetOp;
function applierOf(op: Op): Applier<Op> {
  return { ...netlinkAppliers(request), ...sysctlAppliers() }[op.kind] as Applier<Op>;
}

function sh(line: string): string {
  return execFileSync('/bin/sh', ['-ec', line], { encoding: 'utf8' });
}

interface Listed {
  readonly [key: string]: unknown;
}

function ipJson(args: string): Listed[] {
  return JSON.parse(sh(`ip -j ${args}`).trim() || '[]') as Listed[];
}

/** All that the netlink ops can change, as iproute2 shows it. */
function dumpHost(): string {
  const lists = [
    'link show',
    'address show',
    'route show table all',
    '-6 route show table all',
    'rule show',
    '-6 rule show',
  ];
  return sh(lists.map((list) => `ip -j -d ${list}; echo`).join('\n')).replaceAll('},{', '},\n{');
}

beforeEach(() => {
  sh('ip tuntap add mode tun name nlt0; ip tuntap add mode tun name nlt0.5');
});
afterEach(() => {
  sh('ip link del nlt0 2>&- || true; ip link del nlt0.5 2>&- || true');
});

const route = { kind: 'route.add', table: 52199, protocol: 210 } as const;
const into = { ...route, destination: 'default', type: 'unicast', dev: 'nlt0', congestionControl: 'reno' } as const;
const rule = { kind: 'rule.add', protocol: 210, ipProto: 'tcp' } as const;
const divert = { ...rule, priority: 5206, invert: true, fwmark: 0x50560000, table: 52199 } as const;
const MAIN = 254;

/** What it takes before, the op, and what `ip` must then list. */
interface Case {
  readonly op: NetlinkOp;
  readonly first?: string;
  readonly list: string;
  readonly shows: Listed;
}
const UP = 'ip link set nlt0 up';
// The first "up" of a device gives it a queueing discipline, and its first IPv6 address a multicast route. The kernel
// keeps both until the device goes, so here they come before the dump that is compared.
const UP_BEFORE = `${UP}; ip link set nlt0 down`;
const IPV6_BEFORE = `${UP}; ip address add fd70:7670:6e00::c7/128 dev nlt0 nodad noprefixroute`;

const CASES: readonly Case[] = [
  {
    op: { kind: 'link.up', name: 'nlt0', mtu: 9000, txQueueLength: 5000 },
    first: UP_BEFORE,
    list: 'link show dev nlt0',
    shows: { mtu: 9000, txqlen: 5000, flags: expect.arrayContaining(['UP']) },
  },
  {
    op: { kind: 'address.add', dev: 'nlt0', family: 4, address: '198.18.0.200', prefixLength: 32 },
    first: UP,
    list: 'address show dev nlt0',
    shows: { addr_info: [expect.objectContaining({ local: '198.18.0.200', prefixlen: 32, noprefixroute: true })] },
  },
  {
    op: { kind: 'address.add', dev: 'nlt0', family: 6, address: 'fd70:7670:6e00::c8', prefixLength: 128 },
    first: IPV6_BEFORE,
    list: '-6 address show dev nlt0',
    shows: {
      addr_info: expect.arrayContaining([
        expect.objectContaining({ local: 'fd70:7670:6e00::c8', prefixlen: 128, noprefixroute: true, nodad: true }),
      ]),
    },
  },
  ...([4, 6] as const).flatMap((family): Case[] => {
    const net = family === 4 ? '10.0.0.0/8' : 'fd00::/8';
    const host = family === 4 ? '10.0.0.53' : 'fd00::53';
    const list = `-${family} route show table 52199`;
    const listRules = `-${family} rule show`;
    const ours = { protocol: '210', src: 'all' };
    return [
      {
        op: { ...into, family },
        first: UP,
        list,
        shows: { dst: 'default', dev: 'nlt0', protocol: '210', metrics: [{ congestion: 'reno' }] },
      },
      {
        op: { ...into, family, destination: net, metric: 77 },
        first: UP,
        list,
        shows: { dst: net, dev: 'nlt0', metric: 77 },
      },
      { op: { ...route, family, destination: net, type: 'throw' }, list, shows: { type: 'throw', dst: net } },
      {
        op: { ...route, family, destination: 'default', type: 'unreachable', metric: 9 },
        list,
        shows: { type: 'unreachable', dst: 'default', metric: 9 },
      },
      {
        op: { ...divert, family },
        list: listRules,
        shows: { ...ours, priority: 5206, not: null, fwmark: '0x50560000', ipproto: 'tcp', table: '52199' },
      },
      {
        op: { ...rule, family, priority: 5201, destination: host, dport: 53, table: MAIN },
        list: listRules,
        shows: { ...ours, priority: 5201, dst: host, ipproto: 'tcp', dport: 53, table: 'main' },
      },
      {
        op: { ...rule, family, priority: 5202, uidRange: [1000, 1001], table: MAIN },
        list: listRules,
        shows: { ...ours, priority: 5202, uid_start: 1000, uid_end: 1001, table: 'main' },
      },
      {
        op: { ...rule, family, priority: 5204, suppressPrefixLength: 0, table: MAIN },
        list: listRules,
        shows: { ...ours, priority: 5204, suppress_prefixlen: 0, table: 'main' },
      },
      {
        op: { kind: 'rule.add', family, priority: 5207, fwmark: 0x52, fwmask: 0xff, protocol: 210, table: MAIN },
        list: listRules,
        shows: { ...ours, priority: 5207, fwmark: '0x52', fwmask: '0xff' },
      },
    ];
  }),
];

/** The journal holds JSON, and a crash leaves nothing else. */
function throughJournal<T>(value: T): T {
  return JSON.parse(JSON.stringify(value)) as T;
}

describe.each(CASES.map((one) => [applierOf(one.op).describe(one.op), one] as const))('%s', (line, one) => {
  const { op } = one;
  const applier = applierOf(op);
  let start: string;

  beforeEach(() => {
    if (one.first !== undefined) sh(one.first);
    start = dumpHost();
  });

  it('is shown by ip once applied, and leaves the host as it was once undone', async () => {
    const before = throughJournal(await applier.observe(op));
    expect(dumpHost()).toBe(start);
    await applier.apply(op, before);
    expect(ipJson(one.list)).toContainEqual(expect.objectContaining(one.shows));
    expect(await applier.undo(throughJournal(op), before)).toEqual({ outcome: 'undone' });
    expect(dumpHost()).toBe(start);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
    expect(dumpHost()).toBe(start);
  });

  it('is what its line makes when an operator types it', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    const applied = dumpHost();
    await applier.undo(op, before);
    sh(line);
    expect(dumpHost()).toBe(applied);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
    expect(dumpHost()).toBe(start);
  });

  it('that never happened is undone without touching anything', async () => {
    expect(await applier.undo(op, await applier.observe(op))).toEqual({ outcome: 'absent' });
    expect(dumpHost()).toBe(start);
  });

  it('can be applied over what a crash left', async () => {
    await applier.apply(op, await applier.observe(op));
    const applied = dumpHost();
    await applier.apply(op, await applier.observe(op));
    expect(dumpHost()).toBe(applied);
    // By the journal of the run that crashed.
    expect(await applier.undo(op, { ...((await applier.observe(op)) as object), existed: false, isUp: false })).toEqual(
      {
        outcome: 'undone',
      },
    );
  });
});

const ON_A_DEVICE = CASES.filter(({ op }) => op.kind === 'link.up' || ('dev' in op && op.dev !== undefined));
describe.each(ON_A_DEVICE.map((one) => [applierOf(one.op).describe(one.op), one] as const))('%s', (_line, one) => {
  it('is absent when its device is gone, and cannot be applied again', async () => {
    if (one.first !== undefined) sh(one.first);
    const applier = applierOf(one.op);
    const before = await applier.observe(one.op);
    await applier.apply(one.op, before);
    sh('ip link del nlt0');
    expect(await applier.undo(one.op, before)).toEqual({ outcome: 'absent' });
    await expect(applier.apply(one.op, before)).rejects.toMatchObject({ code: 'E_LINK_MISSING' });
  });
});

describe('a link', () => {
  const op = { kind: 'link.up', name: 'nlt0', mtu: 9000, txQueueLength: 5000 } as const;
  const applier = applierOf(op);

  it('made anew by somebody under the same name is left alone', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    sh('ip link del nlt0; ip tuntap add mode tun name nlt0; ip link set nlt0 up');
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
    expect(linkByName(request, 'nlt0')).toMatchObject({ isUp: true });
  });

  it('keeps the MTU that somebody else set since', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    sh('ip link set nlt0 mtu 1400');
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
    expect(linkByName(request, 'nlt0')).toMatchObject({ isUp: false, mtu: 1400, txQueueLength: 500 });
  });

  it('stays as it was when the kernel refuses the MTU, and the kernel says why', async () => {
    const start = dumpHost();
    const wrong = { ...op, mtu: 65536 };
    await expect(applier.apply(wrong, await applier.observe(wrong))).rejects.toMatchObject({
      code: 'E_NETLINK',
      symbol: 'EINVAL',
      message: 'ip link set dev nlt0 mtu 65536 txqueuelen 5000 up: EINVAL: mtu greater than device maximum',
    });
    expect(dumpHost()).toBe(start);
  });
});

describe('a rule', () => {
  const op: RuleAddOp = { ...divert, family: 4 };
  const applier = applierOf(op);
  const text = 'not fwmark 0x50560000/0xffffffff ipproto tcp lookup 52199';
  const present = () => rules(request, 4).filter((one) => one.priority === 5206).length;

  afterEach(() => sh('while ip rule del priority 5206 2>&-; do :; done'));

  it('that somebody else has made is E_RULE_EXISTS, and is not removed', async () => {
    sh(`ip rule add priority 5206 ${text}`);
    const start = dumpHost();
    const before = await applier.observe(op);
    expect(before).toEqual({ existed: false });
    await expect(applier.apply(op, before)).rejects.toMatchObject({ code: 'E_RULE_EXISTS' });
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
    expect(dumpHost()).toBe(start);
  });

  it('that differs only in the "not", which the kernel does not compare, is E_RULE_EXISTS', async () => {
    sh(`ip rule add priority 5206 ${text.replace('not ', '')} protocol 210`);
    const before = await applier.observe(op);
    await expect(applier.apply(op, before)).rejects.toMatchObject({
      code: 'E_RULE_EXISTS',
      message: expect.stringContaining(
        'priority 5206 fwmark 0x50560000/0xffffffff ipproto tcp lookup 52199 protocol 210',
      ),
    });
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
    expect(present()).toBe(1);
  });

  it('beside look-alikes is the only one that is removed', async () => {
    const before = await applier.observe(op);
    await applier.apply(op, before);
    for (const more of ['dport 53 protocol 210', 'iif lo protocol 210', 'protocol 211'])
      sh(`ip rule add priority 5206 ${text} ${more}`);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
    expect(present()).toBe(3);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'absent' });
    expect(present()).toBe(3);
  });

  it('behind a look-alike that the kernel would remove in its place stays, and is reported', async () => {
    sh(`ip rule add priority 5206 iif lo ${text} protocol 210`);
    const before = await applier.observe(op);
    await applier.apply(op, before);
    expect(await applier.undo(op, before)).toEqual({
      outcome: 'foreign',
      found: 'priority 5206 not fwmark 0x50560000/0xffffffff iif lo ipproto tcp lookup 52199 protocol 210',
    });
    expect(present()).toBe(2);
  });
});

describe.each([4, 6] as const)('a route of IPv%d', (family) => {
  const op: RouteAddOp = { ...into, family };
  const applier = applierOf(op);

  it('in whose place another one stands is E_ROUTE_EXISTS, and the other one stays', async () => {
    sh(`ip link set nlt0 up; ip -${family} route add unreachable default table 52199 proto 99`);
    const start = dumpHost();
    const before = await applier.observe(op);
    await expect(applier.apply(op, before)).rejects.toMatchObject({
      code: 'E_ROUTE_EXISTS',
      message: expect.stringContaining('unreachable default'),
    });
    expect(await applier.undo(op, before)).toMatchObject({
      outcome: 'foreign',
      found: expect.stringContaining('unreachable default'),
    });
    expect(dumpHost()).toBe(start);
    sh(`ip -${family} route del unreachable default table 52199`);
  });

  it('is the only one of its table that is removed', async () => {
    sh(`ip link set nlt0 up; ip -${family} route add default dev nlt0 table 52199 proto 99 metric 2000`);
    const start = dumpHost();
    const before = await applier.observe(op);
    await applier.apply(op, before);
    expect(routes(request, family, 52199)).toHaveLength(2);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
    expect(dumpHost()).toBe(start);
  });
});

describe('the kernel', () => {
  it('says in words why it refuses a route', async () => {
    const op: RouteAddOp = { ...into, family: 4, destination: '203.0.113.0/24' };
    await expect(applierOf(op).apply(op, { existed: false })).rejects.toMatchObject({
      symbol: 'ENETDOWN',
      errno: 100,
      kernelMessage: 'Device for nexthop is not up',
    });
  });

  it('refuses whoever has no CAP_NET_ADMIN, which has an exit code of its own', async () => {
    const ops: readonly Op[] = [
      { ...divert, family: 4 },
      { kind: 'sysctl.set', key: 'net.ipv4.conf.nlt0.rp_filter', value: '2' },
    ];
    for (const op of ops) {
      process.seteuid?.(65534);
      try {
        const before = await applierOf(op).observe(op);
        await expect(applierOf(op).apply(op, before)).rejects.toMatchObject({ exitCode: EXIT.notPermitted });
      } finally {
        process.seteuid?.(0);
      }
    }
  });
});

describe('a sysctl', () => {
  it.each<[string, SysctlSetOp]>([
    [
      'sysctl -w net.ipv4.conf.nlt0.rp_filter=2',
      { kind: 'sysctl.set', key: 'net.ipv4.conf.nlt0.rp_filter', value: '2' },
    ],
    [
      'sysctl -w net.ipv4.conf.nlt0/5.rp_filter=2',
      { kind: 'sysctl.set', key: 'net.ipv4.conf.nlt0/5.rp_filter', value: '2' },
    ],
    [
      'sysctl -w net.ipv6.conf.nlt0.disable_ipv6=1',
      { kind: 'sysctl.set', key: 'net.ipv6.conf.nlt0.disable_ipv6', value: '1' },
    ],
    [
      "sysctl -w 'net.ipv4.ip_local_port_range=20000 30000'",
      { kind: 'sysctl.set', key: 'net.ipv4.ip_local_port_range', value: '20000 30000' },
    ],
  ])('%s is set as the line does it, and put back', async (line, op) => {
    const dump = () => sh('sysctl -a -r "^net\\.ipv[46]\\.(conf\\.|ip_local_port_range)" | grep -v stable_secret');
    const start = dump();
    const applier = applierOf(op);
    expect(applier.describe(op)).toBe(line);
    const before = throughJournal(await applier.observe(op));
    await applier.apply(op, before);
    const applied = dump();
    expect(applied).not.toBe(start);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
    expect(dump()).toBe(start);
    sh(line);
    expect(dump()).toBe(applied);
    expect(await applier.undo(op, before)).toEqual({ outcome: 'undone' });
  });

  it('of a device that is gone is absent', async () => {
    const op: SysctlSetOp = { kind: 'sysctl.set', key: 'net.ipv4.conf.nlt0.rp_filter', value: '2' };
    const before = await applierOf(op).observe(op);
    await applierOf(op).apply(op, before);
    sh('ip link del nlt0');
    expect(await applierOf(op).undo(op, before)).toEqual({ outcome: 'absent' });
  });

  it('with a value that the kernel does not take is an error', async () => {
    const op: SysctlSetOp = { kind: 'sysctl.set', key: 'net.ipv4.conf.nlt0.rp_filter', value: 'x' };
    await expect(applierOf(op).apply(op, '0')).rejects.toMatchObject({
      code: 'E_SYSCTL',
      message: 'cannot set net.ipv4.conf.nlt0.rp_filter to x: EINVAL',
    });
  });
});

describe('the readers', () => {
  it('show every link and address as ip does', () => {
    sh('ip link set nlt0 up; ip address add 192.0.2.1/24 dev nlt0; ip address add 2001:db8::1/64 dev nlt0 nodad');
    const shown = ipJson('address show');
    expect(links(request).map(({ index, name, mtu, txQueueLength }) => [index, name, mtu, txQueueLength])).toEqual(
      shown.map((link) => [link['ifindex'], link['ifname'], link['mtu'], link['txqlen'] ?? 0]),
    );
    const ipAddresses = shown.flatMap((link) =>
      (link['addr_info'] as Listed[]).map((one) => `${link['ifindex']} ${one['local']}/${one['prefixlen']}`),
    );
    const ours = addresses(request).map((one) => `${one.index} ${one.address}/${one.prefixLength}`);
    expect(ours.sort()).toEqual(ipAddresses.sort());
  });

  it('read a thousand routes in one dump', () => {
    const nets = Array.from({ length: 1000 }, (_, i) => `10.${i >> 8}.${i & 255}.0/24`);
    const batch = (verb: string) => nets.map((net) => `route ${verb} throw ${net} table 52198\n`).join('');
    execFileSync('ip', ['-batch', '-'], { input: batch('add') });
    expect(routes(request, 4, 52198).map((one) => one.destination)).toEqual(nets);
    execFileSync('ip', ['-batch', '-'], { input: batch('del') });
    expect(routes(request, 4, 52198)).toEqual([]);
  });

  it('list connections of both families from both ends, and what listens', async () => {
    const server = net.createServer().listen({ host: '::', port: 0 });
    await new Promise((resolve) => server.once('listening', resolve));
    const { port } = server.address() as net.AddressInfo;
    const clients = await Promise.all(
      ['127.0.0.1', '::1'].map(
        (host) =>
          new Promise<net.Socket>((resolve) => {
            const client = net.connect({ host, port }, () => resolve(client));
          }),
      ),
    );
    try {
      expect(listeners(request)).toContainEqual({ address: '::', port });
      for (const client of clients) {
        const [address, localPort] = [client.remoteAddress ?? '', client.localPort ?? 0];
        const ends = { family: address === '::1' ? 6 : 4, localAddress: address, remoteAddress: address };
        expect(connections(request)).toContainEqual({ ...ends, localPort, remotePort: port });
        expect(connections(request)).toContainEqual({ ...ends, localPort: port, remotePort: localPort });
      }
      // Half-closed connections have a direction that goes on.
      for (const client of clients) await new Promise<void>((resolve) => client.end(resolve));
      expect(connections(request).filter((one) => one.remotePort === port)).toHaveLength(2);
    } finally {
      for (const client of clients) client.destroy();
      server.close();
    }
  });
});
