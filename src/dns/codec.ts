/**
 * Messages of the DNS as a resolver sees them: queries in, replies out (pure; nothing here throws on any bytes).
 *
 * Header and question are read by hand, because the question must go back exactly as it came: resolvers that mix the
 * case of their names (draft-vixie-dnsext-dns0x20) drop other answers, and a label may hold any byte. The records of
 * replies are encoded by dns-packet.
 */
import { type DnsName, readName } from './name.ts';
import { CLASS, DNSSEC_OK, FLAG, RCODE, TYPE } from './numbers.ts';
import { type AnswerRecord, encodeNegativeSoa, encodeOpt, encodeRecord, findOpt, findRecords } from './records.ts';

export interface Question {
  readonly name: DnsName;
  readonly type: number;
  readonly class: number;
  /** Name, type and class as they came; a view of the message. */
  readonly bytes: Buffer;
}

export interface Query {
  readonly id: number;
  /** The bits that go back: RD and CD. */
  readonly flags: number;
  readonly question: Question;
  readonly edns: { readonly udpSize: number; readonly dnssecOk: boolean } | undefined;
  /** The whole message; a view of what was given. */
  readonly bytes: Buffer;
}

export type Decoded =
  | { readonly kind: 'query'; readonly query: Query }
  /** No query we can work on, but the header told whom to tell: FORMERR, NOTIMP or BADVERS. */
  | { readonly kind: 'reply'; readonly rcode: number; readonly reply: Buffer }
  /** Too short, or itself a response: answering one would make two servers talk for ever. */
  | { readonly kind: 'ignore' };

const HEADER_BYTES = 12;
/** Every client takes as much by UDP, RFC 1035 §4.2.1. */
export const LEAST_UDP_BYTES = 512;
/** What fits into every IPv6 path without fragments, less the headers (DNS flag day 2020); larger goes by TCP. */
export const MOST_UDP_BYTES = 1232;
export const MOST_TCP_BYTES = 0xffff;
/** A query carries OPT and perhaps a signature; anything near this is garbage. */
const MOST_QUERY_RECORDS = 16;
const MOST_REPLY_RECORDS = 8192;

export function decodeQuery(message: Uint8Array): Decoded {
  const bytes = asBuffer(message);
  if (bytes.length < HEADER_BYTES) return { kind: 'ignore' };
  const flags = bytes.readUInt16BE(2);
  if (flags & FLAG.response) return { kind: 'ignore' };
  if (flags & 0x7800) return refuse(bytes, RCODE.NOTIMP);
  // RFC 9619: a query has one question.
  const question = bytes.readUInt16BE(4) === 1 ? readQuestion(bytes) : undefined;
  if (question === undefined || question.type === TYPE.OPT) return refuse(bytes, RCODE.FORMERR);
  const end = HEADER_BYTES + question.bytes.length;
  const places = findRecords(bytes, end, MOST_QUERY_RECORDS);
  if (places === undefined || (places.at(-1)?.end ?? end) !== bytes.length) return refuse(bytes, RCODE.FORMERR);
  const opt = findOpt(bytes, places);
  if (opt === 'malformed') return refuse(bytes, RCODE.FORMERR);
  const query = { id: bytes.readUInt16BE(0), flags: flags & (FLAG.recursionDesired | FLAG.checkingDisabled), question };
  if (opt === undefined) return { kind: 'query', query: { ...query, edns: undefined, bytes } };
  if (!areOptions(bytes.subarray(opt.dataStart, opt.end))) return refuse(bytes, RCODE.FORMERR);
  const edns = { udpSize: opt.class, dnssecOk: (opt.ttl & DNSSEC_OK) !== 0 };
  const whole: Query = { ...query, edns, bytes };
  // RFC 6891 §6.1.3.
  if (((opt.ttl >>> 16) & 0xff) !== 0) {
    return { kind: 'reply', rcode: RCODE.BADVERS, reply: encodeReply(whole, { rcode: RCODE.BADVERS }) };
  }
  return { kind: 'query', query: whole };
}

function readQuestion(message: Buffer): Question | undefined {
  const read = readName(message, HEADER_BYTES);
  if (read === undefined || read.end + 4 > message.length) return undefined;
  return {
    name: read.name,
    type: message.readUInt16BE(read.end),
    class: message.readUInt16BE(read.end + 2),
    bytes: message.subarray(HEADER_BYTES, read.end + 4),
  };
}

/** Code, length and data, again and again, to the end: RFC 6891 §6.1.2. */
function areOptions(data: Buffer): boolean {
  let at = 0;
  while (at < data.length) {
    if (at + 4 > data.length) return false;
    at += 4 + data.readUInt16BE(at + 2);
  }
  return at === data.length;
}

/** A reply of nothing but the header. */
function refuse(query: Buffer, rcode: number): Decoded {
  const reply = Buffer.alloc(HEADER_BYTES);
  const kept = query.readUInt16BE(2) & (0x7800 | FLAG.recursionDesired);
  reply.writeUInt16BE(query.readUInt16BE(0), 0);
  reply.writeUInt16BE(FLAG.response | kept | rcode, 2);
  return { kind: 'reply', rcode, reply };
}

/** What to tell the client. */
export interface Reply {
  readonly rcode: number;
  readonly answers?: readonly AnswerRecord[];
  /** Adds the SOA that makes "no such data" and "no such name" cacheable for so many seconds. */
  readonly negativeTtl?: number;
  /** Said only to clients that speak EDNS. */
  readonly extendedError?: { readonly code: number; readonly text: string };
}

/** @param limit bytes the client takes; with more records than fit it is told to come by TCP */
export function encodeReply(query: Query, reply: Reply, limit: number = LEAST_UDP_BYTES): Buffer {
  const answers = (reply.answers ?? []).map(encodeRecord);
  const authority = reply.negativeTtl === undefined ? [] : [encodeNegativeSoa(reply.negativeTtl)];
  const additional =
    query.edns === undefined
      ? []
      : [
          encodeOpt({
            udpSize: MOST_UDP_BYTES,
            dnssecOk: query.edns.dnssecOk,
            rcode: reply.rcode,
            extendedError: reply.extendedError,
          }),
        ];
  const head = (truncated: number, counts: readonly [number, number, number]): Buffer => {
    const header = Buffer.alloc(HEADER_BYTES);
    header.writeUInt16BE(query.id, 0);
    header.writeUInt16BE(FLAG.response | FLAG.recursionAvailable | query.flags | truncated | (reply.rcode & 0xf), 2);
    header.writeUInt16BE(1, 4);
    counts.forEach((count, i) => {
      header.writeUInt16BE(count, 6 + 2 * i);
    });
    return header;
  };
  const whole = Buffer.concat([
    head(0, [answers.length, authority.length, additional.length]),
    query.question.bytes,
    ...answers,
    ...authority,
    ...additional,
  ]);
  if (whole.length <= limit) return whole;
  return Buffer.concat([head(FLAG.truncated, [0, 0, additional.length]), query.question.bytes, ...additional]);
}

/** How much this client takes by UDP; never more than travels unfragmented. */
export function udpLimit(query: Query): number {
  return Math.min(Math.max(query.edns?.udpSize ?? 0, LEAST_UDP_BYTES), MOST_UDP_BYTES);
}

/** A query of our own, with EDNS. @param id 0 to 65535 */
export function encodeQuery(id: number, name: DnsName, type: number, dnssecOk = false): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUInt16BE(id, 0);
  header.writeUInt16BE(FLAG.recursionDesired, 2);
  header.writeUInt16BE(1, 4);
  header.writeUInt16BE(1, 10);
  const question = Buffer.alloc(4);
  question.writeUInt16BE(type, 0);
  question.writeUInt16BE(CLASS.IN, 2);
  const opt = encodeOpt({ udpSize: MOST_UDP_BYTES, dnssecOk, rcode: 0, extendedError: undefined });
  return Buffer.concat([header, Buffer.from(name.key, 'latin1'), question, opt]);
}

/**
 * Whether `response` answers `question`: a response, to one question, the same but for the case of letters. Its id is
 * the caller's to compare. A server that could not read the question may leave it out, when it says so.
 */
export function answersQuestion(response: Uint8Array, question: Question): boolean {
  const bytes = asBuffer(response);
  if (bytes.length < HEADER_BYTES) return false;
  const flags = bytes.readUInt16BE(2);
  if (!(flags & FLAG.response) || flags & 0x7800) return false;
  const questions = bytes.readUInt16BE(4);
  if (questions === 0) return (flags & 0xf) !== RCODE.NOERROR && (flags & 0xf) !== RCODE.NXDOMAIN;
  if (questions !== 1) return false;
  const asked = readQuestion(bytes);
  return (
    asked !== undefined &&
    asked.name.key === question.name.key &&
    asked.type === question.type &&
    asked.class === question.class
  );
}

/** The low four bits; a relayed reply is not looked into further. */
export function rcodeOf(response: Buffer): number {
  return response.length < HEADER_BYTES ? RCODE.SERVFAIL : response.readUInt16BE(2) & 0xf;
}

export function isTruncated(response: Buffer): boolean {
  return response.length >= HEADER_BYTES && (response.readUInt16BE(2) & FLAG.truncated) !== 0;
}

/**
 * A server's response as this client must get it: its id, its spelling of the name, at most `limit` bytes.
 * @param response one that `answersQuestion`; not changed
 */
export function relayResponse(query: Query, response: Buffer, limit: number): Buffer {
  const reply = Buffer.from(response);
  reply.writeUInt16BE(query.id, 0);
  const { bytes } = query.question;
  // The same length: only the case of letters may differ.
  if (reply.readUInt16BE(4) === 1) bytes.copy(reply, HEADER_BYTES);
  if (reply.length <= limit) return reply;
  const head = Buffer.concat([reply.subarray(0, HEADER_BYTES), bytes]);
  head.writeUInt16BE(head.readUInt16BE(2) | FLAG.truncated, 2);
  for (const [at, count] of [
    [4, 1],
    [6, 0],
    [8, 0],
    [10, query.edns === undefined ? 0 : 1],
  ] as const) {
    head.writeUInt16BE(count, at);
  }
  if (query.edns === undefined) return head;
  const places = findRecords(reply, endOfQuestions(reply), MOST_REPLY_RECORDS);
  const opt = places === undefined ? undefined : findOpt(reply, places);
  const upper = opt === undefined || opt === 'malformed' ? 0 : (opt.ttl >>> 24) << 4;
  const { dnssecOk } = query.edns;
  const rcode = upper | rcodeOf(reply);
  return Buffer.concat([head, encodeOpt({ udpSize: MOST_UDP_BYTES, dnssecOk, rcode, extendedError: undefined })]);
}

/**
 * The response without what a server adds on its own account: the addresses of mail servers and services, which would be
 * connected to by number. OPT stays.
 * @returns undefined when the response cannot be walked
 */
export function withoutAdditional(response: Buffer): Buffer | undefined {
  const start = endOfQuestions(response);
  const places = findRecords(response, start, MOST_REPLY_RECORDS);
  const opt = places === undefined ? undefined : findOpt(response, places);
  if (places === undefined || opt === 'malformed') return undefined;
  const end = places.filter(({ section }) => section !== 'additional').at(-1)?.end ?? start;
  // What is left points only backwards (RFC 1035 §4.1.4), and OPT holds no names.
  const parts = [response.subarray(0, end)];
  if (opt !== undefined) parts.push(response.subarray(opt.start, opt.end));
  const reply = Buffer.concat(parts);
  reply.writeUInt16BE(opt === undefined ? 0 : 1, 10);
  return reply;
}

function endOfQuestions(message: Buffer): number {
  const question = message.readUInt16BE(4) === 1 ? readQuestion(message) : undefined;
  return HEADER_BYTES + (question?.bytes.length ?? 0);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
