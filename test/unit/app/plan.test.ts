import { describe, expect, test } from 'vitest';
import { describeOps } from '../../../src/app/apply.ts';
import { openHost } from '../../../src/app/host.ts';
import { planUp } from '../../../src/app/plan.ts';
import type { Snapshot } from '../../../src/app/snapshot.ts';
import { configFor, PLAIN_HOST } from './sample.ts';

/** The lines of a dry run; of the ruleset, which has its own tests, only that it is there. */
function lines(argv: readonly string[], host: Partial<Snapshot> = {}): string {
  const plan = planUp(configFor(...argv), { ...PLAIN_HOST, ...host });
  const { appliers } = openHost();
  const short = (line: string): string => (line.startsWith('nft ') ? 'nft -f -' : line);
  const [prepare, divert] = [plan.prepare, plan.divert].map((ops) => describeOps(ops, appliers).map(short));
  return [...(prepare ?? []), '-- engine --', ...(divert ?? [])].join('\n');
}

describe('the plan', () => {
  test('diverts last, and marks before it diverts', () => {
    expect(lines([])).toMatchInlineSnapshot(`
      "ip tuntap add dev pvpn0 mode tun vnet_hdr
      sysctl -w net.ipv4.conf.pvpn0.rp_filter=2
      sysctl -w net.ipv4.conf.all.src_valid_mark=1
      ip link set dev pvpn0 mtu 1500 txqueuelen 5000 up
      ip address add 198.18.0.1/32 dev pvpn0 noprefixroute
      ip -6 address add fd70:7670:6e00::1/128 dev pvpn0 nodad noprefixroute
      ip route add default dev pvpn0 table 52100 proto 210 congctl reno
      ip route add default dev pvpn0 table 52120 proto 210 congctl reno
      ip -6 route add default dev pvpn0 table 52100 proto 210 congctl reno
      ip -6 route add default dev pvpn0 table 52120 proto 210 congctl reno
      -- engine --
      nft -f -
      ip rule add priority 5208 nop protocol 210
      ip rule add priority 5200 fwmark 0x50560000/0xffffffff goto 5208 protocol 210
      ip -6 rule add priority 5208 nop protocol 210
      ip -6 rule add priority 5200 fwmark 0x50560000/0xffffffff goto 5208 protocol 210
      ip rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip -6 rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip rule add priority 5201 to 198.18.0.0/15 lookup 52120 protocol 210
      ip -6 rule add priority 5201 to fd70:7670:6e00:1::/64 lookup 52120 protocol 210
      ip rule add priority 5203 ipproto udp dport 53 lookup 52120 protocol 210
      ip rule add priority 5203 ipproto tcp dport 53 lookup 52120 protocol 210
      ip -6 rule add priority 5203 ipproto udp dport 53 lookup 52120 protocol 210
      ip -6 rule add priority 5203 ipproto tcp dport 53 lookup 52120 protocol 210
      ip rule add priority 5206 ipproto tcp lookup 52100 protocol 210
      ip -6 rule add priority 5206 ipproto tcp lookup 52100 protocol 210"
    `);
  });

  test('with --dns direct DNS goes where it went', () => {
    expect(lines(['--dns', 'direct'])).toMatchInlineSnapshot(`
      "ip tuntap add dev pvpn0 mode tun vnet_hdr
      sysctl -w net.ipv4.conf.pvpn0.rp_filter=2
      sysctl -w net.ipv4.conf.all.src_valid_mark=1
      ip link set dev pvpn0 mtu 1500 txqueuelen 5000 up
      ip address add 198.18.0.1/32 dev pvpn0 noprefixroute
      ip -6 address add fd70:7670:6e00::1/128 dev pvpn0 nodad noprefixroute
      ip route add default dev pvpn0 table 52100 proto 210 congctl reno
      ip -6 route add default dev pvpn0 table 52100 proto 210 congctl reno
      -- engine --
      nft -f -
      ip rule add priority 5208 nop protocol 210
      ip rule add priority 5200 fwmark 0x50560000/0xffffffff goto 5208 protocol 210
      ip -6 rule add priority 5208 nop protocol 210
      ip -6 rule add priority 5200 fwmark 0x50560000/0xffffffff goto 5208 protocol 210
      ip rule add priority 5201 to 10.0.0.53/32 ipproto tcp dport 53 goto 5208 protocol 210
      ip -6 rule add priority 5201 to fd00::53/128 ipproto tcp dport 53 goto 5208 protocol 210
      ip rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip -6 rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip rule add priority 5206 ipproto tcp lookup 52100 protocol 210
      ip -6 rule add priority 5206 ipproto tcp lookup 52100 protocol 210"
    `);
  });

  test('DNS is caught before the LAN, and a bypassed user asks for itself but reaches names by the tunnel', () => {
    const words = ['--bypass-user', '1001', '--lan', 'allow', '--bypass', '10.0.0.0/8'];
    const text = lines(words);
    expect(text.slice(text.indexOf('-- engine --'))).toMatchInlineSnapshot(`
      "-- engine --
      nft -f -
      ip rule add priority 5208 nop protocol 210
      ip rule add priority 5200 fwmark 0x50560000/0xffffffff goto 5208 protocol 210
      ip -6 rule add priority 5208 nop protocol 210
      ip -6 rule add priority 5200 fwmark 0x50560000/0xffffffff goto 5208 protocol 210
      ip rule add priority 5202 uidrange 1001-1001 ipproto tcp goto 5208 protocol 210
      ip rule add priority 5202 uidrange 1001-1001 ipproto udp dport 53 goto 5208 protocol 210
      ip -6 rule add priority 5202 uidrange 1001-1001 ipproto tcp goto 5208 protocol 210
      ip -6 rule add priority 5202 uidrange 1001-1001 ipproto udp dport 53 goto 5208 protocol 210
      ip rule add priority 5204 ipproto tcp lookup main suppress_prefixlength 0 protocol 210
      ip -6 rule add priority 5204 ipproto tcp lookup main suppress_prefixlength 0 protocol 210
      ip rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip -6 rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip rule add priority 5201 to 198.18.0.0/15 lookup 52120 protocol 210
      ip -6 rule add priority 5201 to fd70:7670:6e00:1::/64 lookup 52120 protocol 210
      ip rule add priority 5203 ipproto udp dport 53 lookup 52120 protocol 210
      ip rule add priority 5203 ipproto tcp dport 53 lookup 52120 protocol 210
      ip -6 rule add priority 5203 ipproto udp dport 53 lookup 52120 protocol 210
      ip -6 rule add priority 5203 ipproto tcp dport 53 lookup 52120 protocol 210
      ip rule add priority 5206 ipproto tcp lookup 52100 protocol 210
      ip -6 rule add priority 5206 ipproto tcp lookup 52100 protocol 210"
    `);
    expect(text).toContain('ip route add default dev pvpn0 table 52120');
    expect(text).not.toContain('throw 10.0.0.0/8 table 52120');
  });

  test('with the killswitch blocks first', () => {
    expect(lines(['--killswitch']).split('\n')[0]).toBe('nft -f -');
  });

  test('every exception comes before the first rule that diverts', () => {
    expect(
      lines([
        ...['--bypass', '192.0.2.0/24,2001:db8::/32', '--bypass-user', 'backup,1001', '--lan', 'allow'],
        ...[
          '--dns',
          'direct',
          '--allow-dns',
          '10.0.0.54',
          '--queues',
          '2',
          '--tun',
          'tunnel0',
          '--fwmark',
          '0x77',
          '--mtu',
          '9000',
        ],
      ]),
    ).toMatchInlineSnapshot(`
      "ip tuntap add dev tunnel0 mode tun vnet_hdr multi_queue  # 2 queues
      sysctl -w net.ipv4.conf.tunnel0.rp_filter=2
      sysctl -w net.ipv4.conf.all.src_valid_mark=1
      ip link set dev tunnel0 mtu 9000 txqueuelen 5000 up
      ip address add 198.18.0.1/32 dev tunnel0 noprefixroute
      ip -6 address add fd70:7670:6e00::1/128 dev tunnel0 nodad noprefixroute
      ip route add default dev tunnel0 table 52100 proto 210 congctl reno
      ip route add throw 192.0.2.0/24 table 52100 proto 210
      ip -6 route add default dev tunnel0 table 52100 proto 210 congctl reno
      ip -6 route add throw 2001:db8::/32 table 52100 proto 210
      -- engine --
      nft -f -
      ip rule add priority 5208 nop protocol 210
      ip rule add priority 5200 fwmark 0x77/0xffffffff goto 5208 protocol 210
      ip -6 rule add priority 5208 nop protocol 210
      ip -6 rule add priority 5200 fwmark 0x77/0xffffffff goto 5208 protocol 210
      ip rule add priority 5201 to 10.0.0.54/32 ipproto tcp dport 53 goto 5208 protocol 210
      ip rule add priority 5202 uidrange 34-34 ipproto tcp goto 5208 protocol 210
      ip rule add priority 5202 uidrange 1001-1001 ipproto tcp goto 5208 protocol 210
      ip -6 rule add priority 5202 uidrange 34-34 ipproto tcp goto 5208 protocol 210
      ip -6 rule add priority 5202 uidrange 1001-1001 ipproto tcp goto 5208 protocol 210
      ip rule add priority 5204 ipproto tcp lookup main suppress_prefixlength 0 protocol 210
      ip -6 rule add priority 5204 ipproto tcp lookup main suppress_prefixlength 0 protocol 210
      ip rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip -6 rule add priority 5205 not iif lo lookup main suppress_prefixlength 0 protocol 210
      ip rule add priority 5206 ipproto tcp lookup 52100 protocol 210
      ip -6 rule add priority 5206 ipproto tcp lookup 52100 protocol 210"
    `);
  });

  test('without routes only the device is made', () => {
    expect(lines(['--no-routes'])).toMatchInlineSnapshot(`
      "ip tuntap add dev pvpn0 mode tun vnet_hdr
      sysctl -w net.ipv4.conf.pvpn0.rp_filter=2
      ip link set dev pvpn0 mtu 1500 txqueuelen 5000 up
      ip address add 198.18.0.1/32 dev pvpn0 noprefixroute
      ip -6 address add fd70:7670:6e00::1/128 dev pvpn0 nodad noprefixroute
      -- engine --"
    `);
  });

  test('without routes the killswitch still blocks', () => {
    expect(lines(['--no-routes', '--killswitch']).split('\n')[0]).toBe('nft -f -');
  });

  test('a host without IPv6 gets no IPv6 ops', () => {
    expect(lines([], { ipv6: 'absent' })).not.toMatch(/-6|fd70/);
  });

  test('IPv6 that is off for new devices is switched on for ours alone', () => {
    expect(lines([], { ipv6: 'off-by-default' })).toContain('sysctl -w net.ipv6.conf.pvpn0.disable_ipv6=0');
    expect(lines([])).not.toContain('disable_ipv6');
  });

  test('a container that may not write kernel parameters goes without, unless they are needed', () => {
    expect(lines([], { isSysctlReadOnly: true })).not.toContain('sysctl');
    expect(lines([], { isSysctlReadOnly: true, isPathFilterStrict: true })).toContain('rp_filter=2');
  });

  test('--ipv6 off refuses IPv6 instead of letting it pass', () => {
    const text = lines(['--ipv6', 'off']);
    expect(text).toContain('ip -6 route add unreachable default table 52100');
    expect(text).toContain('ip -6 rule add priority 5206 ipproto tcp lookup 52100');
    expect(text).not.toContain('ip -6 address');
  });

  test('another slot has numbers of its own', () => {
    const text = lines(['--name', 'work'], { slot: 3 });
    expect(text).toContain('rule add priority 5236 ipproto tcp lookup 52103');
    expect(text).toContain('pvpn3');
  });

  test('a second tunnel that takes everything is refused, one without routes is not', () => {
    expect(() => lines([], { otherTables: [52101] })).toThrowError(
      expect.objectContaining({ code: 'E_ALREADY_DIVERTED', exitCode: 4 }),
    );
    expect(lines(['--no-routes'], { otherTables: [52101] })).toContain('ip tuntap add');
  });
});

describe('the policy', () => {
  const session = {
    family: 4,
    localAddress: '10.0.0.9',
    localPort: 22,
    remoteAddress: '192.0.2.7',
    remotePort: 50112,
  } as const;
  const other = { ...session, remotePort: 50113, localPort: 443 } as const;
  const host = { connections: [other, session], sshSession: session };
  const policyOf = (argv: readonly string[], snapshot: Partial<Snapshot> = {}) =>
    planUp(configFor(...argv), { ...PLAIN_HOST, ...snapshot }).policy;

  test('without the killswitch all connections that exist go on', () => {
    expect(policyOf([], host)).toMatchObject({ killswitch: false, existing: [other, session], inbound: { peers: [] } });
  });

  test('with it only the SSH session that typed up goes on, and may come again', () => {
    expect(policyOf(['--killswitch'], host)).toMatchObject({
      existing: [session],
      inbound: { ports: [], peers: [{ address: '192.0.2.7', localPort: 22 }] },
    });
    expect(policyOf(['--killswitch'], { ...host, sshSession: undefined })).toMatchObject({
      existing: [],
      inbound: { peers: [] },
    });
  });

  test('--allow-inbound none gives up that session as well', () => {
    expect(policyOf(['--killswitch', '--allow-inbound', 'none'], host)).toMatchObject({
      existing: [],
      inbound: { ports: [], peers: [] },
    });
    expect(policyOf(['--killswitch', '--allow-inbound', '22,80'], host).inbound.ports).toEqual([22, 80]);
  });

  test('the resolvers are those asked for, else those of the host', () => {
    expect(policyOf(['--dns', 'direct']).allowDns).toEqual(['10.0.0.53', 'fd00::53']);
    expect(policyOf(['--dns', 'direct', '--allow-dns', 'none']).allowDns).toEqual([]);
    expect(policyOf(['--dns', 'direct']).names).toBeUndefined();
  });

  test.each([['virtual'], ['over-tcp', '--dns-server', '9.9.9.9'], ['doh', '--dns-server', 'https://a.example/']])(
    '--dns %s: no resolver but for local names, and with the killswitch not even those',
    (...mode) => {
      const local = { names: { localResolvers: ['10.0.0.53', 'fd00::53'] }, allowDns: [] };
      expect(policyOf(['--dns', ...mode])).toMatchObject(local);
      const none = { names: { localResolvers: [] }, allowDns: [] };
      expect(policyOf(['--dns', ...mode, '--killswitch'])).toMatchObject(none);
      expect(policyOf(['--dns', ...mode, '--allow-dns', 'none'])).toMatchObject(none);
    },
  );

  test('a resolver that means nothing without its interface is not asked', () => {
    const found = policyOf([], { nameServers: ['fe80::1', '169.254.1.1', '10.0.0.53'] }).names;
    expect(found?.localResolvers).toEqual(['10.0.0.53']);
  });

  test('is plain data: the journal gives back what it was given', () => {
    const policy = policyOf(['--killswitch', '--lan', 'allow', '--bypass', '192.0.2.0/24'], host);
    expect(JSON.parse(JSON.stringify(policy))).toEqual(policy);
  });
});
