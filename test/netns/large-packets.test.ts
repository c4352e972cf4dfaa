/** Large packets: uploads that come in them, and downloads in those of more than 64 KiB, past other packet filters. */
import os from 'node:os';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { Integrity, labload, startLabProxy } from './lab.ts';
import { until } from './process.ts';
import { ADDRESS, makeTopology, type Namespace, type Topology } from './topology.ts';

const PORT = 8888;
const LONG_MS = 120_000;
const CONNECTIONS = 60;
const GOOD = { ok: CONNECTIONS, corrupt: 0, truncated: 0, failed: 0, unfinished: 0, first_problem: '' };

/** Since Linux 6.6 a TUN device takes them; before, it says EMSGSIZE. */
function kernelTakesThem(): boolean {
  const [major = 0, minor = 0] = os.release().split('.').map(Number);
  return major > 6 || (major === 6 && minor >= 6);
}

let topology: Topology;
let cli: Cli;

beforeAll(async () => {
  topology = await makeTopology();
  cli = new Cli(topology);
  await startLabProxy(topology.net, PORT);
});
afterEach(async () => {
  await cli.down();
  await topology.app.must(['nft', 'add table inet someone; delete table inet someone']);
});
afterAll(() => topology.remove());

/** A stateful packet filter as hosts have them, which counts large packets of the tunnel. */
async function filterStatefully(): Promise<void> {
  const rules = [
    'add table inet someone',
    'add counter inet someone large',
    'add chain inet someone prerouting { type filter hook prerouting priority 0; }',
    'add rule inet someone prerouting iifname "pvpn*" meta length > 65535 counter name "large"',
    'add chain inet someone input { type filter hook input priority 10; policy drop; }',
    'add rule inet someone input ct state established,related accept',
    'add rule inet someone input meta l4proto ipv6-icmp accept',
    'add chain inet someone forward { type filter hook forward priority 10; policy drop; }',
    'add rule inet someone forward ct state established,related accept',
    'add rule inet someone forward iifname "guest0" ct state new accept',
  ];
  await topology.app.must(['nft', rules.join('; ')]);
}

async function countLargePackets(): Promise<number> {
  const listed = await topology.app.must(['nft', 'list counter inet someone large']);
  return Number(/packets (\d+)/.exec(listed)?.[1]);
}

async function carryFrom(namespace: Namespace, family: 'v4' | 'v6'): Promise<void> {
  const args = ['integrity', '--dst', ADDRESS.origin[family], '--conns', `${CONNECTIONS}`];
  expect((await labload(namespace, Integrity, args, LONG_MS)).result).toMatchObject(GOOD);
}

test('a download travels in large packets, through connection tracking, and every byte is right', {
  timeout: LONG_MS,
}, async () => {
  await filterStatefully();
  await cli.up(['--proxy', `${ADDRESS.net.v4}:${PORT}`, '--killswitch']);
  await carryFrom(topology.app, 'v4');
  if (kernelTakesThem()) expect(await countLargePackets()).toBeGreaterThan(0);
  else expect(await countLargePackets()).toBe(0);
});

test('those of a container behind the host do not, nor those over IPv6', { timeout: LONG_MS }, async () => {
  await filterStatefully();
  await cli.up(['--proxy', `${ADDRESS.net.v4}:${PORT}`, '--killswitch']);
  await carryFrom(topology.guest, 'v4');
  await carryFrom(topology.app, 'v6');
  expect(await countLargePackets()).toBe(0);
});

test('an upload comes from the kernel in packets of many segments', async () => {
  await cli.up(['--proxy', `${ADDRESS.net.v4}:${PORT}`]);
  const sent = 1 << 20;
  await topology.app.must(['bash', '-c', `head -c ${sent} /dev/zero >/dev/tcp/${ADDRESS.origin.v4}/9001`]);
  await until('all of it', async () => ((await cli.status()).bytes?.toUpstream ?? 0) >= sent);
  // Segment by segment they would be 720.
  expect((await cli.status()).packets?.fromApp).toBeLessThan(200);
});
