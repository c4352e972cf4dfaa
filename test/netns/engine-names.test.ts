/** Names and datagrams in the engine, with two queues and the kernel's own TCP and UDP on the other side. */
import dgram from 'node:dgram';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { SERVICE_SLOTS, VirtualRange } from '../../src/dns/virtual-range.ts';
import { parsePrefix } from '../../src/ip.ts';
import { native } from '../../src/native.ts';
import { type Engine, startEngine } from '../../src/tunstack/engine.ts';
import type { FlowEvent } from '../../src/tunstack/flow.ts';
import { run } from './process.ts';

const DEVICE = 'pvpnnames0';
const QUEUES = 2;
const SERVERS = { 4: '192.0.2.53', 6: '2001:db8::53' } as const;
const NAMED_SLOTS = 40;

const range = new VirtualRange(parsePrefix('198.18.0.0/15'), parsePrefix('fd70:7670:6e00:1::/64'));
const flowWords = new Uint32Array(new SharedArrayBuffer(4 * (range.slots + SERVICE_SLOTS)));
const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'engine-names-'));
const dnsSocket = path.join(directory, 'dns.sock');
const events: FlowEvent[] = [];
let batches = 0;
let engine: Engine;
let proxy: http.Server;
let streams: net.Server;
let fds: readonly number[] = [];

/** Answers every CONNECT, and says behind it what was asked for. */
async function startProxy(): Promise<number> {
  proxy = http.createServer();
  proxy.on('connect', (request, socket) => {
    socket.on('error', () => {});
    socket.end(`HTTP/1.1 200 OK\r\n\r\n${request.url}`);
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  return (proxy.address() as net.AddressInfo).port;
}

/** Says what it was told and asked. */
async function startStreams(): Promise<void> {
  streams = net.createServer((stream) => {
    stream.on('error', () => {});
    stream.once('data', (head) => stream.end(head));
  });
  streams.listen(dnsSocket);
  await once(streams, 'listening');
}

async function ip(...args: string[]): Promise<void> {
  const { code, stderr } = await run(['ip', ...args]);
  expect([code, stderr]).toEqual([0, '']);
}

beforeAll(async () => {
  const tun = native().openTun(DEVICE, QUEUES);
  fds = [...tun.fds, ...tun.writerFds];
  await ip('addr', 'add', '198.18.0.1/32', 'dev', DEVICE);
  await ip('addr', 'add', 'fd70:7670:6e00::1/128', 'dev', DEVICE, 'nodad');
  await ip('link', 'set', DEVICE, 'up');
  for (const to of ['198.18.0.0/15', '192.0.2.0/24']) await ip('route', 'add', to, 'dev', DEVICE);
  for (const to of ['fd70:7670:6e00:1::/64', '2001:db8::/32']) await ip('-6', 'route', 'add', to, 'dev', DEVICE);
  await startStreams();
  const port = await startProxy();
  engine = startEngine(
    {
      tunFds: tun.fds,
      tunWriterFds: tun.writerFds,
      mtu: 1500,
      upstreams: [{ address: '127.0.0.1', port }],
      request: { head: 'CONNECT ', middle: ' HTTP/1.1\r\nHost: ', tail: '\r\n\r\n' },
      fwmark: 0,
      earlyAccept: false,
      connectTimeoutMs: 10_000,
      idleTimeoutMs: 0,
      keepaliveMs: 0,
      memoryBytes: 64 << 20,
      maxFlows: 10_000,
      maxPendingFlows: 4_000,
      names: {
        prefix4: '198.18.0.0/15',
        prefix6: 'fd70:7670:6e00:1::/64',
        gaps4: range.gaps4,
        flowWords,
        catchesDns: true,
        dnsSocket,
      },
      flowEvents: true,
    },
    (event) => events.push(event),
    (datagrams) => {
      batches++;
      engine.sendDatagrams(datagrams);
    },
  );
});

afterAll(async () => {
  await engine.stop();
  for (const fd of fds) native().closeFd(fd);
  proxy.closeAllConnections();
  proxy.close();
  streams.close();
  fs.rmSync(directory, { recursive: true });
});

function nameSlots(suffix: string): void {
  engine.setNames(Array.from({ length: NAMED_SLOTS }, (_, slot) => ({ slot, hostname: `name-${slot}.${suffix}` })));
}

/** What comes from there until its end; the error's code where the connection fails. */
function talk(host: string, port: number, question = ''): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = net.connect({ host, port, noDelay: true });
    socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('end', () => resolve(text));
    if (question !== '') socket.write(question);
  });
}

const flowsNow = (): number => flowWords.reduce((sum, word) => sum + (word & 0x7fffffff), 0);

async function untilNoFlows(): Promise<void> {
  await expect.poll(flowsNow, { timeout: 10_000 }).toBe(0);
}

/** Asks from a socket of its own, and tells from whom the answer came and whether it is the question. */
function ask(family: 4 | 6, text: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket(family === 4 ? 'udp4' : 'udp6');
    socket.on('error', reject);
    socket.on('message', (message, from) => {
      socket.close();
      resolve(`${from.address} ${from.port} ${message}`);
    });
    socket.send(text, 53, SERVERS[family]);
  });
}

test('queries of many sockets are answered, each by whom it was asked', async () => {
  const asked = Array.from({ length: 600 }, (_, i) => ({ family: i % 2 ? 6 : 4, text: `query ${i}` }) as const);
  const answers = await Promise.all(asked.map(({ family, text }) => ask(family, text)));
  expect(answers).toEqual(asked.map(({ family, text }) => `${SERVERS[family]} 53 ${text}`));
  const { datagrams } = engine.counters();
  expect(datagrams).toMatchObject({ fromApp: 600, toApp: 600, dropped: 0 });
  expect(batches).toBeLessThanOrEqual(600);
});

test('names are in force for both queues when setNames returns, and no flow mixes them up', async () => {
  for (const suffix of ['old.example', 'new.example']) {
    nameSlots(suffix);
    const slots = Array.from({ length: 400 }, (_, i) => i % NAMED_SLOTS);
    const addresses = slots.map((slot, i) => (i % 2 ? range.address6(slot) : range.address4(slot)));
    const answers = await Promise.all(addresses.map((address) => talk(address, 443)));
    expect(answers).toEqual(slots.map((slot) => `name-${slot}.${suffix}:443`));
    await untilNoFlows();
  }
  const opened = events.flatMap((event) => (event.kind === 'opened' ? [event.hostname] : []));
  expect(opened.length).toBeGreaterThan(0);
  for (const hostname of opened) expect(hostname).toMatch(/^name-\d+\.(old|new)\.example$/);
});

test('addresses that stand for nothing refuse at once, and the proxy is not asked', async () => {
  nameSlots('example');
  engine.setNames([{ slot: 3, hostname: undefined }]);
  const before = engine.counters().flows;
  for (const address of [
    range.address4(3),
    range.address6(3),
    range.address4(50_000),
    '198.18.0.9',
    '198.19.255.255',
  ]) {
    for (let i = 0; i < 6; i++) expect([address, await talk(address, 443)]).toEqual([address, 'ECONNREFUSED']);
  }
  const after = engine.counters().flows;
  expect(after.unnamed - before.unnamed).toBe(30);
  expect(after.opened).toBe(before.opened);
  await expect
    .poll(() => events.some((event) => event.kind === 'failed' && event.code === 'EADDRNOTAVAIL'), { timeout: 5_000 })
    .toBe(true);
  await untilNoFlows();
});

test('a stream to port 53 is served behind the line that says whose it is', async () => {
  expect(await talk(SERVERS[4], 53, 'q')).toMatch(/^PROXY TCP4 198\.18\.0\.1 192\.0\.2\.53 \d+ 53\r\n/);
  expect(await talk(SERVERS[6], 53, 'q')).toMatch(/^PROXY TCP6 fd70:7670:6e00::1 2001:db8::53 \d+ 53\r\n/);
});

test('UDP to anything else is refused at once, so that QUIC falls back', async () => {
  const probe = [
    'import socket, sys',
    'for host in sys.argv[1:]:',
    '  s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)',
    '  s.settimeout(10)',
    '  s.connect((host, 443))',
    '  s.send(b"x" * 1200)',
    '  try: s.recv(1)',
    '  except ConnectionRefusedError: print("refused")',
  ].join('\n');
  const hosts = [range.address4(1), range.address6(1), SERVERS[4], SERVERS[6]];
  const { stdout, stderr } = await run(['python3', '-c', probe, ...hosts]);
  expect([stdout, stderr]).toEqual(['refused\n'.repeat(hosts.length), '']);
});
