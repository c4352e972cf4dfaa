/**
 * Turns a policy into chains of iptables, one family at a time (pure): the same decisions as ruleset.ts and
 * killswitch.ts, which say why.
 *
 * What differs: RETURN stands for accept, so that the host's own rules behind ours still have their say; every address
 * is a rule; the tunnel's packets stay tracked, because a host with iptables usually filters by state; the packets of
 * a socket that is closed already are known by not being a SYN.
 */
import { createHash } from 'node:crypto';
import type { Family } from '../ip.ts';
import { LAN_NETWORKS } from './local-networks.ts';
import type { FirewallPolicy, NamesPolicy } from './policy.ts';
import { hex, type Rule, tunAddress } from './rule.ts';
import { addressesOfFamily, checkPolicy, disjointPrefixes, ofFamily } from './ruleset.ts';

export type Table = 'mangle' | 'filter';
export const TABLES: readonly Table[] = ['mangle', 'filter'];

/** Our chain of each built-in chain. mangle OUTPUT routes a packet again when its mark changes; so does no other. */
const PLACES = {
  PRE: { table: 'mangle', builtin: 'PREROUTING' },
  ROUTE: { table: 'mangle', builtin: 'OUTPUT' },
  GATE: { table: 'mangle', builtin: 'POSTROUTING' },
  IN: { table: 'filter', builtin: 'INPUT' },
  OUT: { table: 'filter', builtin: 'OUTPUT' },
  FWD: { table: 'filter', builtin: 'FORWARD' },
} as const;
export type Place = keyof typeof PLACES;

export interface IptablesChain {
  readonly place: Place;
  readonly table: Table;
  readonly builtin: string;
  readonly name: string;
  /** `text`: matches and target, as behind `iptables -A CHAIN`. */
  readonly rules: readonly Rule[];
}

/** Every chain that any policy of this table can have. */
export function chainNames(table: string): readonly Omit<IptablesChain, 'rules'>[] {
  const key = chainKey(table);
  return (Object.keys(PLACES) as Place[]).map((place) => ({ place, ...PLACES[place], name: `PVPN-${key}-${place}` }));
}

/** At most 14 characters, as the name of a chain has at most 28; different for different tables. */
export function chainKey(table: string): string {
  const name = table.replace(/^proxyvpn-/, '');
  if (name === table && table === 'proxyvpn') return 'default';
  if (name.length <= 12 && name !== 'default' && name !== table) return name;
  return `${name.slice(0, 7)}.${createHash('sha256').update(table).digest('hex').slice(0, 6)}`;
}

/** @throws ProxyVpnError E_FIREWALL_POLICY, E_PREFIX */
export function iptablesChains(policy: FirewallPolicy, family: Family): readonly IptablesChain[] {
  checkPolicy(policy);
  const rules: { readonly [place in Place]: readonly Rule[] } = {
    PRE: prerouting(policy, family),
    ROUTE: routeOutput(policy, family),
    GATE: gate(policy, family),
    IN: input(policy, family),
    OUT: output(policy, family),
    FWD: forward(policy, family),
  };
  return chainNames(policy.table)
    .map((chain) => ({ ...chain, rules: rules[chain.place] }))
    .filter((chain) => policy.killswitch || !['GATE', 'OUT', 'FWD'].includes(chain.place));
}

/** Targets for what may not leave. */
interface Refusal {
  readonly tcp: string;
  readonly other: string;
}

const DROP: Refusal = { tcp: 'DROP', other: 'DROP' };
const REJECT: { readonly [family in Family]: Refusal } = {
  4: { tcp: 'REJECT --reject-with tcp-reset', other: 'REJECT --reject-with icmp-admin-prohibited' },
  6: { tcp: 'REJECT --reject-with tcp-reset', other: 'REJECT --reject-with icmp6-adm-prohibited' },
};

const rule = (text: string, why: string): Rule => ({ text, why });

function prerouting(policy: FirewallPolicy, family: Family): readonly Rule[] {
  const mark = `-j MARK --set-xmark ${hex(policy.fwmark)}/0xffffffff`;
  const tun = policy.tun.name;
  return [
    rule('-i lo -j RETURN', 'from this host'),
    ...(policy.names ? [] : [onlyTcp]),
    rule(`-i ${tun} -m conntrack --ctstate SNAT ${mark}`, 'for a container behind NAT'),
    rule(`-i ${tun} -m addrtype ! --dst-type LOCAL ${mark}`, 'for a container, not into the tunnel again'),
    rule(`-i ${tun} -j RETURN`, 'for this host'),
    ...(policy.names ? [...dnsFromOutside(mark), onlyTcp] : []),
    ...(policy.killswitch ? markInbound(policy, family) : []),
    rule(
      `-m addrtype --dst-type LOCAL ${mark}`,
      'for this host or a port it publishes: strict rp_filter and the way to the container',
    ),
    rule(`-m conntrack --ctdir REPLY ${mark}`, 'the answer of a container to a connection from outside'),
  ];
}

const onlyTcp = rule('! -p tcp -j RETURN', 'only TCP is sent into the tunnel');

/** What TCP gets as well. */
const dnsFromOutside = (mark: string): readonly Rule[] =>
  ['--dport', '--sport'].flatMap((port) => [
    rule(`-p udp ${port} 53 -m addrtype --dst-type LOCAL ${mark}`, 'DNS for this host: strict rp_filter'),
    rule(`-p udp ${port} 53 -m conntrack --ctdir REPLY ${mark}`, 'the answer of a container'),
  ]);

function markInbound(policy: FirewallPolicy, family: Family): readonly Rule[] {
  const opens = '-p tcp --syn -m conntrack --ctstate NEW -m addrtype --dst-type LOCAL';
  const mark = `-j CONNMARK --set-xmark ${hex(policy.exemptConnectionMark)}/0xffffffff`;
  const { ports, peers } = policy.inbound;
  return [
    ...(ports === 'all' ? [rule(`${opens} ${mark}`, 'connections from outside may be answered')] : []),
    ...(ports === 'all' ? [] : ports).map((port) =>
      rule(`${opens} --dport ${port} ${mark}`, 'connections to this port may be answered'),
    ),
    ...ofFamily(peers, family).map(({ address, localPort }) =>
      rule(`-s ${address} ${opens} --dport ${localPort} ${mark}`, 'this peer may come back'),
    ),
  ];
}

function routeOutput(policy: FirewallPolicy, family: Family): readonly Rule[] {
  const mark = hex(policy.fwmark);
  return [
    rule(`-s ${tunAddress(policy, family)} -j RETURN`, 'through the tunnel, by far the most: nothing more to ask'),
    ...(policy.names ? dnsRoute(policy, policy.names) : []),
    onlyTcp,
    rule('-o lo -j RETURN', 'stays in this host'),
    rule(`-m mark --mark ${mark} -j RETURN`, 'marked from the start: to a proxy'),
    ...ofExisting(policy, family, `-j MARK --set-xmark ${mark}/0xffffffff`),
    rule(
      `-m conntrack --ctdir REPLY -j MARK --set-xmark ${mark}/0xffffffff`,
      'the answer to a connection from outside goes back there',
    ),
  ];
}

function ofExisting(policy: FirewallPolicy, family: Family, target: string): readonly Rule[] {
  return policy.existing
    .filter((connection) => connection.family === family)
    .map((c) =>
      rule(
        `-s ${c.localAddress} -d ${c.remoteAddress} -p tcp --sport ${c.localPort} --dport ${c.remotePort} ! --syn ${target}`,
        'a connection older than the tunnel goes on outside it; a new one of the same ports does not',
      ),
    );
}

function input(policy: FirewallPolicy, family: Family): readonly Rule[] {
  return [
    rule('-i lo -j RETURN', 'from this host'),
    rule(`-i ${policy.tun.name} -j RETURN`, 'from the tunnel'),
    rule(`-d ${tunAddress(policy, family)} -j DROP`, "CVE-2019-14899: nobody outside may probe the tunnel's address"),
  ];
}

function output(policy: FirewallPolicy, family: Family): readonly Rule[] {
  const refuse = REJECT[family];
  return [
    STAYS,
    // Not what is sent in the name of others, a reset by REJECT say: the gate takes that for forwarded.
    rule(`-o ${policy.tun.name} -p tcp -m addrtype --src-type LOCAL -j RETURN`, 'the tunnel carries TCP'),
    ...intoTunnel(policy, family, '-m addrtype --src-type LOCAL'),
    ...reroutedDns(policy),
    ...permitted(policy, family, refuse),
    ...refuseAll(refuse),
  ];
}

/** The last word, in POSTROUTING: OUTPUT may have seen the interface from before the mark. */
function gate(policy: FirewallPolicy, family: Family): readonly Rule[] {
  return [
    STAYS,
    rule(`-o ${policy.tun.name} -p tcp -j RETURN`, 'the tunnel carries TCP'),
    ...intoTunnel(policy, family),
    rule('-m addrtype ! --src-type LOCAL -j RETURN', 'not from here: judged in FORWARD, or in OUTPUT by its addresses'),
    ...permitted(policy, family, DROP),
    ...refuseAll(DROP),
  ];
}

const STAYS = rule('-o lo -j RETURN', 'stays in this host');

function permitted(policy: FirewallPolicy, family: Family, refuse: Refusal): readonly Rule[] {
  return [
    ...toProxies(policy, family),
    ...toResolvers(policy, family),
    ...ofBypassUsers(policy),
    ...refuseOtherResolvers(refuse),
    ...addressConfiguration(family),
    ...toNetworks(policy, family),
    ...ofExisting(policy, family, '-j RETURN'),
    ...answersToInbound(policy, family),
  ];
}

function toProxies(policy: FirewallPolicy, family: Family): readonly Rule[] {
  return ofFamily(policy.proxies, family).flatMap(({ address, port }) => {
    const to = `-d ${address} -p tcp --dport ${port} -m mark --mark ${hex(policy.fwmark)}`;
    return [
      rule(
        `${to} -m owner --uid-owner ${policy.uid} -j RETURN`,
        'proxyvpn itself; others can set the mark with CAP_NET_RAW',
      ),
      rule(`${to} ! --syn -j RETURN`, 'after close() a socket has no owner, but data and FIN to send'),
    ];
  });
}

function toResolvers(policy: FirewallPolicy, family: Family): readonly Rule[] {
  return addressesOfFamily(policy.allowDns, family).flatMap((address) =>
    ['udp', 'tcp'].map((protocol) => rule(`-d ${address} -p ${protocol} --dport 53 -j RETURN`, 'an allowed resolver')),
  );
}

function refuseOtherResolvers(refuse: Refusal): readonly Rule[] {
  const why = 'no other resolver, not even in the LAN or a bypassed network';
  return [rule(`-p udp --dport 53 -j ${refuse.other}`, why), rule(`-p tcp --dport 53 -j ${refuse.tcp}`, why)];
}

const refuseAll = (refuse: Refusal): readonly Rule[] => [
  rule(`-p tcp -j ${refuse.tcp}`, 'everything else; a drop in OUTPUT would leave connect() hanging'),
  rule(`-j ${refuse.other}`, 'everything else; after an error QUIC falls back to TCP, and resolvers go on, at once'),
];

function ofBypassUsers(policy: FirewallPolicy): readonly Rule[] {
  const mark = hex(policy.exemptConnectionMark);
  if (policy.bypassUsers.length === 0) return [];
  return [
    ...policy.bypassUsers.flatMap((user) => [
      rule(
        `-p tcp -m owner --uid-owner ${user} -j CONNMARK --set-xmark ${mark}/0xffffffff`,
        'to know the connection once it is orphaned',
      ),
      rule(`-m owner --uid-owner ${user} -j RETURN`, 'this user goes around the tunnel, DNS included'),
    ]),
    rule(
      `-p tcp ! --syn -m connmark --mark ${mark} -m conntrack --ctdir ORIGINAL -m owner ! --socket-exists -j RETURN`,
      'the same after close(): data and FIN may be left to send',
    ),
  ];
}

function addressConfiguration(family: Family): readonly Rule[] {
  if (family === 4)
    return [rule('-p udp --sport 68 --dport 67 -j RETURN', 'DHCP client; renewals go to the server itself (RFC 2131)')];
  const discovery = ['router-solicitation', 'neighbour-solicitation', 'neighbour-advertisement'];
  return [
    rule('-s fe80::/10 -d ff02::1:2 -p udp --sport 546 --dport 547 -j RETURN', 'DHCPv6 client (RFC 8415 section 7)'),
    ...discovery.map((type) =>
      rule(
        `-p icmpv6 --icmpv6-type ${type} -m hl --hl-eq 255 -j RETURN`,
        'neighbour discovery, what ARP is to IPv4 (RFC 4861)',
      ),
    ),
    ...[131, 132, 143].map((type) =>
      rule(
        `-d ff02::/16 -p icmpv6 --icmpv6-type ${type} -m hl --hl-eq 1 -j RETURN`,
        'group membership: switches that snoop would withhold neighbour solicitations (RFC 4541)',
      ),
    ),
  ];
}

/** What the policy lets go around the tunnel, and why. */
function openNetworks(policy: FirewallPolicy, family: Family): readonly Rule[] {
  return [
    ...disjointPrefixes(policy.bypass, family).map((text) => rule(text, 'goes around the tunnel')),
    ...(policy.allowLan ? LAN_NETWORKS[family] : []).map((text) => rule(text, 'the LAN is allowed')),
  ];
}

const toNetworks = (policy: FirewallPolicy, family: Family): readonly Rule[] =>
  openNetworks(policy, family).map(({ text, why }) => rule(`-d ${text} -j RETURN`, why));

function answersToInbound(policy: FirewallPolicy, family: Family): readonly Rule[] {
  const answer = `-p tcp -m connmark --mark ${hex(policy.exemptConnectionMark)} -m conntrack --ctdir REPLY`;
  return [
    ...inboundPorts(policy).map((port) =>
      rule(`${answer}${port} -j RETURN`, 'the answer to a connection from outside'),
    ),
    ...ofFamily(policy.inbound.peers, family).map(({ address, localPort }) =>
      rule(`-d ${address} ${answer} --sport ${localPort} -j RETURN`, 'the answer to a peer that may come back'),
    ),
  ];
}

/** The port that the peer asked for, also where it is published by a container under another number. */
const inboundPorts = ({ inbound: { ports } }: FirewallPolicy): readonly string[] =>
  ports === 'all' ? [''] : ports.map((port) => ` --ctorigdstport ${port}`);

function forward(policy: FirewallPolicy, family: Family): readonly Rule[] {
  const tun = policy.tun.name;
  const refuse = REJECT[family];
  return [
    rule(`-o ${tun} -p tcp -j RETURN`, 'the tunnel carries TCP'),
    ...intoTunnel(policy, family),
    rule(`-i ${tun} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN`, 'what comes back through it'),
    ...inboundPorts(policy).map((port) =>
      rule(
        `-p tcp -m connmark --mark ${hex(policy.exemptConnectionMark)}${port && ` -m conntrack${port}`} -j RETURN`,
        'a connection from outside to a port of a container',
      ),
    ),
    ...toResolvers(policy, family),
    ...addressesOfFamily(policy.allowDns, family).flatMap((address) =>
      ['udp', 'tcp'].map((protocol) =>
        rule(`-s ${address} -p ${protocol} --sport 53 -m conntrack --ctdir REPLY -j RETURN`, 'its answer'),
      ),
    ),
    ...refuseOtherResolvers(refuse),
    ...toNetworks(policy, family),
    ...openNetworks(policy, family).map(({ text }) =>
      rule(`-s ${text} -m conntrack --ctdir REPLY -j RETURN`, 'the answer from there'),
    ),
    ...refuseAll(refuse),
  ];
}

/** What goes into the tunnel beside TCP. @param more matches */
function intoTunnel({ names, tun }: FirewallPolicy, family: Family, more = ''): readonly Rule[] {
  if (names === undefined) return [];
  const start = ['-o', tun.name, more].filter(Boolean).join(' ');
  return [
    rule(`${start} -p udp --dport 53 -j RETURN`, 'the tunnel answers DNS'),
    ...ofRanges(names, family).map((range) =>
      rule(`${start} -d ${range} -j RETURN`, 'an address that stands for a name: the tunnel refuses all but TCP'),
    ),
  ];
}

const ofRanges = ({ ranges }: NamesPolicy, family: Family): readonly string[] => disjointPrefixes(ranges, family);

/** In mangle OUTPUT, see dns-guard.ts. */
function dnsRoute(policy: FirewallPolicy, { rerouteMark }: NamesPolicy): readonly Rule[] {
  const mark = hex(policy.fwmark);
  const dns = '-p udp --dport 53';
  return [
    rule(
      `${dns} -m conntrack --ctdir REPLY -j MARK --set-xmark ${mark}/0xffffffff`,
      'the answer to a client that asks from port 53',
    ),
    rule(`${dns} -m mark --mark ${mark} -j RETURN`, 'that, or of proxyvpn itself'),
    rule(`${dns} -o lo -j RETURN`, 'to a stub resolver'),
    rule(`${dns} -o ${policy.tun.name} -j RETURN`, 'caught already'),
    ...dnsOfBypassUsers(policy, dns),
    rule(
      `${dns} -j MARK --set-xmark ${hex(rerouteMark)}/0xffffffff`,
      'routed again, without the interface of its socket (IP_UNICAST_IF): into the tunnel',
    ),
  ];
}

const dnsOfBypassUsers = (policy: FirewallPolicy, dns: string): readonly Rule[] =>
  policy.bypassUsers.map((user) =>
    rule(`${dns} -m owner --uid-owner ${user} -j RETURN`, 'this user goes around the tunnel, DNS included'),
  );

function reroutedDns({ names }: FirewallPolicy): readonly Rule[] {
  if (names === undefined) return [];
  const text = `-p udp --dport 53 -m mark --mark ${hex(names.rerouteMark)} -m addrtype --src-type LOCAL -j RETURN`;
  return [rule(text, 'routed again, and this hook sees the old interface')];
}
