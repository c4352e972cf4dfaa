/** Resource records of a message: encoding through dns-packet, and where they lie in a message that came (pure). */
import dnsPacket from 'dns-packet';
import { skipName } from './name.ts';
import { CLASS, TYPE } from './numbers.ts';

/** What we ourselves put into answers; `ttl` in seconds. */
export type AnswerRecord =
  /** A or AAAA: 4 or 16 bytes. */
  | { readonly type: 'address'; readonly ttl: number; readonly data: Uint8Array }
  /** A host name, ASCII. */
  | { readonly type: 'PTR'; readonly ttl: number; readonly data: string }
  | { readonly type: 'HINFO'; readonly ttl: number; readonly data: { readonly cpu: string; readonly os: string } };

/** Offset 12: the question's name, with which our answers begin. */
const POINTER_TO_QUESTION = Buffer.from([0xc0, 0x0c]);
const HEADER_BYTES = 12;

/** A record owned by the question's name, in whatever case and bytes that came. */
export function encodeRecord(record: AnswerRecord): Buffer {
  if (record.type === 'address') return encodeAddress(record.data, record.ttl);
  // The library would encode the owner from text, which loses bytes that are no UTF-8 and dots inside labels.
  return Buffer.concat([POINTER_TO_QUESTION, encodeAtRoot(record).subarray(1)]);
}

/** By hand: nearly every reply is one of these, and the library takes addresses as text only. */
function encodeAddress(address: Uint8Array, ttl: number): Buffer {
  const record = Buffer.allocUnsafe(12 + address.length);
  POINTER_TO_QUESTION.copy(record);
  record.writeUInt16BE(address.length === 4 ? TYPE.A : TYPE.AAAA, 2);
  record.writeUInt16BE(CLASS.IN, 4);
  record.writeUInt32BE(ttl, 6);
  record.writeUInt16BE(address.length, 10);
  record.set(address, 12);
  return record;
}

/**
 * The SOA that makes a negative answer cacheable, RFC 2308 §3: of the root, an ancestor of every name, so that stub
 * resolvers accept it for any. Names nobody: `invalid` is reserved (RFC 6761 §6.4).
 */
export function encodeNegativeSoa(ttl: number): Buffer {
  const data = { mname: 'proxyvpn.invalid', rname: 'nobody.invalid', serial: 1, refresh: 3600, retry: 600 };
  return encodeAtRoot({ type: 'SOA', ttl, data: { ...data, expire: 86_400, minimum: ttl } });
}

export interface EdnsReply {
  /** What we take by UDP, bytes. */
  readonly udpSize: number;
  readonly dnssecOk: boolean;
  /** All twelve bits. */
  readonly rcode: number;
  /** RFC 8914. */
  readonly extendedError: { readonly code: number; readonly text: string } | undefined;
}

const OPTION_EXTENDED_ERROR = 15;
/** Keeps an answer of ours under 512 bytes, with the longest question. */
const LONGEST_ERROR_TEXT = 96;

/** RFC 6891 §6.1.2; one OPT record, root owner. */
export function encodeOpt(reply: EdnsReply): Buffer {
  const options: unknown[] = [];
  if (reply.extendedError !== undefined) {
    const text = Buffer.from(reply.extendedError.text, 'utf8').subarray(0, LONGEST_ERROR_TEXT);
    const code = Buffer.from([reply.extendedError.code >> 8, reply.extendedError.code & 0xff]);
    options.push({ code: OPTION_EXTENDED_ERROR, data: Buffer.concat([code, text]) });
  }
  return encodeAtRoot({
    type: 'OPT',
    udpPayloadSize: reply.udpSize,
    extendedRcode: reply.rcode >> 4,
    ednsVersion: 0,
    flags: reply.dnssecOk ? dnsPacket.DNSSEC_OK : 0,
    // The typings know fewer options than the library, which encodes any code that brings its data.
    options: options as dnsPacket.PacketOpt[],
  });
}

type RootRecord = dnsPacket.Answer extends infer R ? (R extends unknown ? Omit<R, 'name'> : never) : never;

function encodeAtRoot(record: RootRecord | Partial<dnsPacket.OptAnswer>): Buffer {
  const answer = { ...record, name: '.' } as dnsPacket.Answer;
  return dnsPacket.encode({ type: 'response', answers: [answer] }).subarray(HEADER_BYTES);
}

export type Section = 'answer' | 'authority' | 'additional';

/** Where a record lies in its message. */
export interface RecordPlace {
  readonly section: Section;
  readonly start: number;
  readonly end: number;
  readonly type: number;
  /** Class of the record; UDP size in OPT. */
  readonly class: number;
  /** TTL of the record; extended rcode, version and flags in OPT. */
  readonly ttl: number;
  readonly dataStart: number;
}

/**
 * Walks the records behind the question section without looking into them.
 * @param offset end of the question section
 * @param most more records than this are not walked
 * @returns undefined when counts and bytes do not agree, or when there are too many; bytes behind the last record are
 *   no error here: `end` of the last one tells
 */
export function findRecords(message: Buffer, offset: number, most: number): readonly RecordPlace[] | undefined {
  const counts: readonly (readonly [Section, number])[] = [
    ['answer', message.readUInt16BE(6)],
    ['authority', message.readUInt16BE(8)],
    ['additional', message.readUInt16BE(10)],
  ];
  if (counts.reduce((sum, [, count]) => sum + count, 0) > most) return undefined;
  const places: RecordPlace[] = [];
  let start = offset;
  for (const [section, count] of counts) {
    for (let i = 0; i < count; i++) {
      const place = recordAt(message, section, start);
      if (place === undefined) return undefined;
      places.push(place);
      start = place.end;
    }
  }
  return places;
}

function recordAt(message: Buffer, section: Section, start: number): RecordPlace | undefined {
  const at = skipName(message, start);
  if (at === undefined || at + 10 > message.length) return undefined;
  const end = at + 10 + message.readUInt16BE(at + 8);
  if (end > message.length) return undefined;
  return {
    section,
    start,
    end,
    type: message.readUInt16BE(at),
    class: message.readUInt16BE(at + 2),
    ttl: message.readUInt32BE(at + 4),
    dataStart: at + 10,
  };
}

/** The one OPT among the additional records. undefined: none; `'malformed'`: several, elsewhere, or not at the root. */
export function findOpt(message: Buffer, places: readonly RecordPlace[]): RecordPlace | undefined | 'malformed' {
  const found = places.filter(({ type }) => type === TYPE.OPT);
  const [opt] = found;
  if (opt === undefined) return undefined;
  const isFine = found.length === 1 && opt.section === 'additional' && message[opt.start] === 0;
  return isFine ? opt : 'malformed';
}
