import net from 'node:net';
import { describe, expect, it, onTestFinished } from 'vitest';
import { FrameReader, frame } from '../../../src/dns/stream.ts';
import { TcpUpstream, type TcpUpstreamOptions } from '../../../src/dns/tcp-upstream.ts';
import type { Endpoint } from '../../../src/dns/upstream.ts';
import { stoppedClock, until } from './clock.ts';
import { decoded, plainQuery, queryBytes, questionOf, randomBytes, read, responseTo } from './messages.ts';

/** What a server does with a query; `send` frames the message. */
type Behaviour = (query: Buffer, send: (message: Buffer) => void, socket: net.Socket) => void;

interface TestServer extends Endpoint {
  readonly queries: Buffer[];
  readonly connections: net.Socket[];
}

async function serve(behaviour: Behaviour): Promise<TestServer> {
  const queries: Buffer[] = [];
  const connections: net.Socket[] = [];
  const server = net.createServer((socket) => {
    connections.push(socket);
    const reader = new FrameReader();
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      for (const query of reader.push(chunk)) {
        queries.push(query);
        behaviour(query, (message) => socket.write(frame(message)), socket);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const socket of connections) socket.destroy();
    server.close();
  });
  return { address: '127.0.0.1', port: (server.address() as net.AddressInfo).port, queries, connections };
}

const answer = (query: Buffer, data = '192.0.2.1', flags = 0x8180): Buffer =>
  responseTo(query, { answers: [{ type: 'A', name: 'x', ttl: 1, data }] }, flags);
const wellBehaved: Behaviour = (query, send) => send(answer(query));

function upstream(servers: readonly Endpoint[], options: Partial<TcpUpstreamOptions> = {}): TcpUpstream {
  const made = new TcpUpstream({ servers, ...options });
  onTestFinished(() => made.close());
  return made;
}

async function ask(to: TcpUpstream, name = 'www.example.com', id = 7): Promise<string> {
  const query = queryBytes(name, 1, id);
  const response = read(await to.query(query, questionOf(query)));
  expect(response.id).toBe(id);
  const [record] = response.answers ?? [];
  return record?.type === 'A' ? record.data : response.rcode;
}

/** A port on which nobody listens. */
async function closedPort(): Promise<Endpoint> {
  const server = net.createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return { address: '127.0.0.1', port };
}

describe('queries', () => {
  it('share one connection, and each gets its own answer with its own id', async () => {
    const server = await serve((query, send) => {
      const { hostname = '' } = decoded(query).question.name;
      send(answer(query, `192.0.2.${hostname.split('.')[0]}`));
    });
    const to = upstream([server]);
    // The same id for all: they must not meet.
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => ask(to, `${i}.example`, 7)));
    expect(answers).toEqual(Array.from({ length: 50 }, (_, i) => `192.0.2.${i}`));
    expect(server.connections).toHaveLength(1);
    expect(new Set(server.queries.map((query) => query.readUInt16BE(0))).size).toBe(50);
  });

  it('may be answered in any order, cut anywhere', async () => {
    const waiting: Buffer[] = [];
    const server = await serve((query, _, socket) => {
      waiting.push(query);
      if (waiting.length < 20) return;
      const stream = Buffer.concat(
        waiting
          .reverse()
          .map((one) => frame(answer(one, `192.0.2.${(decoded(one).question.name.hostname ?? '').split('.')[0]}`))),
      );
      for (let at = 0; at < stream.length; at += 7) socket.write(stream.subarray(at, at + 7));
    });
    const to = upstream([server]);
    const answers = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(to, `${i}.example`)));
    expect(answers).toEqual(Array.from({ length: 20 }, (_, i) => `192.0.2.${i}`));
  });

  it('go out as they came but for the id: case, EDNS and options kept', async () => {
    const server = await serve(wellBehaved);
    const query = plainQuery(['wWw', 'eXample'], 1, {
      additional: [Buffer.from('00002904d0000080000006000a00020102', 'hex')],
    });
    const response = await upstream([server]).query(query, questionOf(query));
    expect(server.queries[0]?.subarray(2)).toEqual(query.subarray(2));
    expect(response.includes('wWw\x07eXample')).toBe(true);
  });

  it('are copied: the memory may be used again at once', async () => {
    const server = await serve(wellBehaved);
    const query = queryBytes('www.example.com');
    const pending = upstream([server]).query(query, questionOf(query));
    query.fill(0);
    expect(read(await pending).questions).toMatchObject([{ name: 'www.example.com' }]);
  });

  it('over the bound are refused at once', async () => {
    const server = await serve(() => {});
    const to = upstream([server], { mostInFlight: 3, timeoutMs: 200 });
    const results = await Promise.allSettled([1, 2, 3, 4].map(() => ask(to)));
    expect(results.map((result) => (result.status === 'rejected' ? result.reason.code : 'answered'))).toEqual([
      'E_DNS_TIMEOUT',
      'E_DNS_TIMEOUT',
      'E_DNS_TIMEOUT',
      'E_DNS_BUSY',
    ]);
  });
});

describe('a connection', () => {
  it('that ends before the answer is made anew', async () => {
    let times = 0;
    const server = await serve((query, send, socket) => {
      if (times++ === 0) socket.destroy();
      else send(answer(query));
    });
    const to = upstream([server]);
    expect(await ask(to)).toBe('192.0.2.1');
    expect(to.counters).toMatchObject({ sent: 2, retried: 1, answered: 1 });
  });

  it('on which the server answers one query each costs connections, not answers', async () => {
    const server = await serve((query, send, socket) => {
      if (socket.writableEnded) return;
      send(answer(query));
      socket.end();
    });
    const answers = await Promise.all(Array.from({ length: 30 }, (_, i) => ask(upstream([server]), `${i}.example`)));
    expect(new Set(answers)).toEqual(new Set(['192.0.2.1']));
  });

  it('that is idle is closed, and the next query finds a new one', async () => {
    const server = await serve(wellBehaved);
    const to = upstream([server], { idleMs: 20 });
    await ask(to);
    const [first] = server.connections;
    await new Promise((resolve) => first?.once('close', resolve));
    expect(await ask(to)).toBe('192.0.2.1');
    expect(server.connections).toHaveLength(2);
  });

  it('that the server closes while idle does not cost the next query', async () => {
    const server = await serve(wellBehaved);
    const to = upstream([server]);
    await ask(to);
    const [first] = server.connections;
    // In flight at the same time: the query meets the end of the connection.
    const pending = ask(to);
    first?.destroy();
    expect(await pending).toBe('192.0.2.1');
  });

  it('that has gone silent is given up with all its queries, not one by one', async () => {
    const clock = stoppedClock();
    let isSilent = false;
    const server = await serve((query, send, socket) => {
      if (isSilent && socket === server.connections[0]) return;
      send(answer(query));
    });
    const to = upstream([server], { attemptMs: 100 });
    await ask(to);
    isSilent = true;
    await clock.pass(1);
    const pending = Promise.all([ask(to, 'a.example'), ask(to, 'b.example')]);
    await until(() => server.queries.length === 3);
    await clock.pass(100);
    expect(await pending).toEqual(['192.0.2.1', '192.0.2.1']);
    expect(server.connections).toHaveLength(2);
  });

  it('carries many queries before a second one is opened', async () => {
    const server = await serve((query, send) => setImmediate(() => send(answer(query))));
    const to = upstream([server]);
    await Promise.all(Array.from({ length: 300 }, (_, i) => ask(to, `${i}.example`)));
    expect(server.connections).toHaveLength(2);
  });
});

describe('with several servers', () => {
  it('the next one is asked when one cannot be reached, and first from then on', async () => {
    const server = await serve(wellBehaved);
    const to = upstream([await closedPort(), server]);
    expect(await ask(to)).toBe('192.0.2.1');
    expect(to.counters.retried).toBe(1);
    expect(await ask(to)).toBe('192.0.2.1');
    expect(to.counters.retried).toBe(1);
  });

  it('the next one is asked when one keeps silent', async () => {
    const clock = stoppedClock();
    const silent = await serve(() => {});
    const server = await serve(wellBehaved);
    const pending = ask(upstream([silent, server], { attemptMs: 50 }));
    await until(() => silent.queries.length === 1);
    await clock.pass(50);
    expect(await pending).toBe('192.0.2.1');
  });

  it.each([
    [2, 'SERVFAIL'],
    [4, 'NOTIMP'],
    [5, 'REFUSED'],
  ])('the next one is asked when one answers rcode %i, and when all do the client hears it', async (rcode, name) => {
    const unable = await serve((query, send) => send(responseTo(query, {}, 0x8180 | rcode)));
    const server = await serve(wellBehaved);
    expect(await ask(upstream([unable, server]))).toBe('192.0.2.1');
    expect(await ask(upstream([unable, unable]))).toBe(name);
  });

  it('a server that cannot is better than one that is not there', async () => {
    const unable = await serve((query, send) => send(responseTo(query, {}, 0x8182)));
    expect(await ask(upstream([unable, await closedPort()]))).toBe('SERVFAIL');
  });

  it('no such name is an answer', async () => {
    const first = await serve((query, send) => send(responseTo(query, {}, 0x8183)));
    const second = await serve(wellBehaved);
    expect(await ask(upstream([first, second]))).toBe('NXDOMAIN');
    expect(second.queries).toHaveLength(0);
  });
});

describe('failure', () => {
  it('to reach any server is told at once, with the reason', async () => {
    const nobody = await closedPort();
    await expect(ask(upstream([nobody]))).rejects.toMatchObject({
      code: 'E_DNS_UPSTREAM',
      message: expect.stringMatching(new RegExp(`127.0.0.1:${nobody.port}.*ECONNREFUSED`)),
    });
  });

  it('to get an answer is told at the deadline', async () => {
    const server = await serve(() => {});
    const to = upstream([server], { timeoutMs: 150, attemptMs: 1000 });
    await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_TIMEOUT' });
    expect(to.counters).toMatchObject({ failed: 1, answered: 0 });
  });

  it('to connect in time leaves the connection to the next query', async () => {
    const clock = stoppedClock();
    const server = await serve(wellBehaved);
    let connected: (() => void) | undefined;
    const late = new Promise<void>((resolve) => {
      connected = resolve;
    });
    // A lookup that takes its time: the socket is connecting all the while.
    const lookup: net.LookupFunction = (_host, _options, callback) => {
      void late.then(() => callback(null, [{ address: '127.0.0.1', family: 4 }]));
    };
    const to = upstream([server], {
      timeoutMs: 150,
      attemptMs: 50,
      connect: ({ port }) => net.connect({ host: 'slow.example', port, lookup }),
    });
    const [first] = await Promise.all([Promise.allSettled([ask(to)]), clock.pass(150)]);
    expect(first).toMatchObject([{ reason: { code: 'E_DNS_TIMEOUT' } }]);
    const second = ask(to);
    connected?.();
    expect(await second).toBe('192.0.2.1');
    expect(server.connections).toHaveLength(1);
  });

  it('of all that wait comes with close', async () => {
    const server = await serve(() => {});
    const to = upstream([server]);
    const pending = ask(to);
    to.close();
    to.close();
    await expect(pending).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
    await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
  });
});

describe('a hostile server', () => {
  it('that answers another question, or with another id, is not believed', async () => {
    const server = await serve((query, send) => {
      const other = queryBytes('evil.example');
      query.copy(other, 0, 0, 2);
      send(answer(other, '6.6.6.6'));
      const wrongId = answer(query, '6.6.6.6');
      wrongId.writeUInt16BE((query.readUInt16BE(0) + 1) & 0xffff, 0);
      send(wrongId);
      send(query);
      send(Buffer.alloc(0));
      send(Buffer.from([1]));
      send(answer(query));
    });
    const to = upstream([server]);
    expect(await ask(to)).toBe('192.0.2.1');
    expect(to.counters.ignored).toBe(5);
  });

  it('that answers twice is believed once', async () => {
    const server = await serve((query, send) => {
      send(answer(query));
      send(answer(query, '6.6.6.6'));
    });
    const to = upstream([server]);
    expect([await ask(to), await ask(to)]).toEqual(['192.0.2.1', '192.0.2.1']);
  });

  it('that lies about the length makes its own connection useless, and no more', async () => {
    const clock = stoppedClock();
    const server = await serve((query, send, socket) => {
      if (socket === server.connections[0]) socket.write(Buffer.concat([Buffer.from([0xff, 0xff]), answer(query)]));
      else send(answer(query));
    });
    const pending = ask(upstream([server], { attemptMs: 100 }));
    await until(() => (server.connections[0]?.bytesWritten ?? 0) > 0);
    await clock.pass(100);
    expect(await pending).toBe('192.0.2.1');
  });

  it('that pours out nonsense is left', async () => {
    const server = await serve((_, send) => {
      for (let i = 0; i < 1000; i++) send(Buffer.alloc(12));
    });
    await expect(ask(upstream([server]))).rejects.toMatchObject({ message: expect.stringContaining('not asked') });
  });

  it('that sends random bytes fails the query and nothing else', async () => {
    const random = randomBytes(3);
    const server = await serve((_query, _send, socket) => {
      socket.end(Buffer.from(Array.from({ length: 2000 }, () => random.next().value)));
    });
    const to = upstream([server]);
    for (let i = 0; i < 20; i++) await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
  });
});
