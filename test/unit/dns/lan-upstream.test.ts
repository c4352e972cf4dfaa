import dgram from 'node:dgram';
import { describe, expect, it, onTestFinished } from 'vitest';
import { LanUpstream, type LanUpstreamOptions } from '../../../src/dns/lan-upstream.ts';
import type { Endpoint, Upstream } from '../../../src/dns/upstream.ts';
import { queryBytes, questionOf, read, responseTo } from './messages.ts';

type Behaviour = (query: Buffer, send: (message: Buffer) => void) => void;

interface TestServer extends Endpoint {
  readonly seen: { readonly port: number; readonly id: number }[];
}

async function serve(behaviour: Behaviour, address = '127.0.0.1'): Promise<TestServer> {
  const socket = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4');
  const seen: TestServer['seen'] = [];
  socket.on('message', (query, from) => {
    seen.push({ port: from.port, id: query.readUInt16BE(0) });
    behaviour(query, (message) => socket.send(message, from.port, from.address));
  });
  await new Promise<void>((resolve) => socket.bind(0, address, resolve));
  onTestFinished(() => void socket.close());
  return { address, port: socket.address().port, seen };
}

const answer = (query: Buffer, data = '192.0.2.1', flags = 0x8180): Buffer =>
  responseTo(query, { answers: [{ type: 'A', name: 'x', ttl: 1, data }] }, flags);
const wellBehaved: Behaviour = (query, send) => send(answer(query));

function upstream(servers: readonly Endpoint[], options: Partial<LanUpstreamOptions> = {}): LanUpstream {
  const made = new LanUpstream({ servers, ...options });
  onTestFinished(() => made.close());
  return made;
}

async function ask(to: Upstream, id = 7): Promise<string> {
  const query = queryBytes('printer.local', 1, id);
  const response = read(await to.query(query, questionOf(query)));
  expect(response.id).toBe(id);
  const [record] = response.answers ?? [];
  return record?.type === 'A' ? record.data : response.rcode;
}

async function closedPort(): Promise<Endpoint> {
  const socket = dgram.createSocket('udp4');
  await new Promise<void>((resolve) => socket.bind(0, '127.0.0.1', resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(resolve));
  return { address: '127.0.0.1', port };
}

it('each query has its own port and its own random id', async () => {
  const server = await serve(wellBehaved);
  const to = upstream([server]);
  expect(await Promise.all(Array.from({ length: 30 }, () => ask(to)))).toEqual(Array(30).fill('192.0.2.1'));
  expect(new Set(server.seen.map(({ port }) => port)).size).toBe(30);
  expect(new Set(server.seen.map(({ id }) => id)).size).toBeGreaterThan(25);
});

it('IPv6 resolvers are asked alike', async () => {
  expect(await ask(upstream([await serve(wellBehaved, '::1')]))).toBe('192.0.2.1');
});

it('a lost datagram is sent again', async () => {
  let times = 0;
  const server = await serve((query, send) => {
    if (times++ > 0) send(answer(query));
  });
  expect(await ask(upstream([server], { attemptMs: 50 }))).toBe('192.0.2.1');
});

it('the next resolver is asked when one is not there, at once, or keeps silent', async () => {
  const silent = await serve(() => {});
  const server = await serve(wellBehaved);
  const to = upstream([await closedPort(), silent, server], { attemptMs: 100 });
  expect(await ask(to)).toBe('192.0.2.1');
  expect(to.counters).toMatchObject({ retried: 2, answered: 1, failed: 0 });
});

it('what is no answer to the question is passed over', async () => {
  const server = await serve((query, send) => {
    const wrongId = answer(query, '6.6.6.6');
    wrongId.writeUInt16BE((query.readUInt16BE(0) + 1) & 0xffff, 0);
    send(wrongId);
    const other = queryBytes('evil.local');
    query.copy(other, 0, 0, 2);
    send(answer(other, '6.6.6.6'));
    send(Buffer.from([1]));
    send(answer(query));
  });
  const to = upstream([server]);
  expect(await ask(to)).toBe('192.0.2.1');
  expect(to.counters.ignored).toBe(3);
});

it('an answer that does not fit is fetched by TCP', async () => {
  const server = await serve((query, send) => send(responseTo(query, {}, 0x8380)));
  const asked: Buffer[] = [];
  const tcp: Upstream = {
    query: async (message) => {
      asked.push(Buffer.from(message));
      return answer(Buffer.from(message), '192.0.2.2');
    },
    close: () => {},
  };
  expect(await ask(upstream([server], { tcp }))).toBe('192.0.2.2');
  expect(asked).toEqual([queryBytes('printer.local', 1, 7)]);
});

it('nobody there is told at once, with the reason', async () => {
  const to = upstream([await closedPort()]);
  await expect(ask(to)).rejects.toMatchObject({
    code: 'E_DNS_UPSTREAM',
    message: expect.stringContaining('ECONNREFUSED'),
  });
});

it('silence is told at the deadline', async () => {
  const to = upstream([await serve(() => {})], { timeoutMs: 120, attemptMs: 50 });
  await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_TIMEOUT' });
});

it('more queries than the bound are refused, and close fails those that wait', async () => {
  const to = upstream([await serve(() => {})], { mostInFlight: 1 });
  const pending = ask(to);
  await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_BUSY' });
  to.close();
  await expect(pending).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
  await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
});

describe('the sockets', () => {
  it('may be made by somebody else, who marks them', async () => {
    const server = await serve(wellBehaved);
    const made: number[] = [];
    const openSocket = (family: 4 | 6): dgram.Socket => {
      made.push(family);
      return dgram.createSocket('udp4');
    };
    expect(await ask(upstream([server], { openSocket }))).toBe('192.0.2.1');
    expect(made).toEqual([4]);
  });
});
