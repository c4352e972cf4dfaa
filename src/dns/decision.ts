/**
 * What becomes of a question (pure): an address that stands for the name, a fixed answer, or a server to ask.
 *
 * A name that does not exist gets an address as well: only the proxy can tell, at CONNECT. So whatever programs ask to
 * find out *whether* something exists must be answered truthfully or with "no": special names, search lists, NAT64.
 */
import { addressBytes, type Family } from '../ip.ts';
import { type BypassRules, isBypassed } from './bypass.ts';
import { type DnsName, keysUpwards, labelsOf, nameFromText } from './name.ts';
import { CLASS, TYPE } from './numbers.ts';
import type { AnswerRecord } from './records.ts';

export type DnsMode = 'virtual' | 'over-tcp' | 'doh' | 'direct';

export interface DecisionRules {
  readonly mode: DnsMode;
  /** Whether the tunnel carries IPv6; if not, AAAA is answered "no such data". */
  readonly ipv6: boolean;
  readonly bypass: BypassRules;
  /** `virtual` mode: whether types other than addresses are asked of the servers of `--dns-server`. */
  readonly relaysOtherTypes: boolean;
  /** Whether the address is of the virtual ranges; 4 or 16 bytes. */
  readonly isVirtual: (address: Uint8Array) => boolean;
  /**
   * Names, by their keys, whose addresses are known: the proxy's own. An address made up for it would send whoever
   * connects to the proxy, our own daemon first, through the proxy to the proxy.
   */
  readonly hosts: ReadonlyMap<string, readonly Uint8Array[]>;
  /** Of fixed answers, seconds. */
  readonly ttl: number;
}

export interface Asked {
  readonly name: DnsName;
  readonly type: number;
  readonly class: number;
}

export type Decision =
  /** The address of this family that stands for the name. */
  | { readonly kind: 'address'; readonly family: Family; readonly hostname: string }
  /** The name that this virtual address stands for, if it does. */
  | { readonly kind: 'pointer'; readonly address: Uint8Array }
  | { readonly kind: 'records'; readonly records: readonly AnswerRecord[] }
  | { readonly kind: 'no-data' | 'no-such-name' | 'refused' }
  /** Ask through the proxy, by TCP or HTTPS. */
  | { readonly kind: 'relay' }
  /** Ask a resolver of the local network; where none may be asked: no such name. */
  | { readonly kind: 'lan' };

const NO_DATA: Decision = { kind: 'no-data' };
const NO_SUCH_NAME: Decision = { kind: 'no-such-name' };
const REFUSED: Decision = { kind: 'refused' };

export function decide(asked: Asked, rules: DecisionRules): Decision {
  const { type } = asked;
  // Zone transfers are streams of messages; TKEY and TSIG are no questions.
  if (type === TYPE.AXFR || type === TYPE.IXFR || type === TYPE.TKEY || type === TYPE.TSIG) return REFUSED;
  if (rules.mode === 'direct') return REFUSED;
  if (asked.class !== CLASS.IN) return rules.mode === 'virtual' ? REFUSED : { kind: 'relay' };
  return (
    knownHost(asked, rules) ?? specialName(asked, rules) ?? reverseName(asked, rules) ?? ordinaryName(asked, rules)
  );
}

function ordinaryName(asked: Asked, rules: DecisionRules): Decision {
  const { name, type } = asked;
  if (isBypassed(name, rules.bypass)) return { kind: 'lan' };
  if (rules.mode !== 'virtual') return { kind: 'relay' };
  switch (type) {
    case TYPE.A:
    case TYPE.AAAA:
      return addressOf(name, type === TYPE.A ? 4 : 6, rules);
    case TYPE.HTTPS:
    case TYPE.SVCB:
      // Their hints are addresses and QUIC: both lead around the tunnel (RFC 9460 §7).
      return NO_DATA;
    case TYPE.ANY:
      // RFC 8482 §4.2.
      return { kind: 'records', records: [{ type: 'HINFO', ttl: rules.ttl, data: { cpu: 'RFC8482', os: '' } }] };
    default:
      return rules.relaysOtherTypes ? { kind: 'relay' } : NO_DATA;
  }
}

function addressOf(name: DnsName, family: Family, rules: DecisionRules): Decision {
  // The root and the reverse trees exist and have no addresses.
  if (labelsOf(name.key).length === 0 || isUnder(name.key, ARPA)) return NO_DATA;
  // Nothing could be connected to by such a name: spaces, other bytes, or 192.0.2.1 as a name.
  if (name.hostname === undefined) return NO_SUCH_NAME;
  if (family === 6 && !rules.ipv6) return NO_DATA;
  return { kind: 'address', family, hostname: name.hostname };
}

function knownHost({ name, type }: Asked, { hosts, ttl }: DecisionRules): Decision | undefined {
  const addresses = hosts.get(name.key);
  if (addresses === undefined) return undefined;
  const wanted = type === TYPE.A ? 4 : type === TYPE.AAAA ? 16 : 0;
  const records = addresses
    .filter(({ length }) => length === wanted)
    .map((data) => ({ type: 'address', ttl, data }) as const);
  return records.length === 0 ? NO_DATA : { kind: 'records', records };
}

const keyOf = (text: string): string => nameFromText(text)?.key ?? '';
const ARPA = keyOf('arpa');
const LOCALHOST = keyOf('localhost');
const INVALID = keyOf('invalid');
const IPV4_ONLY = keyOf('ipv4only.arpa');
const RESOLVER = keyOf('resolver.arpa');
const IPV4_ONLY_ADDRESSES = ['192.0.0.170', '192.0.0.171'].map(addressBytes);
const LOOPBACK_4 = addressBytes('127.0.0.1');
const LOOPBACK_6 = addressBytes('::1');
const FIREFOX_CANARY = keyOf('use-application-dns.net');

/**
 * Names with a fixed meaning. `test`, `example` and `onion` are not among them: the proxy may know them, and their names
 * go to nobody else.
 */
function specialName({ name, type }: Asked, rules: DecisionRules): Decision | undefined {
  const { ttl } = rules;
  // RFC 6761 §6.3.
  if (isUnder(name.key, LOCALHOST)) {
    if (type === TYPE.A) return { kind: 'records', records: [{ type: 'address', ttl, data: LOOPBACK_4 }] };
    if (type === TYPE.AAAA) return { kind: 'records', records: [{ type: 'address', ttl, data: LOOPBACK_6 }] };
    return NO_DATA;
  }
  // RFC 6761 §6.4.
  if (isUnder(name.key, INVALID)) return NO_SUCH_NAME;
  if (rules.mode !== 'virtual') return undefined;
  // RFC 8880: any AAAA would say that there is a NAT64.
  if (name.key === IPV4_ONLY) {
    const records = IPV4_ONLY_ADDRESSES.map((data) => ({ type: 'address', ttl, data }) as const);
    if (type === TYPE.A) return { kind: 'records', records };
    return NO_DATA;
  }
  // RFC 9462 §6.4: discovery of an encrypted resolver, which there is none of.
  if (isUnder(name.key, RESOLVER)) return NO_DATA;
  // Tells Firefox not to resolve by itself (its "canary domain"): it would then connect by number.
  if (name.key === FIREFOX_CANARY) return NO_SUCH_NAME;
  return undefined;
}

/** Names of addresses: RFC 1035 §3.5, RFC 3596 §2.5. */
function reverseName({ name, type }: Asked, rules: DecisionRules): Decision | undefined {
  const address = reverseAddress(name.key);
  if (address === undefined) return undefined;
  if (rules.isVirtual(address)) return type === TYPE.PTR ? { kind: 'pointer', address } : NO_DATA;
  const isLoopback = address.length === 4 ? address[0] === 127 : Buffer.compare(address, LOOPBACK_6) === 0;
  if (!isLoopback) return undefined;
  if (type !== TYPE.PTR) return NO_DATA;
  return { kind: 'records', records: [{ type: 'PTR', ttl: rules.ttl, data: 'localhost' }] };
}

/** The address that `4.3.2.1.in-addr.arpa` or 32 nibbles under `ip6.arpa` name. @returns 4 or 16 bytes */
export function reverseAddress(key: string): Uint8Array | undefined {
  const labels = labelsOf(key);
  const [zone, top] = labels.slice(-2);
  const digits = labels.slice(0, -2).reverse();
  if (top !== 'arpa') return undefined;
  if (zone === 'in-addr' && digits.length === 4) {
    const bytes = digits.map((text) => (/^(0|[1-9]\d{0,2})$/.test(text) ? Number(text) : 256));
    return bytes.every((byte) => byte < 256) ? Uint8Array.from(bytes) : undefined;
  }
  if (zone === 'ip6' && digits.length === 32 && digits.every((text) => /^[0-9a-f]$/.test(text))) {
    return Uint8Array.from(Buffer.from(digits.join(''), 'hex'));
  }
  return undefined;
}

function isUnder(key: string, suffix: string): boolean {
  if (!key.endsWith(suffix)) return false;
  for (const parent of keysUpwards(key)) if (parent.length <= suffix.length) return parent === suffix;
  return false;
}
