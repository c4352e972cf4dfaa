/**
 * The proxy as the user writes it, to a value and back to a text without secrets (pure).
 *
 * Every error here may meet a text with a password in it, also in an unexpected place: a forgotten `@`
 * makes `alice:secret` look like host and port. So no message repeats the input, but for a known scheme.
 */
import { domainToASCII } from 'node:url';
import { EXIT, ProxyVpnError } from '../errors.ts';
import { addressBytes, addressText, canonicalAddress, endpointText, familyOf } from '../ip.ts';
import { Credentials } from './credentials.ts';

export interface UpstreamUrl {
  /** Canonical IP address without brackets, or a host name in lower case ASCII. */
  readonly host: string;
  /** A `name` must be resolved before the routes change. */
  readonly kind: 'address' | 'name';
  readonly port: number;
  readonly credentials: Credentials | undefined;
}

/** RFC 9110 §4.2.1. Go, Python and browsers take it for a proxy too; curl alone takes 1080. */
const DEFAULT_HTTP_PORT = 80;
/** Far above any real user name and password; keeps the CONNECT head small. */
const LONGEST_TEXT = 4096;
const FORM = 'write HOST:PORT or http://USER:PASSWORD@HOST:PORT';

/**
 * Reads `host:port`, `http://user:pass@host:port` (percent-encoded), `[2001:db8::1]:3128`, with or without a
 * trailing slash. `http://host` means port 80; without a scheme the port must be there.
 * The last `@` ends the credentials, so an unencoded `@`, `/` or `#` in a password is understood.
 * @throws ProxyVpnError E_PROXY_URL, E_PROXY_SCHEME (exit code 2); the text never holds a part of the input
 */
export function parseUpstream(text: string): UpstreamUrl {
  const trimmed = text.trim();
  if (trimmed === '') throw invalid('it is empty');
  if (trimmed.length > LONGEST_TEXT) throw invalid(`it is longer than ${LONGEST_TEXT} characters`);
  if (hasControl(trimmed)) throw invalid('it holds a control character');
  const { rest, defaultPort } = takeScheme(trimmed);
  const authority = rest.endsWith('/') ? rest.slice(0, -1) : rest;
  const at = authority.lastIndexOf('@');
  const { hostText, portText } = splitEndpoint(authority.slice(at + 1));
  return {
    ...parseHost(hostText),
    port: portText === undefined ? portOrFail(defaultPort) : parsePort(portText),
    credentials: at <= 0 ? undefined : parseUserinfo(authority.slice(0, at)),
  };
}

/** `10.0.0.1:3128`, `[2001:db8::1]:3128`, `proxy.example:3128`: no credentials. */
export function upstreamEndpoint(upstream: Pick<UpstreamUrl, 'host' | 'port'>): string {
  return endpointText(upstream.host, upstream.port);
}

/**
 * The proxy for people, logs, journal and status: `http://***@10.0.0.1:3128`. The user name is hidden as well,
 * because tokens are often handed out as user names.
 */
export function redactUpstream(upstream: UpstreamUrl): string {
  return `http://${upstream.credentials === undefined ? '' : `${upstream.credentials}@`}${upstreamEndpoint(upstream)}`;
}

function invalid(why: string, hint = FORM): ProxyVpnError {
  return new ProxyVpnError('E_PROXY_URL', `not a proxy address: ${why}`, { hint, exitCode: EXIT.usage });
}

/** C0, DEL: RFC 7617 §2 forbids them in credentials, and CR LF would end our request line. */
function hasControl(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x20 || unit === 0x7f) return true;
  }
  return false;
}

function takeScheme(text: string): { rest: string; defaultPort: number | undefined } {
  const match = /^([a-z][a-z0-9+.-]*):\/\/(.*)$/i.exec(text);
  if (match === null) return { rest: text, defaultPort: undefined };
  const scheme = (match[1] ?? '').toLowerCase();
  if (scheme === 'http') return { rest: match[2] ?? '', defaultPort: DEFAULT_HTTP_PORT };
  const known = scheme === 'https' || /^socks(4a?|5h?)?$/.test(scheme);
  const message = known ? `${scheme}:// proxies are not supported yet` : 'the proxy has an unknown scheme';
  const hint = 'proxyvpn speaks HTTP CONNECT over plain TCP: write http://HOST:PORT';
  throw new ProxyVpnError('E_PROXY_SCHEME', message, { hint, exitCode: EXIT.usage });
}

function parseUserinfo(text: string): Credentials {
  const colon = text.indexOf(':');
  const user = percentDecoded(colon < 0 ? text : text.slice(0, colon), 'user name');
  const password = percentDecoded(colon < 0 ? '' : text.slice(colon + 1), 'password');
  // RFC 7617 §2: the first colon ends the user-id, so it cannot hold one.
  if (user.includes(':')) throw invalid('the user name holds a colon, which Basic authentication cannot carry');
  return new Credentials(user, password);
}

function percentDecoded(text: string, what: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(text);
  } catch {
    // No cause: a URIError is of no use to the reader.
    throw invalid(`the ${what} is not valid percent-encoded UTF-8`, 'write a literal % as %25');
  }
  if (hasControl(decoded)) throw invalid(`the ${what} holds a control character`);
  // Node puts U+FFFD where argv was not UTF-8; a lone surrogate has no bytes to send.
  if (/[\ufffd\p{Surrogate}]/u.test(decoded)) throw invalid(`the ${what} is not valid UTF-8`);
  return decoded;
}

function splitEndpoint(text: string): { hostText: string; portText: string | undefined } {
  if (/[/?#]/.test(text)) throw invalid('a proxy has no path or query');
  if (text.startsWith('[')) {
    const match = /^(\[[^\]]*\])(?::(.*))?$/.exec(text);
    if (match === null) throw invalid('the brackets around the IPv6 address do not match', 'write [2001:db8::1]:3128');
    return { hostText: match[1] ?? '', portText: match[2] };
  }
  const [hostText = '', portText, ...more] = text.split(':');
  if (more.length > 0) throw invalid('more than one colon', 'write an IPv6 address in brackets: [2001:db8::1]:3128');
  return { hostText, portText };
}

function portOrFail(port: number | undefined): number {
  if (port === undefined) throw invalid('no port', 'write HOST:PORT, as 10.0.0.1:3128');
  return port;
}

function parsePort(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (port < 1 || port > 65535) throw invalid('the port is not a number from 1 to 65535');
  return port;
}

function parseHost(text: string): Pick<UpstreamUrl, 'host' | 'kind'> {
  if (text === '') throw invalid('no host');
  const bracketed = text.startsWith('[');
  const literal = canonicalAddress(bracketed ? text.slice(1, -1) : text);
  if (literal !== undefined && bracketed === (familyOf(literal) === 6)) {
    const address = unmapped(literal);
    if (address === '0.0.0.0' || address === '::') throw invalid('the unspecified address is no proxy');
    return { host: address, kind: 'address' };
  }
  if (bracketed) throw invalid('no IPv6 address (without zone) in the brackets', 'write [2001:db8::1]:3128');
  return { host: parseName(text), kind: 'name' };
}

/** ::ffff:10.0.0.1 leaves as IPv4, so routes and filter must see it as IPv4 (RFC 4291 §2.5.5.2). */
function unmapped(address: string): string {
  const bytes = addressBytes(address);
  const mapped = bytes.length === 16 && bytes.subarray(0, 10).every((byte) => byte === 0);
  return mapped && bytes[10] === 0xff && bytes[11] === 0xff ? addressText(bytes.subarray(12)) : address;
}

/** RFC 1123 §2.1 names, underscores tolerated; other scripts become A-labels (RFC 5891). */
function parseName(text: string): string {
  const ascii = /^[\x21-\x7e]*$/.test(text) ? text.toLowerCase() : domainToASCII(text);
  const labels = ascii.replace(/\.$/, '').split('.');
  const legal = labels.every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label));
  if (!legal || ascii.length > 253) throw invalid('the host is neither an IP address nor a host name');
  // inet_aton(3) would read 10.1, 0x7f.1 and 2130706433 as addresses; nobody means that here.
  if (/^(\d+|0x[0-9a-f]*)$/.test(labels.at(-1) ?? '')) throw invalid('the host is not an IPv4 address of four parts');
  return ascii;
}
