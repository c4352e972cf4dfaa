/** (Config, Snapshot) to the ops that bring the tunnel up, in order (pure). */
import { EXIT, ProxyVpnError } from '../errors.ts';
import type { FirewallLoadOp } from '../firewall/ops.ts';
import type { Connection, FirewallPolicy } from '../firewall/policy.ts';
import { type Family, familyOf, prefixText } from '../ip.ts';
import { ROUTE_PROTOCOL, type Scheme, schemeFor } from '../mark/scheme.ts';
import type { UpstreamAddress } from '../native.ts';
import type { NetlinkOp, RouteAddOp, RuleAddOp } from '../netlink/ops.ts';
import type { TunCreate } from '../tunstack/device.ts';
import type { Config } from './config.ts';
import { isLinkLocal } from './resolver.ts';
import type { Snapshot } from './snapshot.ts';
import { connectionKey } from './ssh-session.ts';
import { type SysctlSetOp, sysctlKey } from './sysctl.ts';

/** Every change that proxyvpn makes to a host. */
export type Op = FirewallLoadOp | TunCreate | NetlinkOp | SysctlSetOp;

export interface Plan {
  readonly scheme: Scheme;
  readonly policy: FirewallPolicy;
  /** Up to here nothing is sent into the TUN; with the killswitch on, the first op blocks. */
  readonly prepare: readonly Op[];
  /** What diverts, to be applied once the engine runs: the capturing rules come last. */
  readonly divert: readonly Op[];
}

/** FIB table `main`, include/uapi/linux/rtnetlink.h RT_TABLE_MAIN */
const TABLE_MAIN = 254;
/** Packets. The default of 500 overflows with 64 KiB super-segments, and lwIP recovers slowly from loss. */
const TX_QUEUE_LENGTH = 5000;
/** CUBIC misreads the TUN's queueing delay and collapses (16 instead of 33 Gbit/s measured). */
const CONGESTION_CONTROL = 'reno';
const DNS_PORT = 53;

/** The numbers of this tunnel: the scheme's, but for what was asked for by flag. */
export function effectiveScheme(config: Pick<Config, 'name' | 'tun' | 'fwmark'>, slot: number): Scheme {
  const scheme = schemeFor(config.name, slot);
  return { ...scheme, tun: config.tun ?? scheme.tun, fwmark: config.fwmark ?? scheme.fwmark };
}

/**
 * Everything `up` changes on the host.
 * @throws ProxyVpnError E_ALREADY_DIVERTED (exit code 4): two tunnels that take everything would take each other's
 *   connections to the proxy, round and round
 */
export function planUp(config: Config, snapshot: Snapshot): Plan {
  if (config.routes && snapshot.otherTables.length > 0) {
    const message = `another tunnel takes all TCP of this host already (table ${snapshot.otherTables.join(', ')})`;
    const hint = 'take it down (proxyvpn down --name NAME), or give --no-routes and route into this one yourself';
    throw new ProxyVpnError('E_ALREADY_DIVERTED', message, { hint, exitCode: EXIT.wrongState });
  }
  const scheme = effectiveScheme(config, snapshot.slot);
  const policy = policyOf(config, snapshot, scheme);
  const firewall: Op = { kind: 'firewall.load', policy };
  const device: readonly Op[] = [
    { kind: 'tun.create', name: scheme.tun, queues: config.queues },
    ...sysctls(config, snapshot, scheme),
    { kind: 'link.up', name: scheme.tun, mtu: config.mtu, txQueueLength: TX_QUEUE_LENGTH },
    ...addresses(config, snapshot, scheme),
  ];
  const routes = config.routes ? families(snapshot).flatMap((family) => tablesOf(family, config, scheme)) : [];
  const rules = config.routes ? rulesOf(config, snapshot, scheme, policy.allowDns) : [];
  // The killswitch blocks before anything else changes. Without it the marks need only precede the rules, and not by
  // much: from then on DNS goes nowhere but into the tunnel.
  if (config.killswitch) return { scheme, policy, prepare: [firewall, ...device, ...routes], divert: rules };
  const marks = config.routes ? [firewall] : [];
  return { scheme, policy, prepare: [...device, ...routes], divert: [...marks, ...rules] };
}

/**
 * Whom proxyvpn itself may ask for names of the local network, and for the proxy's own name: nobody where no port-53
 * packet may leave.
 */
export function localResolvers(
  config: Pick<Config, 'killswitch' | 'allowDns' | 'dns'>,
  snapshot: Pick<Snapshot, 'nameServers'>,
): readonly string[] {
  if (config.killswitch || config.dns.mode === 'direct') return [];
  return (config.allowDns ?? snapshot.nameServers).filter((server) => !isLinkLocal(server));
}

/** Families that must be diverted, be it into the TUN or into a refusal. */
function families(snapshot: Snapshot): readonly Family[] {
  return snapshot.ipv6 === 'absent' ? [4] : [4, 6];
}

function carriesIpv6(config: Config, snapshot: Snapshot): boolean {
  return config.ipv6 && snapshot.ipv6 !== 'absent';
}

function sysctls(config: Config, snapshot: Snapshot, scheme: Scheme): readonly SysctlSetOp[] {
  const set = (value: string, ...key: readonly string[]): SysctlSetOp => ({
    kind: 'sysctl.set',
    key: sysctlKey('net', ...key),
    value,
  });
  const ipv6: readonly SysctlSetOp[] =
    carriesIpv6(config, snapshot) && snapshot.ipv6 === 'off-by-default'
      ? [set('0', 'ipv6', 'conf', scheme.tun, 'disable_ipv6')]
      : [];
  // A container cannot write them, and need not where no filter is strict.
  if (snapshot.isSysctlReadOnly && !snapshot.isPathFilterStrict) return ipv6;
  return [
    // Strict reverse-path filtering would drop all that comes out of the TUN.
    set('2', 'ipv4', 'conf', scheme.tun, 'rp_filter'),
    // The proxy's and inbound packets are looked up with their marks, or strict filtering drops them too.
    ...(config.routes ? [set('1', 'ipv4', 'conf', 'all', 'src_valid_mark')] : []),
    ...ipv6,
  ];
}

function addresses(config: Config, snapshot: Snapshot, scheme: Scheme): readonly Op[] {
  const dev = scheme.tun;
  const ipv4: Op = { kind: 'address.add', dev, family: 4, address: scheme.tunAddress4, prefixLength: 32 };
  if (!carriesIpv6(config, snapshot)) return [ipv4];
  return [ipv4, { kind: 'address.add', dev, family: 6, address: scheme.tunAddress6, prefixLength: 128 }];
}

function tablesOf(family: Family, config: Config, scheme: Scheme): readonly RouteAddOp[] {
  const base = { kind: 'route.add', family, table: scheme.table, protocol: ROUTE_PROTOCOL } as const;
  const around = config.bypass
    .filter((prefix) => prefix.family === family)
    .map((prefix): RouteAddOp => ({ ...base, destination: prefixText(prefix), type: 'throw' }));
  const isRefused = family === 6 && !config.ipv6;
  const all: RouteAddOp = isRefused
    ? { ...base, destination: 'default', type: 'unreachable' }
    : { ...base, destination: 'default', type: 'unicast', dev: scheme.tun, congestionControl: CONGESTION_CONTROL };
  const ofNames = config.dns.mode === 'direct' ? [] : [{ ...all, table: scheme.namesTable }];
  return [all, ...around, ...ofNames];
}

/**
 * All exceptions before all rules that divert, so that an exception never comes too late. `not fwmark M ipproto tcp`
 * in one rule would be shorter, but `not` inverts the whole match and would divert UDP as well
 * (fib_rule_match() in net/core/fib_rules.c).
 */
function rulesOf(
  config: Config,
  snapshot: Snapshot,
  scheme: Scheme,
  allowDns: readonly string[],
): readonly RuleAddOp[] {
  const { priority } = scheme;
  const base = { kind: 'rule.add', protocol: ROUTE_PROTOCOL } as const;
  const tcp = { ...base, ipProto: 'tcp' } as const;
  const each = (make: (family: Family) => readonly RuleAddOp[]): readonly RuleAddOp[] =>
    families(snapshot).flatMap(make);
  const own = each((family) => [
    { ...base, family, priority: priority.end },
    { ...base, family, priority: priority.own, fwmark: scheme.fwmark, goto: priority.end },
  ]);
  const dns = each((family) =>
    allowDns
      .filter((server) => familyOf(server) === family)
      .map((server) => ({
        ...tcp,
        family,
        priority: priority.dns,
        destination: `${server}/${family === 4 ? 32 : 128}`,
        dport: DNS_PORT,
        goto: priority.end,
      })),
  );
  const isCaught = config.dns.mode !== 'direct';
  const { v4, v6 } = config.dns.ranges;
  // Whoever has such an address has it from us, bypassed users by way of a stub resolver.
  const virtual = each((family) => {
    const destination = prefixText(family === 4 ? v4 : v6);
    return isCaught ? [{ ...base, family, priority: priority.virtual, destination, table: scheme.namesTable }] : [];
  });
  const users = each((family) =>
    config.bypassUsers.flatMap((uid) => {
      const user = { family, priority: priority.bypassUser, uidRange: [uid, uid] as const, goto: priority.end };
      const itsDns: RuleAddOp = { ...base, ...user, ipProto: 'udp', dport: DNS_PORT };
      return isCaught ? [{ ...tcp, ...user }, itsDns] : [{ ...tcp, ...user }];
    }),
  );
  // Before the LAN: its resolver is none of ours, and a container's is often one of the LAN.
  const caught = each((family) =>
    (['udp', 'tcp'] as const).flatMap((ipProto): readonly RuleAddOp[] =>
      isCaught
        ? [{ ...base, ipProto, family, priority: priority.caughtDns, dport: DNS_PORT, table: scheme.namesTable }]
        : [],
    ),
  );
  // Only where the LAN is wanted: else DHCP option 121 could steal routes (TunnelVision).
  const lan = each((family) =>
    config.lan === 'allow'
      ? [{ ...tcp, family, priority: priority.lan, table: TABLE_MAIN, suppressPrefixLength: 0 }]
      : [],
  );
  // What comes from outside for a container must reach it: diverted, it would make this host a door to the proxy
  // for whoever routes through it.
  const forwarded = each((family) => [
    {
      ...base,
      family,
      priority: priority.forwarded,
      invert: true,
      incomingLink: 'lo',
      table: TABLE_MAIN,
      suppressPrefixLength: 0,
    },
  ]);
  const divert = each((family) => [{ ...tcp, family, priority: priority.divert, table: scheme.table }]);
  return [...own, ...dns, ...users, ...lan, ...forwarded, ...virtual, ...caught, ...divert];
}

function policyOf(config: Config, snapshot: Snapshot, scheme: Scheme): FirewallPolicy {
  const { mode, ranges } = config.dns;
  const names = {
    ranges: [prefixText(ranges.v4), prefixText(ranges.v6)],
    localResolvers: localResolvers(config, snapshot),
    rerouteMark: scheme.rerouteMark,
  };
  const session = config.allowInbound.sshPeer ? snapshot.sshSession : undefined;
  const peers = config.killswitch && session ? [{ address: session.remoteAddress, localPort: session.localPort }] : [];
  return {
    table: scheme.firewallTable,
    killswitch: config.killswitch,
    tun: { name: scheme.tun, address4: scheme.tunAddress4, address6: scheme.tunAddress6 },
    fwmark: scheme.fwmark,
    exemptConnectionMark: scheme.exemptConnectionMark,
    uid: snapshot.uid,
    proxies: snapshot.proxies,
    allowDns: mode === 'direct' ? (config.allowDns ?? snapshot.nameServers) : [],
    allowLan: config.lan === 'allow',
    bypass: config.bypass.map(prefixText),
    bypassUsers: config.bypassUsers,
    ...(mode === 'direct' ? {} : { names }),
    inbound: { ports: config.killswitch ? config.allowInbound.ports : [], peers },
    existing: existingOf(config, snapshot, session),
  };
}

/** Connections older than the tunnel: all of them go on, but with the killswitch only the session that typed `up`. */
function existingOf(config: Config, snapshot: Snapshot, session: Connection | undefined): readonly Connection[] {
  if (!config.killswitch) return snapshot.connections;
  if (session === undefined) return [];
  const key = connectionKey(session);
  return snapshot.connections.filter((connection) => connectionKey(connection) === key);
}

/** For messages and engine: the proxy's addresses with its port. */
export function upstreamAddresses(addresses: readonly string[], port: number): readonly UpstreamAddress[] {
  return addresses.map((address) => ({ address, port }));
}
