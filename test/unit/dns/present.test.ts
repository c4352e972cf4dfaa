import { describe, expect, it } from 'vitest';
import { rcodeName, TYPE, typeName, typeNumber } from '../../../src/dns/numbers.ts';
import { presentResponse, recordLine } from '../../../src/dns/present.ts';
import { queryBytes, randomBytes, responseTo } from './messages.ts';

describe('a response in words', () => {
  it('has its rcode and a line for each answer', () => {
    const response = responseTo(queryBytes('example.com', TYPE.ANY), {
      answers: [
        { type: 'A', name: 'example.com', ttl: 60, data: '192.0.2.1' },
        { type: 'MX', name: 'example.com', ttl: 5, data: { preference: 10, exchange: 'mail.example.com' } },
        { type: 'SRV', name: 'example.com', ttl: 5, data: { port: 443, target: 'a.example', priority: 1, weight: 2 } },
        { type: 'TXT', name: 'example.com', ttl: 5, data: ['v=spf1 "x"', 'b'] },
        { type: 'SSHFP', name: 'example.com', ttl: 5, data: { algorithm: 1, hash: 1, fingerprint: 'ab'.repeat(20) } },
        { type: 'NULL', name: 'example.com', ttl: 5, data: Buffer.from('xyz') },
        {
          type: 'DS',
          name: 'example.com',
          ttl: 5,
          data: { keyTag: 1, algorithm: 2, digestType: 3, digest: Buffer.from('xyz') },
        },
      ],
    });
    const presented = presentResponse(response);
    expect(presented).toMatchObject({ rcode: 'NOERROR', truncated: false });
    expect(presented?.answers.map(recordLine)).toEqual([
      'example.com 60 IN A 192.0.2.1',
      'example.com 5 IN MX 10 mail.example.com',
      'example.com 5 IN SRV 1 2 443 a.example',
      'example.com 5 IN TXT "v=spf1 \\"x\\"" "b"',
      `example.com 5 IN SSHFP {"algorithm":1,"hash":1,"fingerprint":"${'AB'.repeat(20)}"}`,
      'example.com 5 IN NULL \\# 3 78797a',
      'example.com 5 IN DS {"keyTag":1,"algorithm":2,"digestType":3,"digest":"78797a"}',
    ]);
  });

  it('lets no control character reach the terminal', () => {
    const response = responseTo(queryBytes('example.com', TYPE.CNAME), {
      answers: [
        { type: 'CNAME', name: 'example.com', ttl: 1, data: 'evil\x1b[2J.example' },
        { type: 'TXT', name: 'example.com', ttl: 1, data: 'evil\x1b[2J' },
      ],
    });
    const lines = presentResponse(response)?.answers.map(recordLine) ?? [];
    expect(lines).toEqual(['example.com 1 IN CNAME evil?[2J.example', 'example.com 1 IN TXT "evil\\u001b[2J"']);
  });

  it('of any bytes is read or not, without a throw', () => {
    const whole = responseTo(queryBytes('example.com'), {
      answers: [{ type: 'A', name: 'example.com', ttl: 1, data: '192.0.2.1' }],
    });
    for (let length = 0; length < whole.length; length++) presentResponse(whole.subarray(0, length));
    const random = randomBytes(6);
    for (let round = 0; round < 20_000; round++) {
      const bytes = Buffer.from(whole);
      for (let i = 0; i < 4; i++) bytes[random.next().value % bytes.length] = random.next().value;
      for (const record of presentResponse(bytes)?.answers ?? []) expect(recordLine(record)).toMatch(/^[\x20-\x7e]*$/);
    }
  });
});

it('types and rcodes have names', () => {
  expect([
    typeName(65),
    typeName(1234),
    typeNumber('aaaa'),
    typeNumber('TYPE65'),
    typeNumber('type70000'),
    typeNumber('x'),
  ]).toEqual(['HTTPS', 'TYPE1234', 28, 65, undefined, undefined]);
  expect([rcodeName(3), rcodeName(23)]).toEqual(['NXDOMAIN', 'RCODE23']);
});
