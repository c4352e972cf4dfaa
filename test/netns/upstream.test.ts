/** What a program sees of proxies that refuse, stall, stutter, lie or want credentials: connect() tells the truth. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { connectTo, expectEcho, HalfClose, labload, startLabProxy } from './lab.ts';
import { originUrl, startNginx, startSquid, startTinyproxy } from './servers.ts';
import { ADDRESS, bracketed, makeTopology, type Topology } from './topology.ts';

const LAB_PORT = 8890;
const CREDENTIALS = { user: 'user name', password: 'p:ss/w@rd%20' } as const;
const LOCKED_SQUID = 3129;
const LOCKED_LAB = 8891;
const PROXY_DELAY_MS = 400;

let topology: Topology;
let cli: Cli;

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startNginx(topology);
  await startTinyproxy(topology, 8888, { connectPorts: [8080] });
  await startSquid(topology);
  await startSquid(topology, LOCKED_SQUID, { credentials: CREDENTIALS });
  await startLabProxy(topology.net, LAB_PORT);
  await startLabProxy(topology.net, LOCKED_LAB, ['-a', `${CREDENTIALS.user}:${CREDENTIALS.password}`]);
});
afterEach(() => cli.down());
afterAll(() => topology.remove());

const withCredentials = (port: number): string =>
  `http://${encodeURIComponent(CREDENTIALS.user)}:${encodeURIComponent(CREDENTIALS.password)}@${ADDRESS.net.v4}:${port}`;

const refusedAt = async (destination: string, port: number): Promise<string> =>
  (await connectTo(topology.app, destination, port)).connect;

async function fetchHello(family: 'v4' | 'v6'): Promise<string> {
  return topology.app.must(['curl', '-sS', '--max-time', '15', originUrl(family, '/hello')]);
}

describe.each(['v4', 'v6'] as const)('real proxies, destination %s', (family) => {
  const origin = ADDRESS.origin[family];
  const page = 'hello from the origin\n';

  test('squid that denies the port: ECONNREFUSED', async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:3128`]);
    expect(await refusedAt(origin, 9999)).toBe('ECONNREFUSED');
    expect((await cli.status()).flows).toMatchObject({ refused: 1, opened: 0 });
    expect(await fetchHello(family)).toBe(page);
  });

  test('squid that finds the destination closed: ECONNREFUSED', async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:3128`]);
    expect(await refusedAt(origin, 2222)).toBe('ECONNREFUSED');
  });

  test('tinyproxy that denies the port: ECONNREFUSED', async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:8888`]);
    expect(await refusedAt(origin, 8443)).toBe('ECONNREFUSED');
    expect(await fetchHello(family)).toBe(page);
  });

  test('squid with Basic authentication: with the credentials it works', async () => {
    await cli.up(['--proxy', withCredentials(LOCKED_SQUID)]);
    expect(await fetchHello(family)).toBe(page);
  });
});

test('labproxy with Basic authentication: with the credentials it works', async () => {
  await cli.up(['--proxy', withCredentials(LOCKED_LAB)]);
  await expectEcho(topology.app, ADDRESS.origin.v4, 9014);
});

describe.each(['v4', 'v6'] as const)('refusals, destination %s', (family) => {
  const destination = ADDRESS.origin[family];
  /** @param patience seconds; the longest is far longer than connectTo waits, so that what it tells came at once */
  const up = (patience: '2' | '600') =>
    cli.up(['--proxy', `${bracketed(ADDRESS.net[family])}:${LAB_PORT}`, '--connect-timeout', patience]);

  test.each([
    [9010, '502 Bad Gateway'],
    [9017, '403 Forbidden'],
    [9025, '407 with schemes that nobody asked for'],
  ])('port %i, %s: ECONNREFUSED at once', async (port) => {
    await up('600');
    expect(await refusedAt(destination, port)).toBe('ECONNREFUSED');
    expect((await cli.status()).flows).toMatchObject({ refused: 1, opened: 0, active: 0 });
  });

  test('port 9026, 504 Gateway Timeout: connect() fails at once, and not as if the peer had answered', async () => {
    await up('600');
    expect(await refusedAt(destination, 9026)).toMatch(/^E(HOSTUNREACH|NETUNREACH)$/);
  });

  test('a refusal that takes the proxy 400 ms reaches connect() then and not before, twenty times', async () => {
    await up('600');
    const seen = await Promise.all(Array.from({ length: 20 }, () => connectTo(topology.app, destination, 9019)));
    for (const { connect, connect_ms } of seen) {
      expect(connect).toBe('ECONNREFUSED');
      expect(connect_ms).toBeGreaterThan(PROXY_DELAY_MS - 20);
    }
  });

  test('port 9013, closed without an answer: connect() fails at once', async () => {
    await up('600');
    expect(await refusedAt(destination, 9013)).toMatch(/^E(CONNREFUSED|HOSTUNREACH|NETUNREACH)$/);
  });

  test.each([
    [9011, 'never an answer'],
    [9023, 'half an answer'],
  ])('port %i, %s: connect() fails after --connect-timeout, not before', async (port) => {
    await up('2');
    const seen = await connectTo(topology.app, destination, port);
    // Of connectTo's own time-out it would be ETIMEDOUT.
    expect(seen.connect).toBe('EHOSTUNREACH');
    expect(seen.connect_ms).toBeGreaterThan(1800);
  });

  test.each([
    [9021, 'a head without end'],
    [9022, 'something that is not HTTP'],
  ])('port %i, %s: connect() fails, and the tunnel goes on', async (port) => {
    await up('2');
    const seen = await connectTo(topology.app, destination, port);
    expect(seen.connect).toMatch(/^E(CONNREFUSED|HOSTUNREACH|TIMEDOUT|CONNRESET)$/);
    await expectEcho(topology.app, destination);
    expect((await cli.status()).state).toBe('up');
  });
});

describe.each(['v4', 'v6'] as const)('successes, destination %s', (family) => {
  const destination = ADDRESS.origin[family];
  beforeEach(() => cli.up(['--proxy', `${bracketed(ADDRESS.net[family])}:${LAB_PORT}`, '--killswitch']));

  test.each([
    [9014, 'a byte at a time'],
    [9020, 'with 100 Continue before it'],
    [9024, 'as 204'],
    [9003, 'as ever'],
  ])('port %i, the answer comes %s: bytes are echoed', async (port) => {
    await expectEcho(topology.app, destination, port);
  });

  test('port 9015: bytes in the same segment as the answer belong to the program, Content-Length or not', async () => {
    const read = `exec 3<>/dev/tcp/${destination}/9015; head -n 1 <&3; echo more >&3; head -n 1 <&3`;
    expect(await topology.app.must(['bash', '-c', read], { timeoutMs: 10_000 })).toBe('BANNER hello\r\nmore\n');
  });

  test('port 9012: an RST right behind the 200 is an RST', async () => {
    const seen = await connectTo(topology.app, destination, 9012);
    // The RST may overtake the handshake's last step; both ways the program learns of it at once.
    if (seen.connect === 'OK') expect(seen.first_read).toBe('ECONNRESET');
    else expect(seen.connect).toMatch(/^E(CONNREFUSED|CONNRESET)$/);
  });

  test('half-close and reset arrive as what they are, both ways, and no byte is lost on the way', async () => {
    const { result } = await labload(topology.app, HalfClose, ['halfclose', '--dst', destination]);
    expect(result).toEqual({
      client_fin_then_reply: 'ok',
      client_fin_long_download: 'ok',
      origin_fin_client_sends: 'ok',
      origin_rst_app_sees: 'ECONNRESET',
      client_rst_origin_sees: 'RST',
      server_first_coalesced: 'ok',
      slow_connect_early_data: expect.stringMatching(/^ok connect=([4-9]\d\d|\d{4,})ms$/),
      client_close_mid_stream: expect.stringMatching(/^ok /),
    });
  });
});

describe('--early-accept', () => {
  test('connect() succeeds before the proxy has answered; no answer or a refusal resets the connection afterwards', async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${LAB_PORT}`, '--early-accept', '--connect-timeout', '2']);
    // 9011 is never answered; 9019 is refused.
    for (const port of [9011, 9019]) {
      const seen = await connectTo(topology.app, ADDRESS.origin.v4, port);
      expect(seen).toMatchObject({ connect: 'OK', first_read: 'ECONNRESET' });
    }
  });

  test('a server that speaks first is heard before the program has sent anything', async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${LAB_PORT}`, '--early-accept']);
    const { result } = await labload(topology.app, HalfClose, ['halfclose', '--dst', ADDRESS.origin.v4]);
    expect(result).toEqual({
      client_fin_then_reply: 'ok',
      client_fin_long_download: 'ok',
      origin_fin_client_sends: 'ok',
      origin_rst_app_sees: 'ECONNRESET',
      client_rst_origin_sees: 'RST',
      server_first_coalesced: 'ok',
      slow_connect_early_data: expect.stringMatching(/^ok connect=\d+ms$/),
      client_close_mid_stream: expect.stringMatching(/^ok /),
    });
  });
});

describe('--idle-timeout', () => {
  test('ends a silent connection, not one that talks', async () => {
    await cli.up(['--proxy', `${ADDRESS.net.v4}:${LAB_PORT}`, '--idle-timeout', '10']);
    const open = `exec 3<>/dev/tcp/${ADDRESS.origin.v4}/9003`;
    const talk = 'i=0; while echo $((i += 1)) >&3 && read -r a <&3; do echo $a; sleep 0.2; done';
    const talking = topology.app.start(['bash', '-c', `${open}; ${talk}`]);
    await talking.until('the first word', () => talking.stdout.includes('\n'));
    const silent = topology.app.start(['bash', '-c', `${open}; cat <&3; echo ended`]);
    await silent.until('end of the silent one', () => silent.stdout.includes('ended'), 60_000);
    const before = talking.stdout.length;
    await talking.until('more of the talk', () => talking.stdout.length > before);
    await talking.stop();
  });
});

describe('the proxy goes away while the tunnel is up', () => {
  test('connect() fails at once; when it is back, traffic flows again without another up', async () => {
    const first = await startLabProxy(topology.net, 8895);
    await cli.up(['--proxy', `${ADDRESS.net.v4}:8895`, '--killswitch', '--connect-timeout', '600']);
    await expectEcho(topology.app, ADDRESS.origin.v4);
    await first.server.stop();
    expect(await refusedAt(ADDRESS.origin.v4, 9014)).toMatch(/^E(CONNREFUSED|HOSTUNREACH|NETUNREACH)$/);
    const second = await startLabProxy(topology.net, 8895);
    await expectEcho(topology.app, ADDRESS.origin.v4);
    await second.server.stop();
  });
});
