/**
 * What may stand behind each flag: text to value, or a usage error with a hint (pure).
 *
 * A slip of the hand puts the proxy URL behind any flag, so no text that could hold a password is repeated.
 */
import { EXIT, ProxyVpnError } from '../errors.ts';
import { canonicalAddress, type Prefix, parsePrefix, prefixText } from '../ip.ts';
import { parseUpstream, type UpstreamUrl } from '../proxy/upstream-url.ts';

/** Which ports may be reached from outside while the killswitch is on. */
export interface InboundPorts {
  readonly ports: readonly number[] | 'all';
  /** The SSH session that typed `up` lives on. */
  readonly sshPeer: boolean;
}

/** Reads one occurrence; `previous` is what the flag's earlier occurrences (or its default) gave. */
export type Parser<T> = (text: string, previous: T) => T;

/** @returns an E_USAGE error, exit code 2 */
export function usageError(message: string, hint: string): ProxyVpnError {
  return new ProxyVpnError('E_USAGE', message, { hint, exitCode: EXIT.usage });
}

/** The text in quotes, or `this value` where it might be a proxy URL or would spoil the terminal. */
export function shown(text: string): string {
  const isPlain = /^[A-Za-z0-9_.,+/-]{1,48}$/.test(text) || /^[0-9a-fA-F:.,/]{1,48}$/.test(text);
  return isPlain ? `'${text}'` : 'this value';
}

/** A whole number in decimal. */
export function integer(flag: string, least: number, most: number): Parser<number> {
  return (text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : -1;
    if (value >= least && value <= most) return value;
    throw usageError(`${flag}: ${shown(text)} is out of range`, `give a whole number from ${least} to ${most}`);
  };
}

/** Seconds, decimals allowed, to milliseconds. 0 passes only where it has a meaning. */
export function seconds(flag: string, least: number, most: number, zero?: string): Parser<number> {
  return (text) => {
    const value = /^\d{1,9}(\.\d{1,3})?$/.test(text) ? Number(text) : -1;
    if ((value >= least && value <= most) || (value === 0 && zero !== undefined)) return Math.round(value * 1000);
    const range = `give seconds from ${least} to ${most}${zero === undefined ? '' : `, or 0 for ${zero}`}`;
    throw usageError(`${flag}: ${shown(text)} is out of range`, range);
  };
}

/** MiB to bytes. */
export function mebibytes(flag: string, least: number, most: number): Parser<number> {
  const count = integer(flag, least, most);
  return (text, previous) => count(text, previous) * 1024 * 1024;
}

/** The proxy; a second one is not a fallback but a mistake. */
export function proxyUrl(text: string, previous: UpstreamUrl | undefined): UpstreamUrl {
  if (previous !== undefined) throw usageError('--proxy is given twice', 'a tunnel has one proxy');
  return parseUpstream(text);
}

/** Resolvers, comma-separated and repeatable; `none` for none at all. */
export function dnsServers(text: string, previous: readonly string[] | undefined): readonly string[] {
  const earlier = previous ?? [];
  if (text === 'none') return earlier;
  const hint = 'give IP addresses, as 10.0.0.53,fd00::53, or none';
  const added = words(text, '--allow-dns', hint).map((word) => {
    const address = canonicalAddress(word);
    if (address === undefined) throw usageError(`--allow-dns: ${shown(word)} is not an IP address`, hint);
    return address;
  });
  return [...new Set([...earlier, ...added])];
}

/** Networks, comma-separated and repeatable. */
export function bypassPrefixes(text: string, previous: readonly Prefix[]): readonly Prefix[] {
  const all = new Map(previous.map((prefix) => [prefixText(prefix), prefix]));
  for (const word of words(text, '--bypass', 'give networks, as 192.168.0.0/16,fd00::/8')) {
    const prefix = prefixOf(word);
    if (prefix.length === 0) {
      throw usageError(`--bypass ${prefixText(prefix)} would leave nothing to the tunnel`, 'give smaller networks');
    }
    all.set(prefixText(prefix), prefix);
  }
  return [...all.values()];
}

/** User names or uids; the names are looked up later. */
export function bypassUserNames(text: string, previous: readonly string[]): readonly string[] {
  const hint = 'give user names or uids, as backup,1001';
  const names = words(text, '--bypass-user', hint);
  for (const name of names) {
    // useradd(8) CAVEATS, and what directory services add to it. uid -1 means "none" to the kernel.
    const isUid = /^\d{1,10}$/.test(name) && Number(name) < 0xffffffff;
    if (!isUid && !/^[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?$/.test(name)) {
      throw usageError(`--bypass-user: ${shown(name)} is neither a user name nor a uid`, hint);
    }
  }
  return [...new Set([...previous, ...names])];
}

/** `22,8080`, `all` or `none`. */
export function inboundPorts(text: string, previous: InboundPorts | undefined): InboundPorts {
  const hint = 'give ports, as 22,8080, or all, or none';
  const earlier = previous?.ports ?? [];
  if (text === 'all' || earlier === 'all') return { ports: 'all', sshPeer: true };
  if (text === 'none') return { ports: [], sshPeer: false };
  const ports = words(text, '--allow-inbound', hint).map((word) => {
    const port = /^\d{1,5}$/.test(word) ? Number(word) : 0;
    if (port < 1 || port > 65535) throw usageError(`--allow-inbound: ${shown(word)} is not a port`, hint);
    return port;
  });
  return { ports: [...new Set([...earlier, ...ports])].sort((a, b) => a - b), sshPeer: true };
}

/** One of a few words. */
export function oneOf<W extends string>(flag: string, ...choices: readonly W[]): Parser<W> {
  return (text) => {
    const choice = choices.find((word) => word === text);
    if (choice === undefined) throw usageError(`${flag}: ${shown(text)} is unknown`, `give ${choices.join(' or ')}`);
    return choice;
  };
}

/** dev_valid_name(), net/core/dev.c; without `%`, which asks the kernel for a number. */
export function interfaceName(text: string): string {
  if (/^[^\s/:%]{1,15}$/.test(text) && /^[\x21-\x7e]+$/.test(text) && text !== '.' && text !== '..') return text;
  throw usageError('--tun: not an interface name', 'give 1 to 15 characters without space, slash, colon and percent');
}

/** Decimal or 0x; 0 is no mark at all. */
export function fwmark(text: string): number {
  const value = /^(\d{1,10}|0[xX][0-9a-fA-F]{1,8})$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= 0xffffffff) return value;
  throw usageError(`--fwmark: ${shown(text)} is not a mark`, 'give a number from 1 to 0xffffffff');
}

/** A path; only the empty one is refused here. */
export function filePath(text: string, flag = '--proxy-file'): string {
  if (text !== '' && !text.includes('\0')) return text;
  const what = flag === '--config' ? 'the configuration' : 'the proxy URL';
  throw usageError(`${flag}: the name of the file is empty`, `give a file that holds ${what}`);
}

/** Items of a comma-separated list; none of them empty. */
function words(text: string, flag: string, hint: string): string[] {
  const items = text.split(',').map((item) => item.trim());
  if (items.includes('')) throw usageError(`${flag}: an item of the list is empty`, hint);
  return items;
}

function prefixOf(word: string): Prefix {
  try {
    return parsePrefix(word);
  } catch (error) {
    if (!(error instanceof ProxyVpnError)) throw error;
    const isPresentable = shown(word) !== 'this value';
    throw usageError(
      isPresentable ? `--bypass: ${error.message}` : '--bypass: not a network',
      error.hint ?? 'give networks, as 192.168.0.0/16',
    );
  }
}
