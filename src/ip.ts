/** IP addresses and prefixes as text and bytes (a leaf over ipaddr.js). */
import ipaddr from 'ipaddr.js';
import { EXIT, ProxyVpnError } from './errors.ts';

export type Family = 4 | 6;

export interface Prefix {
  readonly family: Family;
  /** Canonical text, host bits cleared. */
  readonly address: string;
  /** Bits. */
  readonly length: number;
}

/** Canonical text of an address (RFC 5952 for IPv6), or undefined when it is none. Zone ids are refused. */
export function canonicalAddress(text: string): string | undefined {
  if (text.includes('%') || text.includes('/')) return undefined;
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return text;
  if (!text.includes(':') || !ipaddr.IPv6.isValid(text)) return undefined;
  return ipaddr.IPv6.parse(text).toRFC5952String();
}

export function familyOf(address: string): Family {
  return address.includes(':') ? 6 : 4;
}

/** 4 or 16 bytes, network order. @throws ProxyVpnError E_ADDRESS */
export function addressBytes(address: string): Uint8Array {
  const canonical = canonicalAddress(address);
  if (canonical === undefined)
    throw new ProxyVpnError('E_ADDRESS', `not an IP address: ${address}`, { exitCode: EXIT.usage });
  return Uint8Array.from(ipaddr.parse(canonical).toByteArray());
}

/** @param bytes 4 or 16 bytes, network order */
export function addressText(bytes: Uint8Array): string {
  return canonicalAddress(ipaddr.fromByteArray([...bytes]).toString()) ?? '';
}

/** `10.0.0.0/8`, `fd00::/8`, or one address. @throws ProxyVpnError E_PREFIX */
export function parsePrefix(text: string): Prefix {
  const fail = (why: string, hint: string): never => {
    throw new ProxyVpnError('E_PREFIX', `not a network: ${text} (${why})`, { hint, exitCode: EXIT.usage });
  };
  const [host = '', bits, ...rest] = text.split('/');
  const address = canonicalAddress(host);
  if (address === undefined || rest.length > 0) return fail('no IP address', 'write 192.168.0.0/16 or fd00::/8');
  const family = familyOf(address);
  const longest = family === 4 ? 32 : 128;
  const length = bits === undefined ? longest : /^\d{1,3}$/.test(bits) ? Number(bits) : -1;
  if (length < 0 || length > longest) return fail(`prefix length must be 0 to ${longest}`, 'write 192.168.0.0/16');
  const network = addressBytes(address);
  let hostBits = false;
  for (let bit = length; bit < longest; bit++) {
    const mask = 0x80 >> (bit & 7);
    const byte = network[bit >> 3] ?? 0;
    if (byte & mask) hostBits = true;
    network[bit >> 3] = byte & ~mask;
  }
  const cleared = addressText(network);
  if (hostBits) return fail('host bits are set', `did you mean ${cleared}/${length}?`);
  return { family, address: cleared, length };
}

export function prefixText(prefix: Prefix): string {
  return `${prefix.address}/${prefix.length}`;
}

/** Whether the address lies in the network; one of another family never does. */
export function covers(prefix: Prefix, address: string): boolean {
  if (prefix.family !== familyOf(address)) return false;
  const [network, bytes] = [addressBytes(prefix.address), addressBytes(address)];
  for (let bit = 0; bit < prefix.length; bit++) {
    const mask = 0x80 >> (bit & 7);
    if (((network[bit >> 3] ?? 0) ^ (bytes[bit >> 3] ?? 0)) & mask) return false;
  }
  return true;
}

/** `1.2.3.4:80` or `[::1]:80`. */
export function endpointText(address: string, port: number): string {
  return familyOf(address) === 6 ? `[${address}]:${port}` : `${address}:${port}`;
}
