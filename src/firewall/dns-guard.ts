/**
 * What keeps port 53 from going anywhere but into the tunnel where the tunnel answers DNS (pure).
 *
 * Routing rules catch what programs send. Two kinds of sockets choose their interface, and the rules do not see them:
 * IP_UNICAST_IF (systemd-resolved) is forgotten when a packet is routed again, so its mark is changed; SO_BINDTODEVICE
 * is not, so what is left is refused. With the killswitch, killswitch.ts refuses; here is what does without it, as long
 * as the daemon says that it lives: a crash without the killswitch fails open (decision 0003).
 */
import type { FirewallPolicy, NamesPolicy } from './policy.ts';
import { both, type Chain, hex, type NamedSet, OPENED, ofProxies, PRIORITY, type Rule } from './rule.ts';

/** Refreshed by `Backend.keepAlive`: what is refused without the killswitch is refused only while this holds. */
export const ALIVE: NamedSet = {
  name: 'alive',
  type: 'nf_proto',
  isInterval: false,
  elements: ['ipv4', 'ipv6'],
  timeoutSeconds: 15,
};

export const TO_DNS = 'meta l4proto { tcp, udp } th dport 53';

/** In route_output, of UDP to port 53 that is not from the tunnel's address. */
export function dnsRoute(policy: FirewallPolicy, names: NamesPolicy): Chain {
  const mark = hex(policy.fwmark);
  return {
    name: 'dns_route',
    hook: undefined,
    rules: [
      { text: `ct direction reply meta mark set ${mark} return`, why: 'the answer to a client that asks from port 53' },
      { text: `oifname { "lo", "${policy.tun.name}" } return`, why: 'to a stub resolver, or caught already' },
      { text: `meta mark ${mark} return`, why: 'of proxyvpn itself' },
      ...bypassUsers(policy, 'return'),
      {
        text: `meta mark set ${hex(names.rerouteMark)}`,
        why: 'routed again, without the interface of its socket (IP_UNICAST_IF): into the tunnel',
      },
    ],
  };
}

/** Without the killswitch: the chains that refuse port 53 by another way. */
export function dnsGuardChains(policy: FirewallPolicy, names: NamesPolicy): readonly Chain[] {
  const others: Rule = { text: 'meta l4proto != { tcp, udp } return', why: 'no DNS' };
  const otherPorts: Rule = { text: 'th dport != 53 return', why: 'no DNS' };
  const dead: Rule = { text: `meta nfproto != @${ALIVE.name} return`, why: 'the daemon has crashed: as without it' };
  const inside: Rule = { text: `oifname { "lo", "${policy.tun.name}" } return`, why: 'to a stub, or into the tunnel' };
  const chain = (name: string, hook: 'output' | 'forward' | 'postrouting', rules: readonly Rule[]): Chain => ({
    name,
    hook: { type: 'filter', hook, priority: PRIORITY.filter, policy: 'accept' },
    rules: [others, otherPorts, dead, inside, ...rules],
  });
  const why = 'to a resolver around the tunnel';
  return [
    { name: 'dns_permitted', hook: undefined, rules: permitted(policy, names) },
    { name: 'refuse', hook: undefined, rules: refuse() },
    chain('dns_output', 'output', [
      {
        text: `meta mark ${hex(names.rerouteMark)} return`,
        why: 'this hook sees the old interface, the next one the new',
      },
      { text: 'jump dns_permitted', why: 'the few that may' },
      { text: 'goto refuse', why },
    ]),
    chain('dns_forward', 'forward', [
      { text: 'ct direction reply return', why: 'the answer to a client that asks from port 53' },
      { text: 'fib daddr type local return', why: 'for this host' },
      { text: `meta mark ${hex(policy.fwmark)} return`, why: 'from outside, for a port that a container publishes' },
      { text: 'goto refuse', why },
    ]),
    chain('dns_postrouting', 'postrouting', [
      { text: 'fib saddr type != local return', why: 'not from here: judged in dns_forward' },
      { text: 'jump dns_permitted', why: 'the few that may' },
      { text: 'counter drop', why },
    ]),
  ];
}

function permitted(policy: FirewallPolicy, { localResolvers }: NamesPolicy): readonly Rule[] {
  const ours = `meta mark ${hex(policy.fwmark)}`;
  return [
    ...(localResolvers.length > 0
      ? both('proxyvpn asks for a local name', ({ ip, family }) => `${ours} ${ip} daddr @resolvers${family} accept`)
      : []),
    ...ofProxies(policy, 'destination', 'to a proxy', (match) => `${ours} ${match} accept`),
    ...bypassUsers(policy, 'accept'),
    { text: 'ct direction reply accept', why: 'the answer to a client that asks from port 53' },
    { text: `meta l4proto tcp ${OPENED} accept`, why: 'of a connection that was let through, or is older' },
  ];
}

/** The killswitch has its own of the same name. */
export function refuse(): readonly Rule[] {
  return [
    { text: 'meta l4proto tcp counter reject with tcp reset', why: 'a drop would leave connect() hanging' },
    { text: 'counter reject with icmpx admin-prohibited', why: 'QUIC falls back to TCP, and resolvers go on, at once' },
  ];
}

/** Who goes around the tunnel asks around it. */
function bypassUsers({ bypassUsers: users }: FirewallPolicy, verdict: 'accept' | 'return'): readonly Rule[] {
  if (users.length === 0) return [];
  return [
    { text: `meta skuid { ${users.join(', ')} } ${verdict}`, why: 'this user goes around the tunnel, DNS included' },
  ];
}

/** What goes into the tunnel beside TCP, as the end of rules that match its interface. */
export function intoTunnel({ names }: FirewallPolicy, start: string): readonly Rule[] {
  if (names === undefined) return [];
  const ranges = names.ranges.map((range) => ({ range, ip: range.includes(':') ? 'ip6' : 'ip' }));
  return [
    { text: `${start} udp dport 53 accept`, why: 'the tunnel answers DNS' },
    ...ranges.map(({ range, ip }) => ({
      text: `${start} ${ip} daddr ${range} accept`,
      why: 'an address that stands for a name: the tunnel refuses all but TCP',
    })),
  ];
}
