/**
 * What became of a probe: through the tunnel, stopped, or gone around it (pure).
 *
 * The best evidence counts. A packet that was seen to leave (root only) has left, whatever else is said; one that the
 * kernel refused with EPERM has not. Where neither tells, the route that the kernel would choose says where the packet
 * went. TCP is the hard case: a reset may come from our own filter or from outside. Then the filter's counters
 * tell (CAP_NET_ADMIN), else whether a killswitch is in force.
 */

import { LAN_NETWORKS } from '../../firewall/local-networks.ts';
import type { FirewallPolicy } from '../../firewall/policy.ts';
import { covers, familyOf, parsePrefix } from '../../ip.ts';
import type { LeakProbeResult } from '../../native.ts';
import type { ProbeSpec } from './probes.ts';

/** `permitted`: it went around the tunnel as the tunnel was told. `not-tried`: this user may not send such a packet. */
export type Verdict = 'tunnel' | 'stopped' | 'permitted' | 'leaks' | 'not-tried' | 'unknown';

export interface Judgement {
  readonly verdict: Verdict;
  /** What stopped it: the packet filter, a route, or no route; null unless stopped. */
  readonly by: 'filter' | 'route' | 'no route' | null;
  /** One phrase: how that shows. */
  readonly why: string;
}

/** Where the kernel would send it: a device's name, or an errno. undefined: not known. */
export type Way = { readonly device: string } | { readonly symbol: string } | undefined;

export interface Evidence {
  readonly result: LeakProbeResult;
  readonly way: Way;
  /** Names of the devices by which it was seen to leave; undefined: nobody watched. */
  readonly seenOn: readonly string[] | undefined;
}

/** What is known of the tunnel. */
export interface TunnelFacts {
  /** Name of the TUN device; undefined: no tunnel. */
  readonly tun: string | undefined;
  /** What else packets of the tunnel may be seen on without having left. */
  readonly policy: Pick<FirewallPolicy, 'allowDns' | 'allowLan' | 'bypass' | 'bypassUsers'> | undefined;
  readonly uid: number;
  /** Whether resets on the way around the tunnel were ours; undefined: not known. */
  readonly areResetsOurs: boolean | undefined;
  /** Addresses of this host. */
  readonly ownAddresses: readonly string[];
}

const stopped = (by: NonNullable<Judgement['by']>, why: string): Judgement => ({ verdict: 'stopped', by, why });
const told = (verdict: Exclude<Verdict, 'stopped'>, why: string): Judgement => ({ verdict, by: null, why });

export function judge(spec: ProbeSpec, evidence: Evidence, facts: TunnelFacts): Judgement {
  const { result, way, seenOn } = evidence;
  if (['socket', 'mark', 'device', 'source'].includes(result.step)) return notSent(result);
  if (seenOn !== undefined) {
    const left = seenOn.filter((device) => device !== 'lo' && device !== facts.tun);
    if (left.length > 0) return gone(spec, `seen leaving by ${left.join(', ')}${outcome(result)}`, facts);
    if (facts.tun !== undefined && seenOn.includes(facts.tun)) return told('tunnel', inTunnel(result));
  }
  const device = way !== undefined && 'device' in way ? way.device : undefined;
  const refusal = refusedHere(result, facts);
  if (refusal !== undefined) return refusal;
  if (device !== undefined && device === facts.tun) return told('tunnel', inTunnel(result));
  if (device === 'lo') return stopped('route', 'stays in this host');
  if (result.isConnected || result.answer.length > 0)
    return gone(spec, `${answered(result)} by ${device ?? 'an unknown way'}`, facts);
  const isForeignIcmp = result.icmpFrom !== '' && !facts.ownAddresses.includes(result.icmpFrom);
  if (isForeignIcmp) return gone(spec, `${result.icmpFrom} sent an ICMP error: ${result.code}`, facts);
  if (spec.packet.kind === 'tcp' && result.code === 'ECONNREFUSED') return afterReset(spec, evidence, facts);
  if (seenOn !== undefined) return told('unknown', `sent, but seen on no device${outcome(result)}`);
  if (device === undefined) return told('unknown', `nothing tells which way it went${outcome(result)}`);
  return gone(spec, `sent by ${device}${outcome(result)}`, facts);
}

/** The packet was never made. */
function notSent({ step, code }: LeakProbeResult): Judgement {
  if (code === 'EPERM' || code === 'EACCES') return told('not-tried', `this user may not (${code} at ${step})`);
  if (code === 'EAFNOSUPPORT' || code === 'EADDRNOTAVAIL' || code === 'EPROTONOSUPPORT')
    return told('not-tried', `this host cannot (${code} at ${step})`);
  return told('unknown', `${code} at ${step}`);
}

/** ICMP codes of "administratively prohibited": RFC 792 and RFC 1812 section 5.2.7.1; RFC 4443 section 3.1. */
const PROHIBITED: readonly string[] = ['3/9', '3/10', '3/13', '1/1'];

/** Errors that this host itself gave before anything left. */
function refusedHere(result: LeakProbeResult, facts: TunnelFacts): Judgement | undefined {
  const { step, code, icmpFrom } = result;
  const isOwnIcmp = icmpFrom !== '' && facts.ownAddresses.includes(icmpFrom);
  if (isOwnIcmp && PROHIBITED.includes(`${result.icmpType}/${result.icmpCode}`))
    return stopped('filter', `refused with "administratively prohibited" (${code})`);
  if (step !== 'connect' && step !== 'send') return undefined;
  if (code === 'EPERM') return stopped('filter', 'refused (EPERM)');
  if (['ENETUNREACH', 'EADDRNOTAVAIL', 'ENODEV', 'EHOSTUNREACH', 'EACCES', 'EINVAL'].includes(code)) return noWay(code);
  return undefined;
}

function noWay(code: string): Judgement {
  if (code === 'ENETUNREACH' || code === 'EADDRNOTAVAIL' || code === 'ENODEV')
    return stopped('no route', `no route (${code})`);
  return stopped('route', `refused by a route (${code})`);
}

/** It may be the filter's reset, or one from outside: then the SYN has left. */
function afterReset(spec: ProbeSpec, { way, seenOn }: Evidence, facts: TunnelFacts): Judgement {
  const byFilter = stopped('filter', 'reset by the packet filter (ECONNREFUSED)');
  // Whoever watches would have seen the SYN.
  if (seenOn !== undefined || facts.areResetsOurs === true) return byFilter;
  const device = way !== undefined && 'device' in way ? way.device : 'an unknown way';
  if (facts.areResetsOurs === false) return gone(spec, `sent by ${device}, refused from outside (ECONNREFUSED)`, facts);
  return told('unknown', `reset (ECONNREFUSED) by the packet filter or by somebody outside`);
}

/** How the tunnel dealt with it. */
function inTunnel(result: LeakProbeResult): string {
  if (result.answer.length > 0) return 'answered by the tunnel';
  if (result.isConnected) return 'connected';
  switch (result.code) {
    case 'ECONNREFUSED':
      return 'refused by proxy or destination (ECONNREFUSED)';
    case 'ETIMEDOUT':
      return 'no answer yet';
    case '':
      return 'sent';
    default:
      return `not reached by the proxy (${result.code})`;
  }
}

function answered(result: LeakProbeResult): string {
  return result.isConnected ? 'connected' : 'answered';
}

function outcome(result: LeakProbeResult): string {
  if (result.isConnected || result.answer.length > 0) return `, and ${answered(result)}`;
  return result.code === '' || result.code === 'ETIMEDOUT' ? ', no answer' : `, ${result.code}`;
}

/** It left around the tunnel: as it was told, or a leak. */
function gone(spec: ProbeSpec, why: string, facts: TunnelFacts): Judgement {
  const permission = permissionOf(spec, facts);
  return permission === undefined ? told('leaks', why) : told('permitted', `${permission}; ${why}`);
}

function permissionOf(spec: ProbeSpec, { policy, uid }: TunnelFacts): string | undefined {
  if (policy === undefined) return undefined;
  const { address, port, kind } = spec.packet;
  const isIn = (network: string): boolean => covers(parsePrefix(network), address);
  const isDns = port === 53 && (kind === 'tcp' || kind === 'udp');
  if (policy.bypassUsers.includes(uid)) return 'this user goes around the tunnel (--bypass-user)';
  if (isDns && policy.allowDns.includes(address)) return 'an allowed resolver (--allow-dns)';
  if (isDns) return undefined;
  if (policy.bypass.some(isIn)) return 'a bypassed network (--bypass)';
  const lan = LAN_NETWORKS[familyOf(address)];
  return policy.allowLan && lan.some(isIn) ? 'the LAN is allowed (--lan)' : undefined;
}
