import { describe, expect, it } from 'vitest';
import {
  answersQuestion,
  decodeQuery,
  encodeReply,
  isTruncated,
  MOST_UDP_BYTES,
  rcodeOf,
  relayResponse,
  udpLimit,
  withoutAdditional,
} from '../../../src/dns/codec.ts';
import { RCODE, TYPE } from '../../../src/dns/numbers.ts';
import { findRecords } from '../../../src/dns/records.ts';
import { addressBytes } from '../../../src/ip.ts';
import { decoded, opt, plainQuery, queryBytes, questionOf, randomBytes, read, responseTo } from './messages.ts';

const A = (name: string, data: string) => ({ type: 'A', name, ttl: 60, data }) as const;
const OPT = { type: 'OPT', name: '.', udpPayloadSize: 4096, extendedRcode: 0, ednsVersion: 0, flags: 0 } as const;
const optRecord = { ...OPT, flag_do: false, options: [] };

function rcodeIn(message: Uint8Array): number | 'query' | 'ignore' {
  const result = decodeQuery(message);
  return result.kind === 'reply' ? result.rcode : result.kind;
}

describe('a query', () => {
  it('is read: id, flags, question, EDNS', () => {
    const query = decoded(queryBytes('www.example.com', TYPE.AAAA, 7));
    expect(query).toMatchObject({
      id: 7,
      flags: 0x0100,
      question: { name: { hostname: 'www.example.com' }, type: 28, class: 1 },
      edns: { udpSize: 1232, dnssecOk: false },
    });
  });

  it('without EDNS has none, and 512 bytes', () => {
    const query = decoded(plainQuery(['a']));
    expect([query.edns, udpLimit(query)]).toEqual([undefined, 512]);
  });

  it.each([
    [0, 512],
    [511, 512],
    [1000, 1000],
    [4096, MOST_UDP_BYTES],
    [65535, MOST_UDP_BYTES],
  ])('that takes %i bytes gets at most %i', (size, limit) => {
    expect(udpLimit(decoded(plainQuery(['a'], TYPE.A, { additional: [opt(size)] })))).toBe(limit);
  });

  it('cut at any byte is FORMERR, or nothing where not even its header is whole', () => {
    const whole = queryBytes('www.example.com');
    for (let length = 0; length < whole.length; length++) {
      expect(rcodeIn(whole.subarray(0, length))).toBe(length < 12 ? 'ignore' : RCODE.FORMERR);
    }
  });

  it('with anything behind it is FORMERR', () => {
    expect(rcodeIn(Buffer.concat([queryBytes('a.example'), Buffer.from([0])]))).toBe(RCODE.FORMERR);
  });

  it.each([
    ['with no question', 4, 0],
    ['with two questions', 4, 2],
    ['with 65535 questions', 4, 0xffff],
    ['that announces answers', 6, 0xffff],
    ['that announces authority', 8, 1],
    ['that announces more additional records', 10, 2],
    ['that announces fewer additional records', 10, 0],
  ])('%s is FORMERR', (_, at, count) => {
    const query = queryBytes('a.example');
    query.writeUInt16BE(count, at);
    expect(rcodeIn(query)).toBe(RCODE.FORMERR);
  });

  it('that is a response gets nothing: two servers would answer each other for ever', () => {
    const response = queryBytes('a.example');
    response.writeUInt16BE(0x8180, 2);
    expect(rcodeIn(response)).toBe('ignore');
  });

  it('of another opcode is NOTIMP, and the reply repeats the opcode', () => {
    const notify = queryBytes('a.example');
    notify.writeUInt16BE(4 << 11, 2);
    const result = decodeQuery(notify);
    expect(result).toMatchObject({ kind: 'reply', rcode: RCODE.NOTIMP });
    expect(result.kind === 'reply' && result.reply.toString('hex')).toBe('1234a0040000000000000000');
  });

  it('of EDNS version 1 is BADVERS, told in OPT (RFC 6891 §6.1.3)', () => {
    const result = decodeQuery(plainQuery(['a'], TYPE.A, { additional: [opt(1232, 0x00010000)] }));
    expect(result).toMatchObject({ kind: 'reply', rcode: RCODE.BADVERS });
    const reply = read(result.kind === 'reply' ? result.reply : Buffer.alloc(0));
    expect(reply.rcode).toBe('NOERROR');
    expect(reply.additionals).toMatchObject([{ type: 'OPT', extendedRcode: 1, ednsVersion: 0 }]);
  });

  it.each([
    ['two OPT records', [opt(1232), opt(1232)]],
    ['an OPT that is not at the root', [Buffer.concat([Buffer.from([1, 0x61]), opt(1232)])]],
    ['an option that is longer than OPT', [opt(1232, 0, Buffer.from([0, 10, 0, 9, 1, 2]))]],
    ['half an option', [opt(1232, 0, Buffer.from([0, 10]))]],
  ])('with %s is FORMERR', (_, additional) => {
    expect(rcodeIn(plainQuery(['a'], TYPE.A, { additional }))).toBe(RCODE.FORMERR);
  });

  it('with options that we do not know is a query', () => {
    const data = Buffer.from([0xff, 0xfe, 0, 2, 1, 2, 0, 10, 0, 0]);
    expect(rcodeIn(plainQuery(['a'], TYPE.A, { additional: [opt(1232, 0, data)] }))).toBe('query');
  });

  it('for the type OPT is FORMERR', () => {
    expect(rcodeIn(plainQuery(['a'], TYPE.OPT))).toBe(RCODE.FORMERR);
  });

  it('of random bytes, or with random bytes changed, never throws and never gets more than a header back', () => {
    const random = randomBytes(1);
    const whole = plainQuery(['www', 'example'], TYPE.A, { additional: [opt(1232, 0, Buffer.from([0, 10, 0, 1, 7]))] });
    const kinds = new Set<string>();
    for (let round = 0; round < 30_000; round++) {
      const isMutation = round % 2 === 0;
      const message = isMutation ? Buffer.from(whole) : Buffer.alloc(random.next().value);
      if (isMutation) {
        for (let i = 0; i < 3; i++) message[random.next().value % message.length] = random.next().value;
      } else {
        for (let i = 0; i < message.length; i++) message[i] = random.next().value;
      }
      const result = decodeQuery(message);
      kinds.add(result.kind);
      if (result.kind === 'reply' && result.rcode !== RCODE.BADVERS) expect(result.reply).toHaveLength(12);
      if (result.kind === 'query') expect(read(encodeReply(result.query, { rcode: 0 })).id).toBe(result.query.id);
    }
    expect([...kinds].sort()).toEqual(['ignore', 'query', 'reply']);
  });
});

describe('a reply', () => {
  it('holds the question as it came, in its very case (0x20), and the owner points at it', () => {
    const query = decoded(plainQuery(['wWw', 'eXample', 'cOM']));
    const reply = encodeReply(query, {
      rcode: 0,
      answers: [{ type: 'address', ttl: 60, data: addressBytes('198.18.1.2') }],
    });
    expect(reply.includes('wWw\x07eXample\x03cOM')).toBe(true);
    const { questions, answers, flag_ra, flag_rd, flag_aa, id } = read(reply);
    expect(questions).toEqual([{ name: 'wWw.eXample.cOM', type: 'A', class: 'IN' }]);
    expect(answers).toMatchObject([{ name: 'wWw.eXample.cOM', type: 'A', ttl: 60, data: '198.18.1.2' }]);
    expect({ id, flag_ra, flag_rd, flag_aa }).toEqual({ id: 0x1234, flag_ra: true, flag_rd: true, flag_aa: false });
  });

  it('may hold an IPv6 address', () => {
    const answers = [{ type: 'address', ttl: 7, data: addressBytes('fd00::1:2') } as const];
    const reply = read(encodeReply(decoded(plainQuery(['a'], TYPE.AAAA)), { rcode: 0, answers }));
    expect(reply.answers).toMatchObject([{ name: 'a', type: 'AAAA', class: 'IN', ttl: 7, data: 'fd00::1:2' }]);
  });

  it('keeps bytes that are no text', () => {
    const query = decoded(plainQuery(['\xff\0.\xc0', 'example'], TYPE.ANY));
    const reply = encodeReply(query, {
      rcode: 0,
      answers: [{ type: 'HINFO', ttl: 1, data: { cpu: 'RFC8482', os: '' } }],
    });
    expect(reply.subarray(12, 12 + query.question.bytes.length)).toEqual(query.question.bytes);
    const [place] = findRecords(reply, 12 + query.question.bytes.length, 1) ?? [];
    expect(place).toMatchObject({ section: 'answer', type: TYPE.HINFO, class: 1, ttl: 1, end: reply.length });
  });

  it('speaks EDNS only to who does, and keeps DO', () => {
    expect(read(encodeReply(decoded(plainQuery(['a'])), { rcode: 0 })).additionals).toEqual([]);
    const query = decoded(plainQuery(['a'], TYPE.A, { additional: [opt(4096, 0x8000)] }));
    const { additionals } = read(encodeReply(query, { rcode: 0 }));
    expect(additionals).toMatchObject([{ type: 'OPT', udpPayloadSize: 1232, flag_do: true, extendedRcode: 0 }]);
  });

  it('gives back CD and RD, never AD', () => {
    const query = plainQuery(['a']);
    query.writeUInt16BE(0x0130, 2);
    expect(read(encodeReply(decoded(query), { rcode: 0 }))).toMatchObject({
      flag_cd: true,
      flag_rd: true,
      flag_ad: false,
    });
  });

  it('that says no is cacheable: SOA of the root, TTL and minimum alike (RFC 2308)', () => {
    const { rcode, authorities } = read(encodeReply(decoded(plainQuery(['a'])), { rcode: 3, negativeTtl: 30 }));
    expect(rcode).toBe('NXDOMAIN');
    expect(authorities).toMatchObject([{ type: 'SOA', name: '.', ttl: 30, data: { minimum: 30 } }]);
  });

  it('says why, where EDNS lets it (RFC 8914)', () => {
    const query = decoded(queryBytes('a.example'));
    const { additionals } = read(encodeReply(query, { rcode: 2, extendedError: { code: 23, text: 'no route' } }));
    expect(additionals).toMatchObject([{ options: [{ code: 15, data: Buffer.from('\0\x17no route') }] }]);
  });

  it('that is too long says so and holds nothing but question and OPT', () => {
    const query = decoded(queryBytes('a.example'));
    const answers = Array.from(
      { length: 40 },
      (_, i) => ({ type: 'address', ttl: 1, data: addressBytes(`198.18.1.${i}`) }) as const,
    );
    const whole = encodeReply(query, { rcode: 0, answers }, 65535);
    expect([isTruncated(whole), read(whole).answers?.length]).toEqual([false, 40]);
    expect(encodeReply(query, { rcode: 0, answers }, whole.length)).toEqual(whole);
    const cut = read(encodeReply(query, { rcode: 0, answers }, whole.length - 1));
    expect(cut).toMatchObject({ flag_tc: true, answers: [], additionals: [{ type: 'OPT' }] });
  });

  it('to the longest name fits into 512 bytes with everything it may hold', () => {
    const labels = ['a'.repeat(63), 'b'.repeat(63), 'c'.repeat(63), 'd'.repeat(61)];
    const query = decoded(plainQuery(labels, TYPE.A, { additional: [opt(512)] }));
    const extendedError = { code: 23, text: 'x'.repeat(1000) };
    const reply = encodeReply(query, { rcode: 3, negativeTtl: 30, extendedError }, udpLimit(query));
    expect(isTruncated(reply)).toBe(false);
    expect(reply.length).toBeLessThanOrEqual(512);
  });
});

describe('a response', () => {
  const query = queryBytes('www.example.com');
  const question = questionOf(query);

  it('answers a question whatever the case of its letters', () => {
    expect(answersQuestion(responseTo(query), question)).toBe(true);
    const shouting = responseTo(query);
    shouting.write('WWW', 13);
    expect(answersQuestion(shouting, question)).toBe(true);
  });

  it.each([
    ['a query', query],
    ['the response to another name', responseTo(queryBytes('www.example.org'))],
    ['the response to another type', responseTo(queryBytes('www.example.com', TYPE.HTTPS))],
    ['one of another opcode', responseTo(query, {}, 0xa180)],
    ['an empty message', Buffer.alloc(0)],
    ['one without its question, but with success', Buffer.from('123481800000000000000000', 'hex')],
    ['one without its question that says no such name', Buffer.from('123481830000000000000000', 'hex')],
  ])('%s does not answer it', (_, bytes) => {
    expect(answersQuestion(bytes, question)).toBe(false);
  });

  it('in which type 65 looks like the letter A does not answer type 97', () => {
    const asked = questionOf(plainQuery(['a'], 97));
    expect(answersQuestion(responseTo(plainQuery(['a'], 65)), asked)).toBe(false);
  });

  it('that could not read the question may leave it out', () => {
    expect(answersQuestion(Buffer.from('123481810000000000000000', 'hex'), question)).toBe(true);
  });

  it('cut at any byte, or of random bytes, is judged without a throw', () => {
    const whole = responseTo(query, { answers: [A('www.example.com', '192.0.2.1')], additionals: [optRecord] });
    const random = randomBytes(2);
    const judge = (bytes: Buffer): void => {
      if (!answersQuestion(bytes, question)) return;
      rcodeOf(bytes);
      for (const limit of [40, 65535]) expect(relayResponse(decoded(query), bytes, limit).readUInt16BE(0)).toBe(0x1234);
      const trimmed = withoutAdditional(bytes);
      if (trimmed !== undefined) expect(answersQuestion(trimmed, question)).toBe(true);
    };
    for (let length = 0; length <= whole.length; length++) judge(whole.subarray(0, length));
    for (let round = 0; round < 20_000; round++) {
      const bytes = Buffer.from(whole);
      for (let i = 0; i < 3; i++) bytes[random.next().value % bytes.length] = random.next().value;
      judge(bytes);
    }
  });

  it("goes to the client with the client's id and spelling", () => {
    const client = plainQuery(['WwW', 'example', 'com']);
    client.writeUInt16BE(0x7777, 0);
    const server = responseTo(query, { answers: [A('www.example.com', '192.0.2.1')] });
    const relayed = relayResponse(decoded(client), server, 65535);
    expect(read(relayed)).toMatchObject({
      id: 0x7777,
      questions: [{ name: 'WwW.example.com' }],
      answers: [{ data: '192.0.2.1' }],
    });
    expect(server.readUInt16BE(0)).toBe(0x1234);
  });

  it('that does not fit is cut to the question, with TC and its extended rcode', () => {
    const answers = Array.from({ length: 100 }, (_, i) => A('www.example.com', `192.0.2.${i}`));
    const server = responseTo(query, { answers, additionals: [{ ...optRecord, extendedRcode: 1 }] }, 0x8181);
    const relayed = relayResponse(decoded(query), server, 512);
    expect(relayed.length).toBeLessThan(100);
    expect(read(relayed)).toMatchObject({
      flag_tc: true,
      rcode: 'FORMERR',
      questions: [{ name: 'www.example.com' }],
      answers: [],
      additionals: [{ type: 'OPT', extendedRcode: 1 }],
    });
    const plain = relayResponse(decoded(plainQuery(['www', 'example', 'com'])), server, 512);
    expect(read(plain).additionals).toEqual([]);
  });

  it('loses the addresses that a server adds on its own, and keeps the rest', () => {
    const mail = queryBytes('example.com', TYPE.MX);
    const server = responseTo(mail, {
      answers: [{ type: 'MX', name: 'example.com', ttl: 5, data: { preference: 1, exchange: 'mail.example.com' } }],
      authorities: [{ type: 'NS', name: 'example.com', data: 'ns.example.com' }],
      additionals: [A('mail.example.com', '192.0.2.25'), optRecord, A('ns.example.com', '192.0.2.53')],
    });
    const { answers, authorities, additionals } = read(withoutAdditional(server) ?? Buffer.alloc(0));
    expect(answers).toMatchObject([{ type: 'MX', data: { exchange: 'mail.example.com' } }]);
    expect(authorities).toMatchObject([{ type: 'NS' }]);
    expect(additionals).toMatchObject([{ type: 'OPT', udpPayloadSize: 4096 }]);
  });

  it('whose counts lie is not trimmed but refused', () => {
    const server = responseTo(query, { answers: [A('www.example.com', '192.0.2.1')] });
    server.writeUInt16BE(2, 6);
    expect(withoutAdditional(server)).toBeUndefined();
  });
});
