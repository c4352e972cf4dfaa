/** `proxyvpn demo`: its own test of the whole way, as root and as a user, in namespaces that it makes itself. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { PROXYVPN } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { makeTopology, type Topology } from './topology.ts';

const LONG_MS = 90_000;

let topology: Topology;
let before: readonly string[];

beforeEach(async () => {
  topology = await makeTopology();
  before = await dumpHost(topology.app);
});
afterEach(async () => {
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  expect(await topology.app.pids()).toEqual([]);
  await topology.remove();
});

test('as root it shows the page, the refused direct way and a clean host, and exits 0', {
  timeout: LONG_MS,
}, async () => {
  const demo = await topology.app.run([PROXYVPN, 'demo'], { timeoutMs: LONG_MS });
  expect(demo.code, demo.stdout + demo.stderr).toBe(0);
  expect(demo.stdout).toMatch(/CONNECT \S+:\d+/);
  expect(demo.stdout).not.toMatch(/FAILED/);
});

test('as an ordinary user it does the same in a user namespace', { timeout: LONG_MS }, async () => {
  // An own /dev with the usual, world-writable mode of the device; the machine's may be narrower.
  const script = [
    'mount -t tmpfs -o mode=755 tmpfs /mnt',
    'mkdir /mnt/net && mknod -m 666 /mnt/net/tun c 10 200',
    'mount --bind /mnt/net /dev/net',
    `exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all ${PROXYVPN} demo`,
  ].join(' && ');
  const demo = await topology.app.run(['unshare', '--mount', 'bash', '-c', script], { timeoutMs: LONG_MS });
  expect(demo.code, demo.stdout + demo.stderr).toBe(0);
  expect(demo.stdout).toMatch(/CONNECT \S+:\d+/);
  expect(demo.stdout).not.toMatch(/FAILED/);
});
