/** Messages for the tests: queries as clients send them, responses as servers do. */
import dnsPacket from 'dns-packet';
import { type Decoded, decodeQuery, encodeQuery, type Query, type Question } from '../../../src/dns/codec.ts';
import { type DnsName, nameFromText, nameOfKey } from '../../../src/dns/name.ts';
import { TYPE } from '../../../src/dns/numbers.ts';

/** Any labels, also ones that are no host name. */
export function nameOf(...labels: readonly string[]): DnsName {
  return nameOfKey(`${labels.map((label) => String.fromCharCode(label.length) + label).join('')}\0`);
}

export function hostName(text: string): DnsName {
  const name = nameFromText(text);
  if (name === undefined) throw new Error(`no host name: ${text}`);
  return name;
}

/** With EDNS, as most stubs send it. */
export function queryBytes(text: string, type: number = TYPE.A, id = 0x1234): Buffer {
  return encodeQuery(id, hostName(text), type);
}

/** Without EDNS; labels in the case and bytes given. */
export function plainQuery(labels: readonly string[], type: number = TYPE.A, options: PlainOptions = {}): Buffer {
  const name = Buffer.from(labels.map((label) => String.fromCharCode(label.length) + label).join(''), 'latin1');
  const head = Buffer.from([0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, options.additional?.length ?? 0]);
  const tail = Buffer.from([0, type >> 8, type & 0xff, 0, options.class ?? 1]);
  return Buffer.concat([head, name, tail, ...(options.additional ?? [])]);
}

interface PlainOptions {
  readonly class?: number;
  readonly additional?: readonly Buffer[];
}

/** An OPT record, RFC 6891 §6.1.2. */
export function opt(udpSize: number, ttl = 0, data: Buffer = Buffer.alloc(0)): Buffer {
  const record = Buffer.alloc(11);
  record.writeUInt16BE(TYPE.OPT, 1);
  record.writeUInt16BE(udpSize, 3);
  record.writeUInt32BE(ttl, 5);
  record.writeUInt16BE(data.length, 9);
  return Buffer.concat([record, data]);
}

export function decoded(message: Uint8Array): Query {
  const result: Decoded = decodeQuery(message);
  if (result.kind !== 'query') throw new Error(`${result.kind}`);
  return result.query;
}

export function questionOf(message: Uint8Array): Question {
  return decoded(message).question;
}

/** A server's response to the query, in its spelling; `answers` as dns-packet takes them. */
export function responseTo(query: Buffer, packet: dnsPacket.Packet = {}, flags = 0x8180): Buffer {
  const question = questionOf(query).bytes;
  const rest = dnsPacket.encode({ type: 'response', ...packet, questions: [] });
  rest.copyWithin(0, 0, 2);
  query.copy(rest, 0, 0, 2);
  rest.writeUInt16BE(flags, 2);
  rest.writeUInt16BE(1, 4);
  return Buffer.concat([rest.subarray(0, 12), question, rest.subarray(12)]);
}

/** What a response says, by a codec that is not ours. */
export function read(response: Uint8Array): dnsPacket.DecodedPacket & { readonly rcode: string } {
  return dnsPacket.decode(Buffer.from(response)) as dnsPacket.DecodedPacket & { readonly rcode: string };
}

/** Bytes that look random and are the same in every run. */
export function* randomBytes(seed: number): Generator<number, never> {
  for (let state = seed >>> 0; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield state >>> 24;
  }
}
