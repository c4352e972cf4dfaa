/** Names: which name servers this host asks, and the addresses of the upstream proxy. */
import dns from 'node:dns/promises';
import fs from 'node:fs/promises';
import { ProxyVpnError } from '../errors.ts';
import { canonicalAddress } from '../ip.ts';

/** The `nameserver` lines of resolv.conf(5) as canonical addresses; what is none is passed over, as glibc does (pure). */
export function parseResolvConf(text: string): readonly string[] {
  const servers = new Set<string>();
  for (const line of text.split('\n')) {
    const [keyword, value] = line.trim().split(/\s+/);
    if (keyword !== 'nameserver' || value === undefined) continue;
    // A zone id (fe80::1%eth0) has no place in a packet filter's address set.
    const address = canonicalAddress(value.replace(/%.*$/, ''));
    if (address !== undefined) servers.add(address);
  }
  return [...servers];
}

function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.');
}

/** Such an address means nothing without its interface. */
export function isLinkLocal(address: string): boolean {
  return /^fe[89ab]/i.test(address) || address.startsWith('169.254.');
}

/** The name servers beyond this host: a stub on loopback is not one, it asks others itself. */
export function remoteServers(text: string): readonly string[] {
  return parseResolvConf(text).filter((server) => !isLoopback(server));
}

/**
 * Whether a UDP socket of port 53 is bound to loopback or to all addresses (pure).
 * @param text of /proc/net/udp or udp6, proc(5): addresses in hexadecimal, words of 32 bits in the host's byte order
 */
export function isListeningOnLoopback(text: string): boolean {
  return text.split('\n').some((line) => {
    const [address = '', port] = (line.trim().split(/\s+/)[1] ?? '').split(':');
    if (port !== '0035') return false;
    // 127.0.0.53 is 3500007F; ::1 ends with 01000000, an address of all programs is all zeros.
    return /^0+$/.test(address) || /^[0-9A-F]{6}7F$/.test(address) || /^0{24}01000000$/.test(address);
  });
}

/** systemd-resolved writes the servers behind its stub here, systemd-resolved.service(8). */
const RESOLVED_UPSTREAMS = '/run/systemd/resolve/resolv.conf';

/**
 * The servers that `--allow-dns` stands for when it is not given: /etc/resolv.conf; if that is empty
 * or holds only a loopback stub, the file of systemd-resolved; else none.
 */
export async function systemNameServers(
  readFile: (path: string) => Promise<string> = (path) => fs.readFile(path, 'utf8'),
): Promise<readonly string[]> {
  for (const file of ['/etc/resolv.conf', RESOLVED_UPSTREAMS]) {
    const servers = remoteServers(await readFile(file).catch(() => ''));
    if (servers.length > 0) return servers;
  }
  return [];
}

/** All addresses of a host by the system's resolver (so /etc/hosts counts), or errno-like code. */
export type Lookup = (host: string) => Promise<readonly string[]>;

const systemLookup: Lookup = async (host) =>
  (await dns.lookup(host, { all: true, order: 'verbatim' })).map(({ address }) => address);

/**
 * The proxy's addresses, both families, the resolver's order kept. A literal is itself.
 * @throws ProxyVpnError E_PROXY_RESOLVE
 */
export async function resolveProxy(host: string, lookup: Lookup = systemLookup): Promise<readonly string[]> {
  const literal = canonicalAddress(host);
  if (literal !== undefined) return [literal];
  try {
    const addresses = (await lookup(host)).map(canonicalAddress).filter((address) => address !== undefined);
    if (addresses.length > 0) return [...new Set(addresses)];
  } catch (cause) {
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause);
    throw new ProxyVpnError('E_PROXY_RESOLVE', `cannot resolve the proxy's name ${host}: ${code}`, {
      hint: 'check the name, or give the proxy as an IP address',
      cause,
    });
  }
  throw new ProxyVpnError('E_PROXY_RESOLVE', `the proxy's name ${host} has no address`, {
    hint: 'check the name, or give the proxy as an IP address',
  });
}
