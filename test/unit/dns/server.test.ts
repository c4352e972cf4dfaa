import { describe, expect, it } from 'vitest';
import type { Datagram } from '../../../src/datagram.ts';
import { bypassRules } from '../../../src/dns/bypass.ts';
import type { Question } from '../../../src/dns/codec.ts';
import type { DecisionRules } from '../../../src/dns/decision.ts';
import { NameMap } from '../../../src/dns/name-map.ts';
import { TYPE } from '../../../src/dns/numbers.ts';
import { DnsServer, type DnsServerOptions } from '../../../src/dns/server.ts';
import { type Upstream, upstreamFailed } from '../../../src/dns/upstream.ts';
import { DEFAULT_RANGE_4, DEFAULT_RANGE_6, VirtualRange } from '../../../src/dns/virtual-range.ts';
import { addressBytes, familyOf } from '../../../src/ip.ts';
import { decoded, hostName, opt, plainQuery, queryBytes, randomBytes, read, responseTo } from './messages.ts';

const range = new VirtualRange(DEFAULT_RANGE_4, DEFAULT_RANGE_6);

/** Answers when told to. */
class ManualUpstream implements Upstream {
  readonly asked: {
    readonly message: Buffer;
    readonly question: Question;
    readonly answer: (response: Buffer) => void;
    readonly fail: (error: unknown) => void;
  }[] = [];

  query(message: Uint8Array, question: Question): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      this.asked.push({ message: Buffer.from(message), question, answer: resolve, fail: reject });
    });
  }

  close(): void {}
}

interface Harness {
  readonly server: DnsServer;
  readonly names: NameMap;
  readonly batches: (readonly Datagram[])[];
  readonly problems: string[];
  readonly events: string[];
  clock: number;
}

function start(
  rules: Partial<DecisionRules> = {},
  options: Partial<DnsServerOptions> & { readonly mostNames?: number } = {},
): Harness {
  const events: string[] = [];
  const harness: Omit<Harness, 'server' | 'names'> = { batches: [], problems: [], events, clock: 0 };
  const names = NameMap.open(
    {
      range,
      holdMs: 120_000,
      mostNames: options.mostNames ?? 1000,
      onChange: (changes) => events.push(`names ${changes.map(({ hostname }) => hostname).join()}`),
    },
    0,
  );
  const server = new DnsServer({
    rules: {
      mode: 'virtual',
      ipv6: true,
      bypass: bypassRules([hostName('local')], true),
      relaysOtherTypes: false,
      isVirtual: (address) => range.covers(address),
      hosts: new Map(),
      ttl: 60,
      ...rules,
    },
    names,
    relay: undefined,
    lan: undefined,
    send: (replies) => {
      events.push(`send ${replies.length}`);
      harness.batches.push(replies);
    },
    ttl: 60,
    negativeTtl: 30,
    nowMs: () => harness.clock,
    onProblem: (text) => harness.problems.push(text),
    ...options,
  });
  return Object.assign(harness, { server, names });
}

function datagram(payload: Uint8Array, client = '10.0.0.1:4000', serverAddress = '192.0.2.53'): Datagram {
  const [clientAddress = '', clientPort] = client.split(':');
  return { family: 4, clientAddress, clientPort: Number(clientPort), serverAddress, serverPort: 53, payload };
}

/** By stream, so that there is a reply to wait for. */
async function ask({ server }: Harness, query: Buffer) {
  const reply = await server.answerStream(query);
  if (reply === undefined) throw new Error('no reply');
  return read(reply);
}

async function addressOf(harness: Harness, name: string, type: number = TYPE.A): Promise<string> {
  const { answers = [], rcode } = await ask(harness, queryBytes(name, type));
  const [record] = answers;
  return record?.type === 'A' || record?.type === 'AAAA' ? record.data : rcode;
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

describe('a batch of datagrams', () => {
  it('is answered in one batch, each to its own client, as if by the server that was asked', () => {
    const harness = start();
    const queries = ['a.example', 'b.example'].map((name, i) =>
      datagram(queryBytes(name, TYPE.A, i), `10.0.0.${i}:400${i}`, `192.0.2.${i}`),
    );
    harness.server.receive(queries);
    expect(harness.batches).toHaveLength(1);
    for (const [i, reply] of (harness.batches[0] ?? []).entries()) {
      expect({ ...reply, payload: undefined }).toEqual({ ...queries[i], payload: undefined });
      const { id, questions } = read(reply.payload);
      expect([id, questions?.[0]?.name]).toEqual([i, `${'ab'[i]}.example`]);
    }
  });

  it('is told only when its names are written and known to the engine', () => {
    const harness = start();
    harness.server.receive([datagram(queryBytes('a.example')), datagram(queryBytes('b.example'))]);
    expect(harness.events).toEqual(['names a.example,b.example', 'send 2']);
  });

  it('with malformed ones among it loses only those', () => {
    const harness = start();
    const response = queryBytes('a.example');
    response.writeUInt16BE(0x8180, 2);
    harness.server.receive([
      datagram(Buffer.alloc(3)),
      datagram(response),
      datagram(Buffer.alloc(12)),
      datagram(queryBytes('a.example')),
    ]);
    expect(harness.batches[0]?.map(({ payload }) => read(payload).rcode)).toEqual(['FORMERR', 'NOERROR']);
    expect(harness.server.counters).toMatchObject({ udpQueries: 4, ignored: 2, malformed: 1, virtual: 1 });
  });

  it('of random bytes never throws', () => {
    const harness = start({ relaysOtherTypes: true });
    const random = randomBytes(5);
    for (let round = 0; round < 3000; round++) {
      const query = round % 2 === 0 ? queryBytes('www.example.com') : Buffer.alloc(random.next().value);
      for (let i = 0; i < 4 && query.length > 0; i++) query[random.next().value % query.length] = random.next().value;
      harness.server.receive([datagram(query)]);
    }
    expect(harness.server.counters.udpQueries).toBe(3000);
  });

  it('may lie in memory that is used again at once, also where the answer comes later', async () => {
    const relay = new ManualUpstream();
    const harness = start({ mode: 'over-tcp' }, { relay });
    const query = queryBytes('www.example.com', TYPE.A, 9);
    const memory = Buffer.concat([Buffer.alloc(5), query]);
    harness.server.receive([datagram(memory.subarray(5))]);
    memory.fill(0xff);
    expect(relay.asked[0]?.message).toEqual(query);
    relay.asked[0]?.answer(responseTo(query));
    await settled();
    expect(read(harness.batches[0]?.[0]?.payload ?? Buffer.alloc(0))).toMatchObject({
      id: 9,
      questions: [{ name: 'www.example.com' }],
    });
  });
});

describe('virtual mode', () => {
  it('gives a name one address of each family, again and again, and the address its name', async () => {
    const harness = start();
    const v4 = await addressOf(harness, 'www.example.com');
    const v6 = await addressOf(harness, 'WWW.example.com', TYPE.AAAA);
    expect([familyOf(v4), familyOf(v6)]).toEqual([4, 6]);
    expect(await addressOf(harness, 'www.example.com')).toBe(v4);
    expect(range.slotOf(addressBytes(v4))).toBe(range.slotOf(addressBytes(v6)));
    const reverse = `${v4.split('.').reverse().join('.')}.in-addr.arpa`;
    const { answers } = await ask(harness, queryBytes(reverse, TYPE.PTR));
    expect(answers).toMatchObject([{ type: 'PTR', data: 'www.example.com', ttl: 60 }]);
  });

  it('a virtual address that stands for nothing has no name', async () => {
    const { rcode, authorities } = await ask(start(), queryBytes('1.1.18.198.in-addr.arpa', TYPE.PTR));
    expect([rcode, authorities?.[0]?.type]).toEqual(['NXDOMAIN', 'SOA']);
  });

  it.each([
    ['HTTPS', TYPE.HTTPS],
    ['SVCB', TYPE.SVCB],
    ['MX', TYPE.MX],
  ])('%s is answered at once: no such data, and cacheable', async (_, type) => {
    const { rcode, answers, authorities } = await ask(start(), queryBytes('www.example.com', type));
    expect([rcode, answers, authorities]).toMatchObject([
      'NOERROR',
      [],
      [{ type: 'SOA', ttl: 30, data: { minimum: 30 } }],
    ]);
  });

  it('no query without a server to ask waits for anything', () => {
    const harness = start();
    const batch = Array.from({ length: 260 }, (_, type) => datagram(plainQuery(['www', 'example'], type)));
    harness.server.receive(batch);
    expect(harness.batches.flat()).toHaveLength(260);
    expect(harness.server.counters.waiting).toBe(0);
  });

  it('when all names are in use says SERVFAIL and why', async () => {
    const harness = start({}, { mostNames: 2 });
    await addressOf(harness, 'a.example');
    await addressOf(harness, 'b.example');
    const reply = await ask(harness, queryBytes('c.example'));
    expect(reply.rcode).toBe('SERVFAIL');
    expect(reply.additionals).toMatchObject([
      { options: [{ code: 15, data: Buffer.from('\0\0all 2 names are in use') }] },
    ]);
    expect(await addressOf(harness, 'a.example')).toMatch(/^198\.1[89]\./);
    await ask(harness, queryBytes('d.example'));
    expect(harness.problems).toEqual(['all 2 names are in use']);
    harness.clock = 10_000;
    await ask(harness, queryBytes('d.example'));
    expect(harness.problems).toHaveLength(2);
  });

  it('relays other types when asked to, and drops the addresses a server adds', async () => {
    const relay = new ManualUpstream();
    const harness = start({ relaysOtherTypes: true }, { relay });
    const query = queryBytes('example.com', TYPE.MX, 3);
    const pending = ask(harness, query);
    relay.asked[0]?.answer(
      responseTo(query, {
        answers: [{ type: 'MX', name: 'example.com', ttl: 9, data: { preference: 1, exchange: 'mail.example.com' } }],
        additionals: [{ type: 'A', name: 'mail.example.com', ttl: 9, data: '192.0.2.25' }],
      }),
    );
    const { answers, additionals } = await pending;
    expect([answers?.[0]?.type, additionals]).toEqual(['MX', []]);
    expect(harness.server.counters).toMatchObject({ relayed: 1, waiting: 0 });
  });
});

describe.each(['over-tcp', 'doh'] as const)('%s mode', (mode) => {
  it('relays the query as it came and the answer with its id', async () => {
    const relay = new ManualUpstream();
    const harness = start({ mode }, { relay });
    const query = plainQuery(['wWw', 'example'], TYPE.HTTPS, { additional: [opt(4096, 0x8000)] });
    const pending = ask(harness, query);
    expect(relay.asked[0]?.message).toEqual(query);
    relay.asked[0]?.answer(responseTo(query, { answers: [{ type: 'A', name: 'x', ttl: 1, data: '192.0.2.1' }] }));
    expect(await pending).toMatchObject({
      id: 0x1234,
      questions: [{ name: 'wWw.example' }],
      answers: [{ data: '192.0.2.1' }],
    });
  });

  it('cuts what does not fit into the datagram, and gives all by stream', async () => {
    const relay = new ManualUpstream();
    const harness = start({ mode }, { relay });
    const query = queryBytes('www.example.com');
    const answers = Array.from(
      { length: 200 },
      (_, i) => ({ type: 'A', name: 'www.example.com', ttl: 1, data: `192.0.2.${i}` }) as const,
    );
    harness.server.receive([datagram(query)]);
    const pending = ask(harness, query);
    for (const asked of relay.asked) asked.answer(responseTo(query, { answers }));
    expect((await pending).answers).toHaveLength(200);
    const payload = harness.batches[0]?.[0]?.payload ?? Buffer.alloc(0);
    expect([read(payload).flag_tc, read(payload).answers]).toEqual([true, []]);
  });

  it('says SERVFAIL and why when the server cannot be asked, once in a while also to the log', async () => {
    const relay = new ManualUpstream();
    const harness = start({ mode }, { relay });
    for (const name of ['a.example', 'b.example']) {
      const pending = ask(harness, queryBytes(name));
      relay.asked.at(-1)?.fail(upstreamFailed('the DNS server 10.0.0.53', 'ECONNREFUSED'));
      const reply = await pending;
      expect([reply.rcode, JSON.stringify(reply.additionals)]).toEqual([
        'SERVFAIL',
        expect.stringContaining('"code":15'),
      ]);
    }
    expect(harness.problems).toEqual(['a.example A: the DNS server 10.0.0.53 cannot be asked: ECONNREFUSED']);
    expect(harness.server.counters).toMatchObject({ failed: 2, waiting: 0 });
  });

  it('does not pass on an answer to another question, nor dies of a bug behind it', async () => {
    const relay = new ManualUpstream();
    const harness = start({ mode }, { relay });
    const first = ask(harness, queryBytes('a.example'));
    relay.asked[0]?.answer(responseTo(queryBytes('evil.example')));
    expect((await first).rcode).toBe('SERVFAIL');
    const second = ask(harness, queryBytes('a.example'));
    relay.asked[1]?.fail(new TypeError('a bug'));
    expect((await second).rcode).toBe('SERVFAIL');
  });

  it('without a server says SERVFAIL', async () => {
    expect((await ask(start({ mode }), queryBytes('a.example'))).rcode).toBe('SERVFAIL');
  });
});

describe('local names', () => {
  it('go to the resolver of the local network, its answer comes back whole', async () => {
    const lan = new ManualUpstream();
    const harness = start({}, { lan });
    const query = queryBytes('printer.local');
    const pending = ask(harness, query);
    lan.asked[0]?.answer(
      responseTo(query, { answers: [{ type: 'A', name: 'printer.local', ttl: 1, data: '192.168.1.9' }] }),
    );
    expect((await pending).answers).toMatchObject([{ data: '192.168.1.9' }]);
    expect(harness.server.counters).toMatchObject({ lan: 1, virtual: 0, relayed: 0 });
    expect(harness.names.counters.names).toBe(0);
  });

  it('do not exist where no such resolver may be asked, so that search lists go on', async () => {
    const reply = await ask(start(), queryBytes('printer'));
    expect([reply.rcode, reply.authorities?.[0]?.type, JSON.stringify(reply.additionals)]).toEqual([
      'NXDOMAIN',
      'SOA',
      expect.stringContaining('"code":15'),
    ]);
  });

  it('are SERVFAIL when it does not answer: they may exist', async () => {
    const lan = new ManualUpstream();
    const harness = start({}, { lan });
    const pending = ask(harness, queryBytes('printer'));
    lan.asked[0]?.fail(upstreamFailed('the resolver 10.0.0.1', 'it keeps silent'));
    expect((await pending).rcode).toBe('SERVFAIL');
  });
});

it('direct mode answers nothing by itself', async () => {
  expect((await ask(start({ mode: 'direct' }), queryBytes('a.example'))).rcode).toBe('REFUSED');
});

it('what is no query gets no reply on a stream either', async () => {
  const { server } = start();
  expect(await server.answerStream(Buffer.alloc(5))).toBeUndefined();
  expect(server.counters).toMatchObject({ tcpQueries: 1, ignored: 1 });
});

it('20,000 names are answered without a mix-up', () => {
  const harness = start({}, { mostNames: 20_000 });
  const seen = new Map<string, string>();
  for (let i = 0; i < 20_000; i += 50) {
    const batch = Array.from({ length: 50 }, (_, k) => datagram(queryBytes(`host-${i + k}.example`, TYPE.A, k)));
    harness.server.receive(batch);
  }
  for (const { payload } of harness.batches.flat()) {
    const { questions, answers } = read(payload);
    const [record] = answers ?? [];
    seen.set(questions?.[0]?.name ?? '', record?.type === 'A' ? record.data : '');
  }
  expect([seen.size, new Set(seen.values()).size]).toEqual([20_000, 20_000]);
  for (const [name, address] of seen)
    if (harness.names.nameOfAddress(addressBytes(address)) !== name) throw new Error(name);
  expect(decoded(queryBytes('host-1.example')).question.name.hostname).toBe('host-1.example');
});
