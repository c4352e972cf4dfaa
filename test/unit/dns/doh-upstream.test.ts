import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { describe, expect, it, onTestFinished } from 'vitest';
import { DohUpstream, type DohUpstreamOptions } from '../../../src/dns/doh-upstream.ts';
import { stoppedClock, until } from './clock.ts';
import { queryBytes, questionOf, randomBytes, read, responseTo } from './messages.ts';

// HTTP/2 without TLS: the connection is made by a function, and its certificate is that function's affair.

interface Exchange {
  readonly headers: http2.IncomingHttpHeaders;
  readonly body: Buffer;
  readonly stream: http2.ServerHttp2Stream;
}

const MEDIA_TYPE = 'application/dns-message';

interface TestServer {
  readonly port: number;
  readonly exchanges: Exchange[];
  readonly sessions: http2.ServerHttp2Session[];
}

async function serve(behaviour: (exchange: Exchange) => void): Promise<TestServer> {
  const exchanges: Exchange[] = [];
  const sessions: http2.ServerHttp2Session[] = [];
  const server = http2.createServer();
  server.on('session', (session) => {
    sessions.push(session);
    session.on('error', () => {});
  });
  server.on('stream', (stream, headers) => {
    const chunks: Buffer[] = [];
    stream.on('error', () => {});
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => {
      const exchange = { headers, body: Buffer.concat(chunks), stream };
      exchanges.push(exchange);
      behaviour(exchange);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => {
    for (const session of sessions) session.destroy();
    server.close();
  });
  return { port: (server.address() as net.AddressInfo).port, exchanges, sessions };
}

const URL_OF = { host: 'dns.example', port: 443, authority: 'dns.example', path: '/dns-query?x=1' };
const answer = (query: Buffer): Buffer =>
  responseTo(query, { answers: [{ type: 'A', name: 'x', ttl: 1, data: '192.0.2.1' }] });
const respond = ({ stream, body }: Exchange): void => {
  stream.respond({ ':status': 200, 'content-type': MEDIA_TYPE });
  stream.end(answer(body));
};

function upstream({ port }: Pick<TestServer, 'port'>, options: Partial<DohUpstreamOptions> = {}): DohUpstream {
  const connect = (): Promise<Duplex> =>
    new Promise((resolve, reject) => {
      const socket = net.connect({ host: '127.0.0.1', port });
      socket.once('connect', () => resolve(socket)).once('error', reject);
    });
  const made = new DohUpstream({ url: URL_OF, connect, ...options });
  onTestFinished(() => made.close());
  return made;
}

async function ask(to: DohUpstream, name = 'www.example.com', id = 7): Promise<string> {
  const query = queryBytes(name, 1, id);
  const response = read(await to.query(query, questionOf(query)));
  expect(response.id).toBe(id);
  const [record] = response.answers ?? [];
  return record?.type === 'A' ? record.data : response.rcode;
}

it('a query is a POST of RFC 8484 with id 0', async () => {
  const server = await serve(respond);
  expect(await ask(upstream(server))).toBe('192.0.2.1');
  const [exchange] = server.exchanges;
  expect(exchange?.headers).toMatchObject({
    ':method': 'POST',
    ':scheme': 'https',
    ':authority': 'dns.example',
    ':path': '/dns-query?x=1',
    accept: MEDIA_TYPE,
    'content-type': MEDIA_TYPE,
  });
  expect(exchange?.body).toEqual(queryBytes('www.example.com', 1, 0));
});

it('queries share one connection, also those that come while it is made', async () => {
  const server = await serve(respond);
  const to = upstream(server);
  await Promise.all(Array.from({ length: 50 }, (_, i) => ask(to, `${i}.example`, i)));
  await ask(to);
  expect(server.sessions).toHaveLength(1);
  expect(to.counters).toMatchObject({ sent: 51, answered: 51, retried: 0, failed: 0 });
});

describe('the connection', () => {
  it('is made anew when the server has ended it', async () => {
    const server = await serve(respond);
    const to = upstream(server);
    await ask(to);
    server.sessions[0]?.destroy();
    expect(await ask(to)).toBe('192.0.2.1');
  });

  it('that dies under a query costs it nothing but time', async () => {
    const server = await serve((exchange) => {
      if (server.exchanges.length === 1) server.sessions[0]?.destroy();
      else respond(exchange);
    });
    const to = upstream(server);
    expect(await ask(to)).toBe('192.0.2.1');
    expect(to.counters).toMatchObject({ retried: 1, answered: 1 });
  });

  it('that the server is about to end (GOAWAY) takes no new queries', async () => {
    const server = await serve(respond);
    const sockets: net.Socket[] = [];
    const to = upstream(server, {
      idleMs: 3_600_000, // Not what closes it here.
      connect: async () => {
        const socket = net.connect({ host: '127.0.0.1', port: server.port });
        sockets.push(socket);
        return socket;
      },
    });
    await ask(to);
    server.sessions[0]?.goaway(0);
    while (server.sessions.length < 2) expect(await ask(to)).toBe('192.0.2.1');
    // And is closed by us: the server may leave it open for ever.
    const [ended, used] = sockets;
    if (ended?.closed === false) await once(ended, 'close');
    expect(ended?.destroyed).toBe(true);
    expect(used?.destroyed).toBe(false);
  });

  it('is closed when idle', async () => {
    const server = await serve(respond);
    const to = upstream(server, { idleMs: 20 });
    await ask(to);
    await new Promise<void>((resolve) => server.sessions[0]?.once('close', () => resolve()));
    expect(await ask(to)).toBe('192.0.2.1');
  });

  it('on which nothing comes any more is given up', async () => {
    const clock = stoppedClock();
    const server = await serve((exchange) => {
      if (server.sessions.length > 1) respond(exchange);
    });
    const to = upstream(server, { timeoutMs: 100 });
    const [failed] = await Promise.all([
      Promise.allSettled([ask(to)]),
      until(() => server.exchanges.length === 1).then(() => clock.pass(100)),
    ]);
    expect(failed).toMatchObject([{ reason: { code: 'E_DNS_TIMEOUT' } }]);
    expect(await ask(to)).toBe('192.0.2.1');
    expect(server.sessions).toHaveLength(2);
  });

  it('that cannot be made fails all that wait, with the reason, and is tried anew by the next', async () => {
    let times = 0;
    const server = await serve(respond);
    const to = upstream(server, {
      connect: () => {
        if (times++ > 0) return Promise.resolve(net.connect({ host: '127.0.0.1', port: server.port }));
        return Promise.reject(Object.assign(new Error('no'), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' }));
      },
    });
    const failed = await Promise.allSettled([ask(to), ask(to)]);
    for (const result of failed) {
      expect(result).toMatchObject({
        status: 'rejected',
        reason: { code: 'E_DNS_UPSTREAM', message: expect.stringContaining('ERR_TLS_CERT_ALTNAME_INVALID') },
      });
    }
    expect(await ask(to)).toBe('192.0.2.1');
  });

  it('that takes too long to make is a time-out', async () => {
    const to = upstream({ port: 1 }, { connect: () => new Promise(() => {}), timeoutMs: 50 });
    await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_TIMEOUT' });
  });
});

describe('an answer', () => {
  it.each([
    ['of status 404', { ':status': 404, 'content-type': MEDIA_TYPE }, 'status 404'],
    ['that leads elsewhere', { ':status': 302, location: 'https://evil.example/' }, 'status 302'],
    ['of HTML', { ':status': 200, 'content-type': 'text/html; charset=utf-8' }, 'text/html'],
    ['of no type', { ':status': 200 }, 'something'],
  ])('%s is none, and is not asked for again', async (_, headers, words) => {
    const server = await serve(({ stream, body }) => {
      stream.respond(headers);
      stream.end(answer(body));
    });
    const failure = { code: 'E_DNS_UPSTREAM', message: expect.stringContaining(words) };
    await expect(ask(upstream(server))).rejects.toMatchObject(failure);
    expect(server.exchanges).toHaveLength(1);
  });

  it('may have another 2xx status and parameters behind its type', async () => {
    const server = await serve(({ stream, body }) => {
      stream.respond({ ':status': 203, 'content-type': `Application/DNS-Message; x=y` });
      stream.end(answer(body));
    });
    expect(await ask(upstream(server))).toBe('192.0.2.1');
  });

  it('to another question is not believed', async () => {
    const server = await serve(({ stream }) => {
      stream.respond({ ':status': 200, 'content-type': MEDIA_TYPE });
      stream.end(answer(queryBytes('evil.example', 1, 0)));
    });
    await expect(ask(upstream(server))).rejects.toMatchObject({ message: expect.stringContaining('not asked') });
  });

  it('without end is cut off', async () => {
    const server = await serve(({ stream }) => {
      stream.respond({ ':status': 200, 'content-type': MEDIA_TYPE });
      stream.write(Buffer.alloc(70_000));
    });
    await expect(ask(upstream(server))).rejects.toMatchObject({ message: expect.stringContaining('65535') });
  });

  it('of random bytes fails the query and nothing else', async () => {
    const random = randomBytes(4);
    const server = await serve(({ stream }) => {
      stream.respond({ ':status': 200, 'content-type': MEDIA_TYPE });
      stream.end(Buffer.from(Array.from({ length: random.next().value }, () => random.next().value)));
    });
    const to = upstream(server);
    for (let i = 0; i < 20; i++) await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
    expect(server.sessions).toHaveLength(1);
  });
});

it('a server that speaks no HTTP/2 fails the query', async () => {
  const server = net.createServer((socket) => socket.on('error', () => {}).end('HTTP/1.1 400 Bad Request\r\n\r\n'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  await expect(ask(upstream(server.address() as net.AddressInfo))).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
});

it('more queries than the bound are refused, and close fails those that wait', async () => {
  const to = upstream(await serve(() => {}), { mostInFlight: 1 });
  const pending = ask(to);
  await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_BUSY' });
  await new Promise((resolve) => setImmediate(resolve));
  to.close();
  await expect(pending).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
  await expect(ask(to)).rejects.toMatchObject({ code: 'E_DNS_UPSTREAM' });
});
