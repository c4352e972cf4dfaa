/** Many connections at a time: every byte right under random stalls, ten thousand idle ones alive, memory bounded. */
import fs from 'node:fs';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { expectEcho, Idle, Integrity, labload, startLabProxy } from './lab.ts';
import { until } from './process.ts';
import { ADDRESS, bracketed, makeTopology, type Namespace, type Topology } from './topology.ts';

const PORT = 8888;
const LONG_MS = 120_000;
const IDLE = 10_000;

let topology: Topology;
let cli: Cli;

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startLabProxy(topology.net, PORT);
  for (const namespace of [topology.app, topology.net])
    await namespace.must([
      'sysctl',
      '-qw',
      'net.ipv4.ip_local_port_range=1024 65000',
      'net.ipv4.ip_local_reserved_ports=8000-9100',
      'net.ipv4.tcp_max_syn_backlog=16384',
      'net.core.somaxconn=16384',
    ]);
});
afterEach(() => cli.down());
afterAll(() => topology.remove());

const residentBytes = (pid: number): number =>
  Number(/^VmRSS:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;

const openFiles = (pid: number): number => fs.readdirSync(`/proc/${pid}/fd`).length;

describe.each(['v4', 'v6'] as const)('%s', (family) => {
  const upstream = `${bracketed(ADDRESS.net[family])}:${PORT}`;

  test.each([1, 2, 3])(
    '300 connections of 0 to 8 MiB, both ways, with random stalls: every byte right (seed %i)',
    { timeout: LONG_MS },
    async (seed) => {
      await cli.up(['--proxy', upstream, '--killswitch']);
      const args = ['integrity', '--dst', ADDRESS.origin[family], '--conns', '300', '--seed', `${seed}`];
      const { result } = await labload(topology.app, Integrity, args, LONG_MS);
      const good = { ok: 300, corrupt: 0, truncated: 0, failed: 0, unfinished: 0, first_problem: '' };
      expect(result).toMatchObject(good);
      await until('end of all flows', async () => (await cli.status()).flows?.active === 0);
    },
  );

  test(`${IDLE} idle connections are held, are all alive, and leave nothing behind`, { timeout: LONG_MS }, async () => {
    await cli.up(['--proxy', upstream, '--killswitch']);
    const pid = await cli.daemonPid();
    const files = openFiles(pid);
    const hold = ['idle', '--dst', ADDRESS.origin[family], '-n', `${IDLE}`, '-t', '5', '--timeout', '40'];
    let resident = 0;
    const [held] = await Promise.all([
      labload(topology.app, Idle, [...hold, '--spread', '50'], LONG_MS),
      until(`${IDLE} active flows`, async () => (await cli.status()).flows?.active === IDLE, 50_000).then(() => {
        resident = residentBytes(pid);
      }),
    ]);
    expect(held.result).toMatchObject({ connected: IDLE, echo1: IDLE, echo2: IDLE, errors: {} });
    expect(resident).toBeLessThan(256 * 1024 ** 2);
    await until('end of all flows', async () => (await cli.status()).flows?.active === 0);
    expect((await cli.status()).flows).toMatchObject({ opened: IDLE, refused: 0, failed: 0 });
    await until('closed descriptors', () => openFiles(pid) <= files + 4);
  });
});

/** A link to the container with packets of one MSS, of which it loses 1 in 100 each way. */
async function makeGuestLinkLossy(): Promise<void> {
  const lossOf = (device: string): string =>
    'add table inet lossy; add counter inet lossy lost; add counter inet lossy large; ' +
    'add chain inet lossy in { type filter hook prerouting priority -400; }; ' +
    `add rule inet lossy in iifname "${device}" meta length > 1500 counter name large; ` +
    `add rule inet lossy in iifname "${device}" meta l4proto tcp numgen random mod 100 0 counter name lost drop`;
  for (const [namespace, device] of [[topology.app, 'guest0'] as const, [topology.guest, 'eth0'] as const]) {
    await namespace.must(['ip', 'link', 'set', 'dev', device, 'gso_max_size', '1514']);
    await namespace.must(['nft', lossOf(device)]);
  }
}

async function countAt(namespace: Namespace, counter: 'lost' | 'large'): Promise<number> {
  const listed = await namespace.must(['nft', `list counter inet lossy ${counter}`]);
  return Number(/packets (\d+)/.exec(listed)?.[1]);
}

test('a container behind a link that loses 1 packet in 100 each way: every byte right', {
  timeout: LONG_MS,
}, async () => {
  await cli.up(['--proxy', `${ADDRESS.net.v4}:${PORT}`, '--killswitch']);
  await makeGuestLinkLossy();
  for (const family of ['v4', 'v6'] as const) {
    const args = ['integrity', '--dst', ADDRESS.origin[family], '--conns', '60', '--max-size', `${2 << 20}`];
    const { result } = await labload(topology.guest, Integrity, [...args, '--timeout', '50'], LONG_MS);
    const good = { ok: 60, corrupt: 0, truncated: 0, failed: 0, unfinished: 0, first_problem: '' };
    expect(result).toMatchObject(good);
  }
  for (const namespace of [topology.app, topology.guest]) {
    expect(await countAt(namespace, 'large')).toBe(0);
    expect(await countAt(namespace, 'lost')).toBeGreaterThan(0);
  }
});

/** Bytes in the receive queues of the tunnel's sockets to the proxy, which no resident memory shows. */
async function queuedFromProxy(): Promise<number> {
  const stdout = await topology.app.must(['ss', '-Htn', 'dport', '=', `:${PORT}`]);
  return stdout.split('\n').reduce((sum, line) => sum + Number(line.trim().split(/\s+/)[1] ?? 0), 0);
}

test('readers that stop reading do not make the tunnel grow', { timeout: LONG_MS }, async () => {
  await cli.up(['--proxy', `${ADDRESS.net.v4}:${PORT}`, '--memory', '64']);
  const pid = await cli.daemonPid();
  const idle = residentBytes(pid);
  // 600 endless downloads that nobody reads.
  const hold = `for i in {10..609}; do exec {fd}<>/dev/tcp/${ADDRESS.origin.v4}/9002; done; echo open; sleep 60`;
  const readers = topology.app.start(['bash', '-c', hold]);
  await readers.until('600 connections', () => readers.stdout.includes('open'), 30_000);
  let bytes = -1;
  await until(
    'standstill',
    async () => {
      const last = bytes;
      bytes = (await cli.status()).bytes?.toApp ?? 0;
      return bytes > 0 && bytes === last;
    },
    30_000,
    500,
  );
  expect(residentBytes(pid) - idle).toBeLessThan(160 * 1024 ** 2);
  // Without a bound, what the kernel takes for each of them grows to megabytes.
  expect(await queuedFromProxy()).toBeLessThan(192 * 1024 ** 2);
  await expectEcho(topology.app, ADDRESS.origin.v4);
  await readers.stop();
});
