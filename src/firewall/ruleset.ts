/**
 * Turns a policy into an nftables table: sets, chains and rules (pure).
 *
 * Who decides what:
 *
 *   prerouting, route_output   give the mark to TCP that must be routed as without the tunnel: whatever came in from
 *                              outside, the replies to it, what the tunnel brings for a container, and connections
 *                              older than the tunnel. The routing rules send all other TCP into the tunnel.
 *                              Also CVE-2019-14899.
 *   output, forward,           the killswitch, see killswitch.ts.
 *   postrouting
 *   dns_route, dns_output,     where the tunnel answers DNS: it goes nowhere else, see dns-guard.ts.
 *   dns_forward, ...
 *   raw_prerouting, raw_output keep the tunnel's own packets out of connection tracking, where that harms nobody.
 */
import { EXIT, ProxyVpnError } from '../errors.ts';
import { addressBytes, canonicalAddress, type Family, familyOf, type Prefix, parsePrefix, prefixText } from '../ip.ts';
import { ALIVE, dnsGuardChains, dnsRoute } from './dns-guard.ts';
import { killswitchChains, markInbound } from './killswitch.ts';
import type { Connection, FirewallPolicy, NamesPolicy } from './policy.ts';
import {
  both,
  type Chain,
  FAMILIES,
  hex,
  type NamedSet,
  OPENED,
  ofProxies,
  PRIORITY,
  type Rule,
  type Ruleset,
  type Tracking,
  tunAddress,
} from './rule.ts';

export interface RulesetOptions {
  /** Keep the tunnel's own packets out of connection tracking: only where no other firewall wants their state. */
  readonly isUntracked: boolean;
}

/**
 * The whole table.
 * @throws ProxyVpnError E_FIREWALL_POLICY when something could not stand in a ruleset, E_PREFIX
 */
export function rulesetOf(policy: FirewallPolicy, options: RulesetOptions): Ruleset {
  checkPolicy(policy);
  const { names } = policy;
  const tracking = trackingOf(policy, options);
  const chains = [
    ...(tracking === 'others' ? rawChains(policy) : []),
    ...prerouting(policy, tracking),
    // Where nothing is tracked, output routes again as well.
    ...(names && tracking !== 'nothing' ? [dnsRoute(policy, names)] : []),
    ...(tracking === 'nothing' ? [] : [routeOutput(policy)]),
    ...(policy.killswitch ? killswitchChains(policy, tracking) : names ? dnsGuardChains(policy, names) : []),
  ];
  const text = chains.flatMap((chain) => chain.rules.map((rule) => rule.text)).join('\n');
  const isUsed = (set: NamedSet): boolean => new RegExp(`@${set.name}\\b`).test(text);
  return { table: policy.table, sets: setsOf(policy).filter(isUsed), chains };
}

/** It ends up in commands. @throws ProxyVpnError E_FIREWALL_POLICY */
export function checkTableName(table: string): void {
  if (!/^[a-zA-Z][a-zA-Z0-9_-]{0,63}$/.test(table)) throw policyError(`not a table name: ${table}`);
}

/** Everything else that ends up in commands. @throws ProxyVpnError E_FIREWALL_POLICY */
export function checkPolicy(policy: FirewallPolicy): void {
  checkTableName(policy.table);
  // IFNAMSIZ, include/uapi/linux/if.h. An asterisk at the end would match other interfaces.
  if (!/^[a-zA-Z0-9_.-]{1,15}$/.test(policy.tun.name)) throw policyError(`not an interface: ${policy.tun.name}`);
  const { tun, proxies, allowDns, existing, inbound, names } = policy;
  if (names) checkNames(names);
  const addresses = [tun.address4, tun.address6, ...allowDns, ...[...proxies, ...inbound.peers].map((p) => p.address)];
  for (const address of [...addresses, ...existing.flatMap((c) => [c.localAddress, c.remoteAddress])])
    if (canonicalAddress(address) === undefined) throw policyError(`not an IP address: ${address}`);
  const ports = inbound.ports === 'all' ? [] : inbound.ports;
  const numbers = [policy.fwmark, policy.exemptConnectionMark, policy.uid, ...policy.bypassUsers, ...ports];
  for (const number of [...numbers, ...proxies.map((p) => p.port), ...inbound.peers.map((p) => p.localPort)])
    if (!Number.isInteger(number) || number < 0 || number > 0xffffffff) throw policyError(`not a number: ${number}`);
}

function checkNames({ ranges, localResolvers, rerouteMark }: NamesPolicy): void {
  for (const range of ranges)
    if (prefixText(parsePrefix(range)) !== range) throw policyError(`not a network: ${range}`);
  for (const address of localResolvers)
    if (canonicalAddress(address) === undefined) throw policyError(`not an IP address: ${address}`);
  if (!Number.isInteger(rerouteMark) || rerouteMark < 1 || rerouteMark > 0xffffffff)
    throw policyError(`not a mark: ${rerouteMark}`);
}

const policyError = (what: string): ProxyVpnError =>
  new ProxyVpnError('E_FIREWALL_POLICY', what, { exitCode: EXIT.usage });

function setsOf(policy: FirewallPolicy): readonly NamedSet[] {
  const ports = policy.inbound.ports === 'all' ? [] : policy.inbound.ports;
  return [
    ...FAMILIES.flatMap(({ family, type }): readonly NamedSet[] => [
      setOf(`proxies${family}`, `${type} . inet_service`, ofFamily(policy.proxies, family).map(endpoint)),
      setOf(`dns${family}`, type, addressesOfFamily(policy.allowDns, family)),
      setOf(`resolvers${family}`, type, addressesOfFamily(policy.names?.localResolvers ?? [], family)),
      { ...setOf(`bypass${family}`, type, disjointPrefixes(policy.bypass, family)), isInterval: true },
      setOf(
        `existing${family}`,
        `${type} . inet_service . ${type} . inet_service`,
        policy.existing.filter((connection) => connection.family === family).map(tuple),
      ),
      setOf(
        `peers${family}`,
        `${type} . inet_service`,
        ofFamily(policy.inbound.peers, family).map(({ address, localPort }) => endpoint({ address, port: localPort })),
      ),
    ]),
    setOf('inbound_ports', 'inet_service', ports.map(String)),
    ALIVE,
  ];
}

function setOf(name: string, type: string, elements: readonly string[]): NamedSet {
  return { name, type, isInterval: false, elements: [...new Set(elements)] };
}

const endpoint = ({ address, port }: { readonly address: string; readonly port: number }): string =>
  `${address} . ${port}`;
const tuple = (c: Connection): string => `${c.localAddress} . ${c.localPort} . ${c.remoteAddress} . ${c.remotePort}`;

export function ofFamily<T extends { readonly address: string }>(list: readonly T[], family: Family): readonly T[] {
  return list.filter(({ address }) => familyOf(address) === family);
}

export function addressesOfFamily(addresses: readonly string[], family: Family): readonly string[] {
  return addresses.filter((address) => familyOf(address) === family);
}

/** Canonical prefixes without those inside another: a set of intervals refuses overlaps. @throws ProxyVpnError E_PREFIX */
export function disjointPrefixes(cidrs: readonly string[], family: Family): readonly string[] {
  const prefixes = [...new Set(cidrs.map((cidr) => prefixText(parsePrefix(cidr))))].map(parsePrefix);
  const ours = prefixes.filter((prefix) => prefix.family === family);
  return ours.filter((inner) => !ours.some((outer) => outer !== inner && contains(outer, inner))).map(prefixText);
}

/** Both of one family. */
function contains(outer: Prefix, inner: Prefix): boolean {
  const bits = ({ address }: Prefix): string =>
    [...addressBytes(address)].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return inner.length >= outer.length && bits(inner).startsWith(bits(outer).slice(0, outer.length));
}

/**
 * A killswitch without exceptions judges every packet by itself: no rule then asks for a connection's state, and a
 * kernel that nobody asks does not track at all.
 */
function trackingOf(policy: FirewallPolicy, { isUntracked }: RulesetOptions): Tracking {
  if (!isUntracked) return 'all';
  const { inbound } = policy;
  const hasInbound = inbound.ports === 'all' || inbound.ports.length > 0 || inbound.peers.length > 0;
  const exceptions = [policy.existing, policy.bypassUsers, policy.bypass, policy.allowDns];
  const asksForState = hasInbound || policy.allowLan || exceptions.some((list) => list.length > 0);
  return policy.killswitch && !asksForState ? 'nothing' : 'others';
}

function rawChains(policy: FirewallPolicy): readonly Chain[] {
  const mark = hex(policy.fwmark);
  const tun = `"${policy.tun.name}"`;
  const why = 'tracking costs throughput, and nobody asks for the state';
  const hook = (name: 'prerouting' | 'output'): Chain['hook'] => ({
    type: 'filter',
    hook: name,
    priority: PRIORITY.raw,
    policy: 'accept',
  });
  return [
    {
      name: 'raw_prerouting',
      hook: hook('prerouting'),
      rules: [
        ...both(
          `from the tunnel: ${why}`,
          ({ ip, family }) => `${ip} daddr ${tunAddress(policy, family)} iifname ${tun} notrack accept`,
        ),
        ...ofProxies(
          policy,
          'source',
          `from a proxy: ${why}`,
          (match) => `${match} iifname != ${tun} notrack meta mark set ${mark} accept`,
        ),
      ],
    },
    {
      name: 'raw_output',
      hook: hook('output'),
      rules: [
        ...both(
          `into the tunnel: ${why}`,
          ({ ip, family }) => `${ip} saddr ${tunAddress(policy, family)} notrack accept`,
        ),
        ...ofProxies(
          policy,
          'destination',
          `to a proxy: ${why}`,
          (match) => `meta mark ${mark} ${match} notrack accept`,
        ),
      ],
    },
  ];
}

/** Before the routing decision: what must be routed, and checked by rp_filter, as without the tunnel. */
function prerouting(policy: FirewallPolicy, tracking: Tracking): readonly Chain[] {
  const mark = hex(policy.fwmark);
  const answers: Rule = { text: `iifname "${policy.tun.name}" goto from_tunnel`, why: 'the answers of the tunnel' };
  const notDiverted: readonly Rule[] = policy.names
    ? [
        // Not `th sport != 53 th dport != 53 return`: nft 1.0 makes one comparison of both, which is another claim.
        { text: 'udp dport 53 goto dns_from_outside', why: 'DNS is sent into the tunnel as well' },
        { text: 'udp sport 53 goto dns_from_outside', why: 'and so is what answers it' },
        onlyTcp,
      ]
    : [onlyTcp];
  const fromOutside: readonly Rule[] = [
    {
      text: `fib daddr type local meta mark set ${mark} return`,
      why: 'for this host or a port it publishes: strict rp_filter and the way to the container',
    },
    ...reply(tracking, `meta mark set ${mark}`, 'the answer of a container to a connection from outside'),
  ];
  return [
    { name: 'from_tunnel', hook: undefined, rules: fromTunnel(policy, tracking) },
    ...(policy.names ? [{ name: 'dns_from_outside', hook: undefined, rules: fromOutside }] : []),
    {
      name: 'prerouting',
      hook: { type: 'filter', hook: 'prerouting', priority: PRIORITY.mangle, policy: 'accept' },
      rules: [
        ...(tracking === 'all' ? [] : ofTunnel(policy, tracking)),
        { text: 'iifname "lo" return', why: 'from this host' },
        answers,
        ...both(
          "CVE-2019-14899: nobody outside may probe the tunnel's address",
          ({ ip, family }) => `${ip} daddr ${tunAddress(policy, family)} counter drop`,
        ),
        ...notDiverted,
        ...(policy.killswitch ? markInbound(policy) : []),
        ...fromOutside,
      ],
    },
  ];
}

/** By far the most packets are these, and each rule before them is paid for by all. */
function ofTunnel(policy: FirewallPolicy, tracking: Tracking): readonly Rule[] {
  const mark = hex(policy.fwmark);
  const tun = `"${policy.tun.name}"`;
  const fromProxy: readonly Rule[] =
    tracking === 'nothing'
      ? ofProxies(
          policy,
          'source',
          'from a proxy, for this host: strict rp_filter',
          (match) => `${match} iifname != ${tun} meta mark set ${mark} return`,
        )
      : [{ text: `meta mark ${mark} return`, why: 'from a proxy: marked in raw_prerouting' }];
  return [
    ...both(
      'the answers of the tunnel for this host',
      ({ ip, family }) => `${ip} daddr ${tunAddress(policy, family)} iifname ${tun} return`,
    ),
    ...fromProxy,
  ];
}

/** A rule for packets that answer; none where nothing is tracked. */
const reply = (tracking: Tracking, verdict: string, why: string): readonly Rule[] =>
  tracking === 'nothing' ? [] : [{ text: `ct direction reply ${verdict}`, why }];

const onlyTcp: Rule = { text: 'meta l4proto != tcp return', why: 'only TCP is sent into the tunnel' };

/** What is not for this host must not be sent into the tunnel again. */
function fromTunnel(policy: FirewallPolicy, tracking: Tracking): readonly Rule[] {
  const mark = hex(policy.fwmark);
  return [
    ...(tracking === 'nothing'
      ? []
      : [{ text: `ct status snat meta mark set ${mark} return`, why: 'for a container behind NAT' }]),
    ...both('for this host, by far the most', ({ ip, family }) => `${ip} daddr ${tunAddress(policy, family)} return`),
    { text: 'fib daddr type local return', why: 'for this host, at another of its addresses' },
    { text: `meta mark set ${mark}`, why: 'for a container' },
  ];
}

/** Type route: a packet whose mark changes here is routed again. */
function routeOutput(policy: FirewallPolicy): Chain {
  const mark = hex(policy.fwmark);
  const rules: readonly Rule[] = [
    ...both(
      'through the tunnel, by far the most: nothing more to ask',
      ({ ip, family }) => `${ip} saddr ${tunAddress(policy, family)} return`,
    ),
    { text: `meta mark ${mark} return`, why: 'marked from the start: to a proxy' },
    ...(policy.names ? [{ text: 'udp dport 53 goto dns_route', why: 'DNS is sent into the tunnel' }] : []),
    { text: 'meta l4proto != tcp return', why: 'only TCP is sent into the tunnel' },
    { text: 'oifname "lo" return', why: 'stays in this host' },
    ...(policy.existing.length > 0 ? ofExisting(mark) : []),
    {
      text: `ct direction reply meta mark set ${mark}`,
      why: 'the answer to a connection from outside goes back there',
    },
  ];
  return {
    name: 'route_output',
    hook: { type: 'route', hook: 'output', priority: PRIORITY.mangle, policy: 'accept' },
    rules,
  };
}

const ofExisting = (mark: string): readonly Rule[] =>
  both(
    'a connection older than the tunnel goes on outside it; a new one of the same ports does not',
    ({ ip, family }) =>
      `${ip} saddr . tcp sport . ${ip} daddr . tcp dport @existing${family} ${OPENED} meta mark set ${mark} return`,
  );
