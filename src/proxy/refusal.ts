/** Why the proxy said no, in words that name what the reader can change (pure). */
import { getSystemErrorName } from 'node:util';
import { headerValues, parseReplyHead, type ReplyHead } from './connect.ts';
import type { Credentials } from './credentials.ts';

/** A reply, and what was asked. */
interface Refusal {
  readonly reply: ReplyHead;
  /** Latin-1, whatever came behind the head. */
  readonly body: string;
  readonly authority: string;
  readonly host: string;
  readonly port: string;
  readonly credentials: Credentials | undefined;
}

/**
 * One line for people: `407: the proxy offers NTLM, Negotiate; proxyvpn can do Basic`.
 * Says only what the reply proves; where proxies differ it names the usual reason as such.
 * Foreign text is cut, made printable and scrubbed of the credentials.
 * @param bytes the beginning of the reply, possibly cut anywhere
 * @param authority what was asked for: `192.0.2.1:5432`
 * @param credentials those that were sent
 */
export function explainRefusal(bytes: Uint8Array, authority: string, credentials?: Credentials): string {
  if (bytes.length === 0) return 'the proxy closed the connection without an answer';
  const parsed = parseCutReply(bytes);
  if (parsed.kind === 'malformed') return `the proxy's answer makes no sense: ${parsed.why}`;
  if (parsed.kind === 'incomplete') return 'the proxy closed the connection in the middle of its answer';
  const colon = authority.lastIndexOf(':');
  const refusal: Refusal = {
    reply: parsed,
    body: Buffer.from(bytes.subarray(parsed.length)).toString('latin1'),
    authority,
    host: authority.slice(0, colon),
    port: authority.slice(colon + 1),
    credentials,
  };
  return `${parsed.status}: ${explainStatus(refusal)}`;
}

/** A head that was cut off is read as far as its last whole line. */
function parseCutReply(bytes: Uint8Array): ReturnType<typeof parseReplyHead> {
  const parsed = parseReplyHead(bytes);
  if (parsed.kind !== 'incomplete') return parsed;
  const lastLine = bytes.lastIndexOf(0x0a) + 1;
  const whole = bytes.subarray(0, lastLine > 0 ? lastLine : bytes.length);
  return parseReplyHead(Buffer.concat([whole, Buffer.from('\r\n\r\n')]));
}

function explainStatus(refusal: Refusal): string {
  const { reply, authority } = refusal;
  switch (reply.status) {
    case 400:
      return `the proxy does not understand CONNECT ${authority}${itsWords(refusal)}`;
    case 401:
      // tinyproxy answers wrong credentials with 401 instead of 407.
      return refusal.credentials === undefined
        ? 'this is a web server that wants a login, or a proxy that does not say so properly'
        : 'wrong user name or password';
    case 403:
      return explain403(refusal);
    case 404:
      return `the proxy does not know ${authority}, or is no proxy but a web server`;
    case 405:
    case 501:
      return 'this server does not do CONNECT: is it an HTTP proxy?';
    case 407:
      return explain407(refusal);
    case 408:
    case 504:
      return `the proxy got no answer from ${authority} in time`;
    case 429:
      return `the proxy limits how fast it is asked${itsWords(refusal)}`;
    case 500:
    case 502:
    case 503:
      return explainFailure(refusal);
    case 511:
      return 'the network wants a login first (captive portal)';
    default:
      return explainOther(refusal);
  }
}

function explain407({ reply, credentials }: Refusal): string {
  const offered = offeredSchemes(headerValues(reply, 'proxy-authenticate'));
  if (offered.length === 0) return 'the proxy wants a login but names no way to give it';
  if (!offered.some((scheme) => scheme.toLowerCase() === 'basic')) {
    const names = printable(offered.join(', '), credentials);
    return `the proxy offers ${names}; proxyvpn can do Basic`;
  }
  if (credentials !== undefined) return 'wrong user name or password';
  return 'the proxy wants a user name and password: give http://USER:PASSWORD@HOST:PORT';
}

/**
 * Scheme names of `Proxy-Authenticate` values, in order, each once. RFC 9110 §11.6.1: challenges and their
 * parameters share the commas, so a scheme is a token that no `=` follows.
 */
function offeredSchemes(values: readonly string[]): string[] {
  const schemes: string[] = [];
  for (const value of values) {
    const unquoted = value.replace(/"(?:[^"\\]|\\.)*"?/g, '""');
    for (const part of unquoted.split(',')) {
      const scheme = /^\s*([A-Za-z][A-Za-z0-9._-]{0,30})(?=\s|$)(?!\s*=)/.exec(part)?.[1];
      if (scheme !== undefined && !schemes.includes(scheme)) schemes.push(scheme);
    }
  }
  return schemes;
}

function explain403(refusal: Refusal): string {
  const { reply, body, authority, host, port } = refusal;
  const words = `${reply.reason} ${body}`;
  // tinyproxy's own pages, by their wording since 1.8.
  if (/not allowed with the port|Access violation/i.test(words)) return `this proxy refuses port ${port}`;
  if (/service requests from your host/i.test(words)) return 'this proxy does not serve this host (its access list)';
  if (/has been filtered|^Filtered/i.test(words)) return `this proxy filters ${host}`;
  if (port !== '443') return `this proxy refuses port ${port} (many allow CONNECT to 443 only), or the host ${host}`;
  return `this proxy refuses ${authority} (some allow CONNECT by host name only)`;
}

/** 500, 502, 503: the proxy said yes but did not get there. */
function explainFailure(refusal: Refusal): string {
  const { reply, body, authority, host } = refusal;
  const [squidError, squidErrno] = (headerValues(reply, 'x-squid-error')[0] ?? '').split(' ');
  switch (squidError) {
    case 'ERR_DNS_FAIL':
      return `the proxy cannot resolve ${host}`;
    case 'ERR_CONNECT_FAIL':
      return `the proxy could not connect to ${authority}${errnoInWords(Number(squidErrno))}`;
    case 'ERR_CANNOT_FORWARD':
      return `the proxy has no way to ${authority}`;
  }
  if (/unable to connect/i.test(`${reply.reason} ${body}`)) return `the proxy could not connect to ${authority}`;
  if (reply.status === 500) return `the proxy failed on ${authority}${itsWords(refusal)}`;
  if (reply.status === 502) return `the proxy could not connect to ${authority}${itsWords(refusal)}`;
  return `the proxy could not serve ${authority}: it or the destination is down or overloaded${itsWords(refusal)}`;
}

function explainOther(refusal: Refusal): string {
  const { reply } = refusal;
  if (reply.status >= 200 && reply.status < 300) return 'the proxy accepted';
  if (reply.status < 200) return 'the proxy changed the protocol, which nobody asked for';
  if (reply.status < 400) return explainRedirect(refusal);
  return `the proxy refused ${refusal.authority}${itsWords(refusal)}`;
}

/** Only the origin of the target: the rest may hold tokens. */
function explainRedirect({ reply, credentials }: Refusal): string {
  const location = headerValues(reply, 'location')[0] ?? '';
  // Before URL: it changes the case of host names.
  const target = credentials === undefined ? location : credentials.scrub(location);
  const origin = originOf(target);
  const where = origin === 'null' ? '' : ` to ${printable(origin, undefined)}`;
  return `redirected${where}: a login page (captive portal), or no proxy but a web server`;
}

/** 'null' for what is no URL, as for those without an origin. Once hot, URL.canParse() of Node 20 errs on Latin-1. */
function originOf(text: string): string {
  try {
    return new URL(text).origin;
  } catch {
    return 'null';
  }
}

/** The reason phrase, unless it only repeats what the status means anyway. */
function itsWords({ reply, credentials }: Refusal): string {
  const words = printable(reply.reason, credentials);
  const usual = /^(bad request|bad gateway|service unavailable|internal server error|too many requests|)$/i;
  return usual.test(words) ? '' : ` ("${words}")`;
}

/** Numbers of the proxy's kernel, which is taken to be Linux: Squid reports no name. */
function errnoInWords(errno: number): string {
  if (!Number.isInteger(errno) || errno < 1 || errno > 133) return '';
  const words: Record<string, string> = {
    ECONNREFUSED: 'connection refused',
    ECONNRESET: 'connection reset',
    ETIMEDOUT: 'timed out',
    ENETUNREACH: 'network unreachable',
    EHOSTUNREACH: 'host unreachable',
  };
  const name = getSystemErrorName(-errno);
  return name.startsWith('E') ? `: ${words[name] ?? name}` : '';
}

/** Foreign text for a terminal: no escape sequences, one line, short, no credentials. */
function printable(text: string, credentials: Credentials | undefined): string {
  const scrubbed = credentials === undefined ? text : credentials.scrub(text);
  const clean = scrubbed.replace(/[^\x20-\x7e]+/g, '?');
  return clean.length > 80 ? `${clean.slice(0, 77)}...` : clean;
}
