import { describe, expect, it } from 'vitest';
import { connections, listeners, listeningPorts } from '../../../src/netlink/diag.ts';
import { addresses, linkByName, links, routes, rules } from '../../../src/netlink/read.ts';
import { ANY_RULE } from '../../../src/netlink/rule.ts';
import { answer, kernelThatSays } from './captured.ts';

describe('links', () => {
  const all = links(kernelThatSays(answer('links')));

  it('tell name, ifindex, MTU, queue, state and kind', () => {
    expect(all.map((link) => link.name)).toEqual(['lo', 'pvpn0', 'up1', 'up0', 'br0', 'down0']);
    expect(all[0]).toMatchObject({ index: 1, mtu: 65536, isUp: true, isLoopback: true, kind: undefined });
    expect(all[1]).toEqual({
      index: 2,
      name: 'pvpn0',
      mtu: 1500,
      txQueueLength: 4096,
      isUp: true,
      isLoopback: false,
      kind: 'tun',
    });
    expect(all[5]).toMatchObject({ isUp: false, txQueueLength: 500 });
  });

  it('are found by name, and a missing one is no error', () => {
    expect(linkByName(kernelThatSays(answer('link pvpn0')), 'pvpn0')).toEqual(all[1]);
    expect(linkByName(kernelThatSays(answer('link missing')), 'nosuch0')).toBeUndefined();
  });
});

describe('addresses', () => {
  const all = addresses(kernelThatSays(answer('addresses')));

  it('of both families come with prefix and flags', () => {
    const flags = 0x80 | 0x200; // permanent, noprefixroute
    const tun = { index: 2, peer: undefined, scope: 0 };
    expect(all).toContainEqual({ ...tun, family: 4, address: '198.18.0.1', prefixLength: 32, flags });
    expect(all).toContainEqual({
      ...tun,
      family: 6,
      address: 'fd70:7670:6e00::1',
      prefixLength: 128,
      flags: flags | 2,
    });
  });

  it('of a point-to-point link are the near end', () => {
    expect(all).toContainEqual(expect.objectContaining({ address: '192.0.2.20', peer: '198.51.100.1' }));
  });
});

describe('routes', () => {
  const ipv4 = routes(kernelThatSays(answer('routes 4')), 4);
  const ipv6 = routes(kernelThatSays(answer('routes 6')), 6);
  const to = (destination: string) => [...ipv4, ...ipv6].filter((route) => route.destination === destination);

  it('tell gateway, metric, protocol and preferred source', () => {
    expect(ipv4.find((route) => route.destination === 'default' && route.table === 254)).toEqual({
      family: 4,
      table: 254,
      destination: 'default',
      source: undefined,
      type: 'unicast',
      protocol: 16,
      tos: 0,
      metric: 100,
      nexthops: [{ index: 4, gateway: '192.0.2.1' }],
      preferredSource: '192.0.2.10',
      congestionControl: undefined,
    });
  });

  it('of one table are those of that table', () => {
    for (const family of [4, 6] as const) {
      const own = routes(kernelThatSays(answer(`routes ${family} of 52100`)), family, 52100);
      expect(own).toEqual((family === 4 ? ipv4 : ipv6).filter((route) => route.table === 52100));
      expect(own).toHaveLength(2);
      expect(own).toContainEqual(expect.objectContaining({ destination: 'default', congestionControl: 'reno' }));
    }
  });

  it('are picked by table also when the kernel sends all', () => {
    const own = routes(kernelThatSays(answer('routes 4')), 4, 52100);
    expect(own).toEqual(ipv4.filter((route) => route.table === 52100));
  });

  it('are empty for a table that does not exist', () => {
    expect(routes(kernelThatSays(answer('routes of a missing table')), 4, 60000)).toEqual([]);
  });

  it('with several nexthops tell them all', () => {
    const gateways = (destination: string) => to(destination)[0]?.nexthops.map((nexthop) => nexthop.gateway);
    expect(gateways('203.0.113.0/24')).toEqual(['192.0.2.2', '192.0.2.3']);
    expect(gateways('2001:db8:7::/48')).toEqual(['2001:db8::2', '2001:db8::3']);
  });

  it('of IPv4 may lead to an IPv6 router', () => {
    expect(to('198.51.100.128/25')[0]?.nexthops).toEqual([{ index: 4, gateway: '2001:db8::2' }]);
  });

  it('that lead nowhere, need a type of service or a source, say so', () => {
    expect(to('10.0.0.0/8')[0]).toMatchObject({ type: 'throw', metric: 7, nexthops: [] });
    expect(to('fd00::/8')[0]).toMatchObject({ type: 'unreachable', metric: 1024 });
    expect(to('10.9.0.0/16')[0]).toMatchObject({ type: 'blackhole', tos: 0x10 });
    expect(to('2001:db8:8::/48')[0]).toMatchObject({ source: '2001:db8:9::/48' });
  });
});

describe('rules', () => {
  const ipv4 = rules(kernelThatSays(answer('rules 4')), 4);
  const at = (priority: number) => ipv4.find((rule) => rule.priority === priority);
  const ours = { ...ANY_RULE, family: 4, protocol: 210 } as const;

  it('come in the order in which the kernel tries them', () => {
    expect(ipv4.map((rule) => rule.priority)).toEqual([
      0, 100, 101, 102, 103, 104, 5201, 5202, 5204, 5206, 32766, 32767,
    ]);
  });

  it('of ours are decoded in full', () => {
    expect(at(5206)).toEqual({
      ...ours,
      priority: 5206,
      table: 52100,
      isInverted: true,
      fwmark: 0x50560000,
      fwmask: 0xffffffff,
      ipProto: 6,
    });
    const main = { ...ours, table: 254 };
    const dns = { destination: '10.0.0.53/32', destinationPorts: [53, 53], ipProto: 6 };
    expect(at(5201)).toEqual({ ...main, priority: 5201, ...dns });
    expect(at(5202)).toEqual({ ...main, priority: 5202, uidRange: [1000, 1000], ipProto: 6 });
    expect(at(5204)).toEqual({ ...main, priority: 5204, suppressPrefixLength: 0 });
  });

  it('of others show every selector', () => {
    expect(at(100)).toEqual({
      ...ANY_RULE,
      family: 4,
      priority: 100,
      table: 77,
      protocol: 0,
      source: '192.0.2.0/24',
      tos: 0x10,
      fwmark: 1,
      fwmask: 0xff,
      incomingLink: 'up0',
      outgoingLink: 'up1',
      ipProto: 17,
      sourcePorts: [1000, 2000],
      destinationPorts: [80, 90],
      suppressGroup: 5,
    });
    expect(at(101)).toMatchObject({ action: 'goto', gotoPriority: 5206 });
    expect(at(102)).toMatchObject({ action: 'prohibit', destination: '10.8.0.0/16' });
    expect(at(103)).toMatchObject({ action: 'blackhole' });
    expect(at(104)?.otherSelectors).toHaveLength(1);
  });

  it('of IPv6 are decoded as well', () => {
    const ipv6 = rules(kernelThatSays(answer('rules 6')), 6);
    expect(ipv6.map((rule) => rule.priority)).toEqual([0, 100, 5206, 32766]);
    expect(ipv6[1]).toMatchObject({ action: 'unreachable', source: '2001:db8::/32', destination: 'fd00::/8' });
  });
});

describe('sockets', () => {
  // Captured: listeners on [::]:7001 and 127.0.0.1:7002; clients from 40001 (IPv4 to ::), 40002 (IPv6), 40003.
  const all = connections(kernelThatSays(answer('connections'), answer('connections 2')));

  it('are listed from both ends, in both families', () => {
    const ends = all.map((one) => `${one.localPort}>${one.remotePort}`).sort();
    expect(ends).toEqual(['40001>7001', '40002>7001', '40003>7002', '7001>40001', '7001>40002', '7002>40003']);
    expect(all.filter((one) => one.family === 6).map((one) => one.localAddress)).toEqual(['::1', '::1']);
  });

  it('of IPv6 that talk IPv4 count as IPv4', () => {
    expect(all).toContainEqual({
      family: 4,
      localAddress: '127.0.0.1',
      localPort: 7001,
      remoteAddress: '127.0.0.1',
      remotePort: 40001,
    });
  });

  it('that listen are listed, and those on loopback are no open ports', () => {
    const kernel = () => kernelThatSays(answer('listeners'), answer('listeners 2'));
    expect(listeners(kernel())).toEqual([
      { address: '127.0.0.1', port: 7002 },
      { address: '::', port: 7001 },
    ]);
    expect(listeningPorts(kernel())).toEqual([7001]);
  });
});
