/** What the user should know of this host's resolvers before DNS goes into the tunnel (pure). */
import { searchDomains } from '../dns/bypass.ts';
import { presentation } from '../dns/name.ts';
import { familyOf } from '../ip.ts';
import type { Config } from './config.ts';
import { isLinkLocal, parseResolvConf, remoteServers } from './resolver.ts';
import type { Snapshot } from './snapshot.ts';

/** @returns a sentence each */
export function resolverAdvice(
  { dns, ipv6, killswitch }: Pick<Config, 'dns' | 'ipv6' | 'killswitch'>,
  host: Pick<Snapshot, 'resolvConf' | 'nameServers' | 'isStubListening' | 'ipv6'>,
): readonly string[] {
  if (dns.mode === 'direct') return [];
  const advice: string[] = [];
  const asked = parseResolvConf(host.resolvConf);
  const remote = remoteServers(host.resolvConf);
  if (asked.length === 0 && !host.isStubListening) {
    advice.push('/etc/resolv.conf names no resolver, and none listens on loopback: no name can be resolved');
  } else if (remote.length === 0 && !host.isStubListening) {
    advice.push(`nothing listens on port 53 of ${asked.join(', ')}, the resolver of /etc/resolv.conf`);
  }
  // What is asked in the end: the servers themselves, or those behind a stub as far as it tells.
  const reached = remote.length > 0 ? remote : host.nameServers;
  const carriesIpv6 = ipv6 && host.ipv6 !== 'absent';
  if (!carriesIpv6 && reached.length > 0 && reached.every((server) => familyOf(server) === 6)) {
    advice.push('every resolver of this host has an IPv6 address, and the tunnel carries no IPv6: add an IPv4 one');
  }
  const linkLocal = reached.filter(isLinkLocal);
  if (linkLocal.length > 0 && linkLocal.length === reached.length) {
    advice.push(`queries to link-local resolvers (${linkLocal.join(', ')}) cannot be caught and are refused`);
  }
  const search = dns.mode === 'virtual' && dns.bypass.withDefaults ? searchDomains(host.resolvConf) : [];
  if (killswitch && search.length > 0) {
    const names = search.map(({ key }) => presentation(key)).join(', ');
    advice.push(
      `names below the search domains (${names}) do not exist while the killswitch is on; ` +
        'to reach them through the proxy: --dns-bypass none',
    );
  }
  return advice;
}
