/** The bytes of CONNECT: the request as a template for the engine, and the head of the reply (pure). */
import { endpointText } from '../ip.ts';
import type { UpstreamUrl } from './upstream-url.ts';

/** CONNECT request = head + authority + middle + authority + tail. ASCII throughout. */
export interface ConnectTemplate {
  readonly head: string;
  readonly middle: string;
  readonly tail: string;
}

/**
 * The request of every flow through this upstream, RFC 9110 §9.3.6, RFC 9112 §3.2.3.
 * No `User-Agent`: it is optional (Python sends none either) and proxies that filter on it refuse unknown names.
 * No `Proxy-Connection`: no RFC has it, and a tunnel does not outlive its connection anyway.
 * The tail holds the credentials: never print it.
 */
export function connectTemplate(upstream: Pick<UpstreamUrl, 'credentials'>): ConnectTemplate {
  const authorization = upstream.credentials?.basicAuthorization();
  return {
    head: 'CONNECT ',
    middle: ' HTTP/1.1\r\nHost: ',
    tail: authorization === undefined ? '\r\n\r\n' : `\r\nProxy-Authorization: ${authorization}\r\n\r\n`,
  };
}

/** `192.0.2.1:443` or `[2001:db8::1]:443`, RFC 3986 §3.2.2. @param host IP address or host name */
export function connectAuthority(host: string, port: number): string {
  return endpointText(host, port);
}

/** The whole request, as the engine builds it; for probes. */
export function connectRequest(template: ConnectTemplate, authority: string): string {
  return template.head + authority + template.middle + authority + template.tail;
}

/** Equal to the engine's limit; what is longer is no proxy but an attack. */
export const LONGEST_REPLY_HEAD = 64 * 1024;

export interface HeaderField {
  /** Lower case. */
  readonly name: string;
  readonly value: string;
}

export interface ReplyHead {
  readonly kind: 'head';
  /** `1.0`, `1.1`. */
  readonly version: string;
  readonly status: number;
  /** As the proxy sent it, Latin-1: not for a terminal. */
  readonly reason: string;
  readonly headers: readonly HeaderField[];
  /** Bytes up to the end of the head; after a 2xx, what follows belongs to the application. */
  readonly length: number;
}

export type ParsedReply =
  | ReplyHead
  | { readonly kind: 'incomplete' }
  | { readonly kind: 'malformed'; readonly why: string };

const INCOMPLETE: ParsedReply = { kind: 'incomplete' };

/**
 * Reads the head of the final reply to CONNECT. Tolerant where proxies are sloppy: interim 1xx replies are
 * skipped (but for 101, which ends HTTP), HTTP/1.0, bare LF, empty lines in front, folded and nameless headers.
 * @param bytes all that came so far; a longer reply never turns a `head` or `malformed` into something else
 */
export function parseReplyHead(bytes: Uint8Array): ParsedReply {
  let start = 0;
  for (;;) {
    const reply = parseOneHead(bytes, start);
    if (reply.kind === 'incomplete' && bytes.length >= LONGEST_REPLY_HEAD) return tooLong();
    if (reply.kind !== 'head') return reply;
    if (reply.length > LONGEST_REPLY_HEAD) return tooLong();
    const isInterim = reply.status < 200 && reply.status !== 101;
    if (!isInterim) return reply;
    start = reply.length;
  }
}

/** RFC 9110 §9.3.6: any 2xx opens the tunnel. */
export function isAccepted(reply: ReplyHead): boolean {
  return reply.status >= 200 && reply.status < 300;
}

/** Values of every field of this name, in order. @param name lower case */
export function headerValues(reply: ReplyHead, name: string): string[] {
  return reply.headers.filter((field) => field.name === name).map((field) => field.value);
}

function tooLong(): ParsedReply {
  return { kind: 'malformed', why: `no end within ${LONGEST_REPLY_HEAD} bytes` };
}

const LF = 0x0a;
const CR = 0x0d;

/** One line as Latin-1 text without its end; `next` is where the following one begins. */
function lineAt(bytes: Uint8Array, start: number): { readonly text: string; readonly next: number } | undefined {
  const lf = bytes.indexOf(LF, start);
  if (lf < 0) return undefined;
  let end = lf;
  while (end > start && bytes[end - 1] === CR) end--;
  return { text: latin1(bytes, start, end), next: lf + 1 };
}

function latin1(bytes: Uint8Array, start: number, end: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1', start, end);
}

function parseOneHead(bytes: Uint8Array, from: number): ParsedReply {
  let start = from;
  while (bytes[start] === CR || bytes[start] === LF) start++; // RFC 9112 §2.2
  const foreign = foreignProtocol(bytes, start);
  if (foreign !== undefined) return { kind: 'malformed', why: foreign };
  let line = lineAt(bytes, start);
  if (line === undefined) return INCOMPLETE;
  const match = /^HTTP\/(\d(?:\.\d)?)[ \t]+(\d{3})(?:[ \t]+(.*))?$/.exec(line.text);
  const status = Number(match?.[2] ?? 0);
  if (match === null || status < 100) return { kind: 'malformed', why: 'the status line is not HTTP' };
  const headers: { name: string; value: string }[] = [];
  for (;;) {
    line = lineAt(bytes, line.next);
    if (line === undefined) return INCOMPLETE;
    if (line.text === '') break;
    addHeader(headers, line.text);
  }
  return { kind: 'head', version: match[1] ?? '', status, reason: (match[3] ?? '').trim(), headers, length: line.next };
}

function addHeader(headers: { name: string; value: string }[], line: string): void {
  const last = headers.at(-1);
  if (last !== undefined && /^[ \t]/.test(line)) last.value = `${last.value} ${line.trim()}`.trim();
  const colon = line.indexOf(':');
  if (colon > 0 && !/^[ \t]/.test(line)) {
    headers.push({ name: line.slice(0, colon).trim().toLowerCase(), value: line.slice(colon + 1).trim() });
  }
}

/** Says at the first wrong byte what answers instead of an HTTP proxy, so that nobody waits for a line end. */
function foreignProtocol(bytes: Uint8Array, start: number): string | undefined {
  const begin = latin1(bytes, start, start + 5);
  if ('HTTP/'.startsWith(begin)) return undefined;
  // RFC 8446 §5.1: alert (21) or handshake (22), then the legacy version 3.x.
  if (begin[0] === '\x15' || begin[0] === '\x16') return 'it speaks TLS; is this an https:// proxy?';
  if (begin[0] === '\x04' || begin[0] === '\x05' || begin[0] === '\x00') return 'it may be a SOCKS proxy';
  if (begin.startsWith('SSH-')) return 'it is an SSH server';
  return 'it is not HTTP';
}
