/**
 * The chains that let nothing out but what the policy allows (pure).
 *
 *   output        says no at once (a reset, an ICMP error), so that programs do not hang. After route_output has
 *                 sent a packet another way it still sees the old interface, so it is not the last word:
 *   postrouting   sees the interface that a packet really leaves by, and drops. It cannot tell forwarded packets from
 *                 our own by their interface (before Linux 5.6), but by their source address; so output lets packets
 *                 with somebody else's source address pass by their destination only.
 *   forward       containers and virtual machines, as strict as output. Its interface is the real one.
 *
 * There is no `ct state established accept` for packets of this host: connections older than the killswitch would go
 * on outside the tunnel. The connection mark tells which connections were opened under these very rules.
 */
import { intoTunnel, refuse, TO_DNS } from './dns-guard.ts';
import { LAN_NETWORKS } from './local-networks.ts';
import type { FirewallPolicy } from './policy.ts';
import {
  both,
  type Chain,
  FAMILIES,
  type Hook,
  hex,
  OPENED,
  OPENS,
  ofProxies,
  PRIORITY,
  type Rule,
  type Tracking,
  tunAddress,
} from './rule.ts';

/** Nothing but SYN: what RFC 9293 §3.5 opens a connection with. A later packet might be an answer taken for a question. */
const BARE_SYN = 'tcp flags & (fin | syn | rst | ack) == syn';
/** (uid_t)-1 is nobody: it holds for every packet that has an owner, and for none that has not. */
const HAS_OWNER = 'meta skuid != 4294967295';

export function killswitchChains(policy: FirewallPolicy, tracking: Tracking): readonly Chain[] {
  return [
    { name: 'to_proxy', hook: undefined, rules: toProxy(policy) },
    { name: 'orphaned', hook: undefined, rules: orphaned() },
    { name: 'permitted', hook: undefined, rules: permitted(policy) },
    { name: 'refuse', hook: undefined, rules: refuse() },
    // A hook costs each packet more than its rules do, so where route_output has nothing left to do but one, this does it.
    {
      name: 'output',
      hook: { ...dropping('output'), type: tracking === 'nothing' ? 'route' : 'filter' },
      rules: output(policy, tracking),
    },
    { name: 'forward', hook: dropping('forward'), rules: forward(policy, tracking) },
    { name: 'postrouting', hook: dropping('postrouting'), rules: postrouting(policy) },
  ];
}

const dropping = (hook: Hook['hook']): Hook => ({ type: 'filter', hook, priority: PRIORITY.filter, policy: 'drop' });

/** In prerouting, of TCP from another interface than lo and the TUN: marks the connections that may be answered. */
export function markInbound(policy: FirewallPolicy): readonly Rule[] {
  const { ports, peers } = policy.inbound;
  const opens = `${BARE_SYN} ct state new fib daddr type local`;
  const mark = `ct mark set ${hex(policy.exemptConnectionMark)}`;
  return [
    ...(ports === 'all' ? [{ text: `${opens} ${mark}`, why: 'connections from outside may be answered' }] : []),
    ...(ports !== 'all' && ports.length > 0
      ? [{ text: `tcp dport @inbound_ports ${opens} ${mark}`, why: 'connections to these ports may be answered' }]
      : []),
    ...(peers.length > 0
      ? both('this peer may come back', ({ ip, family }) => `${ip} saddr . tcp dport @peers${family} ${opens} ${mark}`)
      : []),
  ];
}

/** Reached by packets with our mark to the address and port of a proxy. */
function toProxy(policy: FirewallPolicy): readonly Rule[] {
  return [
    { text: `meta skuid ${policy.uid} accept`, why: 'proxyvpn itself; others can set the mark with CAP_NET_RAW' },
    { text: 'goto orphaned', why: 'after close() a socket has no owner, but data and FIN to send' },
  ];
}

function orphaned(): readonly Rule[] {
  return [
    { text: `${HAS_OWNER} return`, why: 'owned by another user' },
    { text: `${OPENS} return`, why: 'nobody owns it, so nobody may open a connection' },
    { text: 'accept', why: 'the rest of a connection whose program has closed it' },
  ];
}

/** Before all else in output and postrouting: by far the most packets are these. */
function ofTunnel(policy: FirewallPolicy): readonly Rule[] {
  const into = `oifname "${policy.tun.name}" meta l4proto tcp accept`;
  return [
    ...both('the tunnel carries TCP', ({ ip, family }) => `${ip} saddr ${tunAddress(policy, family)} ${into}`),
    ...ofProxies(
      policy,
      'destination',
      'to a proxy; the tunnel lives on it',
      (match) => `meta mark ${hex(policy.fwmark)} ${match} jump to_proxy`,
    ),
    stays,
  ];
}

/** What this host may send by another interface than lo and the TUN. Accepts, or returns. */
function permitted(policy: FirewallPolicy): readonly Rule[] {
  return [
    ...toResolvers(policy),
    ...ofBypassUsers(policy),
    { text: `${TO_DNS} return`, why: 'no other resolver, not even in the LAN or a bypassed network' },
    ...addressConfiguration(),
    ...toNetworks(policy),
    ...(policy.existing.length > 0 ? ofExisting() : []),
    ...answersToInbound(policy),
  ];
}

function toResolvers(policy: FirewallPolicy): readonly Rule[] {
  if (policy.allowDns.length === 0) return [];
  return both('an allowed resolver', ({ ip, family }) => `${ip} daddr @dns${family} ${TO_DNS} accept`);
}

function ofBypassUsers(policy: FirewallPolicy): readonly Rule[] {
  if (policy.bypassUsers.length === 0) return [];
  const users = `meta skuid { ${policy.bypassUsers.join(', ')} }`;
  const mark = hex(policy.exemptConnectionMark);
  return [
    { text: `${users} meta l4proto tcp ct mark set ${mark}`, why: 'to know the connection once it is orphaned' },
    { text: `${users} accept`, why: 'this user goes around the tunnel, DNS included' },
    {
      text: `meta l4proto tcp ct mark ${mark} ct direction original goto orphaned`,
      why: 'the same after close(): data and FIN may be left to send',
    },
  ];
}

/** DHCP and neighbour discovery: without them the uplink would lose its address. */
function addressConfiguration(): readonly Rule[] {
  return [
    {
      text: 'meta nfproto ipv4 udp sport 68 udp dport 67 accept',
      why: 'DHCP client; renewals go to the server itself (RFC 2131)',
    },
    {
      text: 'ip6 saddr fe80::/10 ip6 daddr ff02::1:2 udp sport 546 udp dport 547 accept',
      why: 'DHCPv6 client (RFC 8415 section 7)',
    },
    {
      text: 'ip6 hoplimit 255 icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } accept',
      why: 'neighbour discovery, what ARP is to IPv4 (RFC 4861)',
    },
    {
      text: 'ip6 hoplimit 1 ip6 daddr ff02::/16 icmpv6 type { 131, 132, 143 } accept',
      why: 'group membership: switches that snoop would withhold neighbour solicitations (RFC 4541)',
    },
  ];
}

function toNetworks(policy: FirewallPolicy): readonly Rule[] {
  const bypass = both('goes around the tunnel', ({ ip, family }) => `${ip} daddr @bypass${family} accept`);
  const lan = both('the LAN is allowed', ({ ip, family }) => `${ip} daddr ${lanSet(family)} accept`);
  return [...(policy.bypass.length > 0 ? bypass : []), ...(policy.allowLan ? lan : [])];
}

const lanSet = (family: 4 | 6): string => `{ ${LAN_NETWORKS[family].join(', ')} }`;

function ofExisting(): readonly Rule[] {
  return both(
    'a connection older than the tunnel; a new one of the same ports is refused',
    ({ ip, family }) => `${ip} saddr . tcp sport . ${ip} daddr . tcp dport @existing${family} ${OPENED} accept`,
  );
}

/** The mark alone would let the answers of an earlier, wider policy pass: the port is asked for again. */
function answersToInbound(policy: FirewallPolicy): readonly Rule[] {
  const answer = `meta l4proto tcp ct mark ${hex(policy.exemptConnectionMark)} ct direction reply`;
  const { ports, peers } = policy.inbound;
  return [
    ...(ports === 'all' || ports.length > 0
      ? [{ text: `${answer}${toInboundPorts(policy)} accept`, why: 'the answer to a connection from outside' }]
      : []),
    ...(peers.length > 0
      ? both(
          'the answer to a peer that may come back',
          ({ ip, family }) => `${answer} ${ip} daddr . tcp sport @peers${family} accept`,
        )
      : []),
  ];
}

/** The port that the peer asked for, also where it is published by a container under another number. */
const toInboundPorts = (policy: FirewallPolicy): string =>
  policy.inbound.ports === 'all' ? '' : ' ct original proto-dst @inbound_ports';

/** Postrouting drops it where it did not get into the tunnel. */
function reroutedDns({ names, fwmark }: FirewallPolicy, tracking: Tracking): readonly Rule[] {
  if (names === undefined) return [];
  if (tracking === 'nothing') {
    const dns = `meta mark != ${hex(fwmark)} udp dport 53 fib saddr type local`;
    const text = `${dns} meta mark set ${hex(names.rerouteMark)} accept`;
    return [{ text, why: 'routed again, without the interface of its socket (IP_UNICAST_IF): into the tunnel' }];
  }
  const text = `meta mark ${hex(names.rerouteMark)} udp dport 53 fib saddr type local accept`;
  return [{ text, why: 'routed again, and this hook sees the old interface' }];
}

const stays: Rule = { text: 'oifname "lo" accept', why: 'stays in this host' };

function output(policy: FirewallPolicy, tracking: Tracking): readonly Rule[] {
  const into = `oifname "${policy.tun.name}" meta l4proto tcp`;
  return [
    ...ofTunnel(policy),
    // Not what is sent in the name of others, a reset by `reject` say: postrouting takes that for forwarded.
    { text: `${into} fib saddr type local accept`, why: 'the same from another address of this host' },
    ...intoTunnel(policy, `oifname "${policy.tun.name}" fib saddr type local`),
    ...reroutedDns(policy, tracking),
    { text: 'jump permitted', why: 'the few that may go around the tunnel' },
    { text: 'goto refuse', why: 'everything else' },
  ];
}

function postrouting(policy: FirewallPolicy): readonly Rule[] {
  return [
    ...ofTunnel(policy),
    { text: `oifname "${policy.tun.name}" meta l4proto tcp accept`, why: 'the same from another address of this host' },
    ...intoTunnel(policy, `oifname "${policy.tun.name}"`),
    { text: 'fib saddr type != local accept', why: 'not from here: judged in forward, or in output by its addresses' },
    { text: 'jump permitted', why: 'output may have seen the interface from before the mark' },
    { text: 'counter drop', why: 'whatever anyone has marked, routed or bound' },
  ];
}

function forward(policy: FirewallPolicy, tracking: Tracking): readonly Rule[] {
  const back = tracking === 'nothing' ? '' : ' ct state established,related';
  return [
    { text: `oifname "${policy.tun.name}" meta l4proto tcp accept`, why: 'the tunnel carries TCP' },
    ...intoTunnel(policy, `oifname "${policy.tun.name}"`),
    { text: `iifname "${policy.tun.name}"${back} accept`, why: 'what comes back through it' },
    ...forwardedInbound(policy),
    ...forwardedToResolvers(policy),
    { text: `${TO_DNS} goto refuse`, why: 'no other resolver, not even in the LAN or a bypassed network' },
    ...forwardedToNetworks(policy),
    { text: 'goto refuse', why: 'everything else' },
  ];
}

function forwardedToResolvers(policy: FirewallPolicy): readonly Rule[] {
  if (policy.allowDns.length === 0) return [];
  return FAMILIES.flatMap(({ ip, family }) => [
    { text: `${ip} daddr @dns${family} ${TO_DNS} accept`, why: 'an allowed resolver' },
    {
      text: `${ip} saddr @dns${family} meta l4proto { tcp, udp } th sport 53 ct direction reply accept`,
      why: 'its answer',
    },
  ]);
}

function forwardedToNetworks(policy: FirewallPolicy): readonly Rule[] {
  const answers = (why: string, networks: (family: 4 | 6) => string): readonly Rule[] =>
    both(why, ({ ip, family }) => `${ip} saddr ${networks(family)} ct direction reply accept`);
  return [
    ...toNetworks(policy),
    ...(policy.bypass.length > 0 ? answers('the answer of a bypassed network', (family) => `@bypass${family}`) : []),
    ...(policy.allowLan ? answers('the answer of the LAN', lanSet) : []),
  ];
}

/** Both directions of a connection to a published port. */
function forwardedInbound(policy: FirewallPolicy): readonly Rule[] {
  const { ports } = policy.inbound;
  if (ports !== 'all' && ports.length === 0) return [];
  const text = `meta l4proto tcp ct mark ${hex(policy.exemptConnectionMark)}${toInboundPorts(policy)} accept`;
  return [{ text, why: 'a connection from outside to a port of a container' }];
}
