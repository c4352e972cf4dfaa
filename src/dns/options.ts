/**
 * What may stand behind the DNS flags, and what they mean together: text to values, or a usage error (pure).
 *
 * A slip of the hand puts the proxy URL behind any flag, so no text that could hold a password is repeated.
 */
import { EXIT, ProxyVpnError } from '../errors.ts';
import { addressBytes, canonicalAddress, type Family, type Prefix, parsePrefix, prefixText } from '../ip.ts';
import { type BypassRules, bypassRules, NO_BYPASS, searchDomains } from './bypass.ts';
import type { DnsMode } from './decision.ts';
import type { DohUrl } from './doh-upstream.ts';
import { type DnsName, nameFromText } from './name.ts';
import { DNS_PORT, type Endpoint, serverText } from './upstream.ts';
import { DEFAULT_RANGE_4, DEFAULT_RANGE_6, hasPrefix, TUNNEL_PREFIXES } from './virtual-range.ts';

/** `--dns-server`: either addresses, for DNS over TCP, or one URL. */
export interface DnsServers {
  readonly addresses: readonly Endpoint[];
  readonly url: DohUrl | undefined;
}

/** `--dns-bypass`. */
export interface BypassSuffixes {
  readonly names: readonly DnsName[];
  /** False: `none` was given, so that `.local`, single labels and search domains are resolved like others. */
  readonly withDefaults: boolean;
}

/** `--dns-range`. */
export interface VirtualPrefixes {
  readonly v4: Prefix;
  readonly v6: Prefix;
}

/** `--dns-other`: what types other than addresses get in `virtual` mode. */
export type OtherTypes = 'relay' | 'no-data';

const MODES = ['virtual', 'over-tcp', 'doh', 'direct'] as const satisfies readonly DnsMode[];

/** `--dns`. @throws ProxyVpnError E_USAGE, as all of these do */
export function dnsMode(text: string): DnsMode {
  const mode = MODES.find((word) => word === text);
  if (mode !== undefined) return mode;
  throw usage(`--dns: ${shown(text)} is unknown`, `give ${MODES.join(', ')}`);
}

/** `--dns-other`. */
export function otherTypes(text: string): OtherTypes {
  if (text === 'relay' || text === 'no-data') return text;
  throw usage(`--dns-other: ${shown(text)} is unknown`, 'give relay or no-data');
}

const SERVER_HINT = 'give IP addresses, as 10.0.0.53,[fd00::53]:5353, or one URL, as https://dns.example/dns-query';

/** `--dns-server`, comma-separated and repeatable. */
export function dnsServers(text: string, previous: DnsServers | undefined): DnsServers {
  const addresses = new Map((previous?.addresses ?? []).map((server) => [serverText(server), server]));
  let url = previous?.url;
  for (const word of words(text, '--dns-server', SERVER_HINT)) {
    if (/^[a-z][a-z0-9+.-]*:\/\//i.test(word)) {
      if (url !== undefined) throw usage('--dns-server: only one URL can be used', SERVER_HINT);
      url = dohUrl(word);
    } else {
      const server = endpoint(word);
      addresses.set(serverText(server), server);
    }
  }
  if (url !== undefined && addresses.size > 0) {
    throw usage('--dns-server: addresses and a URL exclude each other', SERVER_HINT);
  }
  return { addresses: [...addresses.values()], url };
}

function endpoint(word: string): Endpoint {
  const [, host, port] =
    /^\[([^\]]+)\](?::(\d{1,5}))?$/.exec(word) ?? /^([^:]+):(\d{1,5})$/.exec(word) ?? /^(.+?)()$/.exec(word) ?? [];
  const address = canonicalAddress(host ?? '');
  if (address === undefined) throw usage(`--dns-server: ${shown(word)} is not an IP address`, SERVER_HINT);
  const number = port === undefined || port === '' ? DNS_PORT : Number(port);
  if (number < 1 || number > 65535) throw usage(`--dns-server: ${shown(word)} has no valid port`, SERVER_HINT);
  return { address, port: number };
}

/** An https URL; the `{?dns}` of its template form (RFC 8484 §3) is dropped, for we use POST. */
export function dohUrl(text: string): DohUrl {
  const fail = (why: string): ProxyVpnError => usage(`--dns-server: the URL ${why}`, SERVER_HINT);
  let url: URL;
  try {
    url = new URL(text.replace(/\{\?dns\}$/, ''));
  } catch {
    throw fail('cannot be read');
  }
  if (url.protocol !== 'https:') throw fail('is not an https URL');
  if (url.username !== '' || url.password !== '') throw fail('holds a user name or password');
  if (url.hash !== '') throw fail('has a fragment');
  const literal = canonicalAddress(url.hostname.replace(/^\[(.*)\]$/, '$1'));
  const host = literal ?? nameFromText(url.hostname)?.hostname;
  if (host === undefined) throw fail('has no host name');
  const port = url.port === '' ? 443 : Number(url.port);
  return { host, port, authority: url.host, path: `${url.pathname}${url.search}` };
}

/** `--dns-bypass`, comma-separated and repeatable; `.corp.example`, or `none` for none of the default ones. */
export function bypassSuffixes(text: string, previous: BypassSuffixes | undefined): BypassSuffixes {
  const hint = 'give names, as .corp.example,home.arpa, or none';
  const names = new Map((previous?.names ?? []).map((name) => [name.key, name]));
  let withDefaults = previous?.withDefaults ?? true;
  for (const word of words(text, '--dns-bypass', hint)) {
    if (word === 'none') {
      withDefaults = false;
      continue;
    }
    const name = nameFromText(word.replace(/^\*?\./, ''));
    if (name === undefined) throw usage(`--dns-bypass: ${shown(word)} is not a domain name`, hint);
    names.set(name.key, name);
  }
  return { names: [...names.values()], withDefaults };
}

/** At least so many addresses, or every name would soon be in use. */
const LONGEST_PREFIX = { 4: 24, 6: 112 } as const;
const SHORTEST_PREFIX = { 4: 8, 6: 16 } as const;
/** This host, link-local, multicast, and what no packet may carry (RFC 6890). */
const UNUSABLE = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/16', 'fe80::/10', 'ff00::/8'].map(
  parsePrefix,
);

/** `--dns-range`: one network of each family, comma-separated or repeated; the other family keeps its default. */
export function virtualPrefixes(text: string, previous: VirtualPrefixes | undefined): VirtualPrefixes {
  const hint = `give networks, as ${prefixText(DEFAULT_RANGE_4)},${prefixText(DEFAULT_RANGE_6)}`;
  const ranges = { v4: previous?.v4 ?? DEFAULT_RANGE_4, v6: previous?.v6 ?? DEFAULT_RANGE_6 };
  for (const word of words(text, '--dns-range', hint)) {
    const prefix = prefixOf(word, hint);
    const { family, length } = prefix;
    const fail = (why: string): ProxyVpnError => usage(`--dns-range ${prefixText(prefix)} ${why}`, hint);
    if (length < SHORTEST_PREFIX[family] || length > LONGEST_PREFIX[family]) {
      throw fail(`must be a /${SHORTEST_PREFIX[family]} to /${LONGEST_PREFIX[family]}`);
    }
    if (UNUSABLE.some((other) => overlap(prefix, other))) throw fail('holds addresses that cannot be connected to');
    if (family === 6 && TUNNEL_PREFIXES.some((other) => overlap(prefix, other))) {
      throw fail("holds the tunnel's own addresses");
    }
    if (family === 4) ranges.v4 = prefix;
    else ranges.v6 = prefix;
  }
  return ranges;
}

function overlap(a: Prefix, b: Prefix): boolean {
  if (a.family !== b.family) return false;
  return hasPrefix(addressBytes(a.address), addressBytes(b.address), Math.min(a.length, b.length));
}

/** The DNS flags as the parsers above gave them; undefined: not given. */
export interface DnsFlags {
  readonly mode: DnsMode | undefined;
  readonly servers: DnsServers | undefined;
  readonly bypass: BypassSuffixes | undefined;
  readonly other: OtherTypes | undefined;
  readonly ranges: VirtualPrefixes | undefined;
}

/** What the flags mean together. */
export interface DnsConfig {
  readonly mode: DnsMode;
  /** Whom `relay` asks: DNS over TCP, or HTTPS; undefined: nobody. */
  readonly relay:
    | { readonly over: 'tcp'; readonly servers: readonly Endpoint[] }
    | { readonly over: 'https'; readonly url: DohUrl }
    | undefined;
  readonly relaysOtherTypes: boolean;
  readonly bypass: BypassSuffixes;
  readonly ranges: VirtualPrefixes;
}

/** @throws ProxyVpnError E_USAGE where one flag makes another meaningless */
export function dnsConfig(flags: DnsFlags): DnsConfig {
  const mode = flags.mode ?? 'virtual';
  if (mode === 'direct') refuseInDirect(flags);
  if (flags.other !== undefined && mode !== 'virtual') {
    throw usage('--dns-other belongs to --dns virtual', `with --dns ${mode} every type is asked alike`);
  }
  const relay = relayOf(flags.servers);
  if (mode === 'over-tcp' && relay?.over !== 'tcp') {
    throw usage('--dns over-tcp needs the addresses of DNS servers', 'add --dns-server IP');
  }
  if (mode === 'doh' && relay?.over !== 'https') {
    throw usage('--dns doh needs the URL of a DNS server', 'add --dns-server https://NAME/dns-query');
  }
  if (flags.other === 'relay' && relay === undefined) {
    throw usage('--dns-other relay needs a DNS server', 'add --dns-server IP, or an https URL');
  }
  return {
    mode,
    relay,
    relaysOtherTypes: mode === 'virtual' && relay !== undefined && flags.other !== 'no-data',
    bypass: flags.bypass ?? { names: [], withDefaults: true },
    ranges: flags.ranges ?? { v4: DEFAULT_RANGE_4, v6: DEFAULT_RANGE_6 },
  };
}

function refuseInDirect(flags: DnsFlags): void {
  const meaningless = [
    ['--dns-server', flags.servers],
    ['--dns-bypass', flags.bypass],
    ['--dns-other', flags.other],
    ['--dns-range', flags.ranges],
  ] as const;
  for (const [flag, value] of meaningless) {
    if (value === undefined) continue;
    throw usage(`${flag} has no meaning with --dns direct`, 'there the host asks the resolvers of --allow-dns itself');
  }
}

function relayOf(servers: DnsServers | undefined): DnsConfig['relay'] {
  if (servers === undefined) return undefined;
  if (servers.url !== undefined) return { over: 'https', url: servers.url };
  return servers.addresses.length > 0 ? { over: 'tcp', servers: servers.addresses } : undefined;
}

/**
 * Which names are of the local network. `.local`, single labels and the search domains are so by default where an
 * address would be made up for them; servers that are really asked may know them.
 * @param resolvConf text of /etc/resolv.conf
 */
export function bypassOf({ mode, bypass }: Pick<DnsConfig, 'mode' | 'bypass'>, resolvConf: string): BypassRules {
  if (mode === 'direct') return NO_BYPASS;
  if (mode !== 'virtual' || !bypass.withDefaults) return bypassRules(bypass.names, false);
  const local = ['local'].map((text) => nameFromText(text)).filter((name) => name !== undefined);
  return bypassRules([...local, ...searchDomains(resolvConf), ...bypass.names], true);
}

function usage(message: string, hint: string): ProxyVpnError {
  return new ProxyVpnError('E_USAGE', message, { hint, exitCode: EXIT.usage });
}

/** The text in quotes, or `this value` where it might be a proxy URL or would spoil the terminal. */
function shown(text: string): string {
  return /^[A-Za-z0-9_.,+/-]{1,48}$/.test(text) || /^[0-9a-fA-F:.,/[\]]{1,48}$/.test(text) ? `'${text}'` : 'this value';
}

function words(text: string, flag: string, hint: string): string[] {
  const items = text.split(',').map((item) => item.trim());
  if (items.includes('')) throw usage(`${flag}: an item of the list is empty`, hint);
  return items;
}

function prefixOf(word: string, hint: string): Prefix & { readonly family: Family } {
  try {
    return parsePrefix(word);
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) throw error;
    throw usage(
      shown(word) === 'this value' ? '--dns-range: not a network' : `--dns-range: ${error.message}`,
      error.hint ?? hint,
    );
  }
}
