/** The test bed itself, without a tunnel: what the other files conclude from it must hold first. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { dumpDifference, dumpHost } from './host-state.ts';
import { startLabProxy } from './lab.ts';
import {
  makeRepository,
  originUrl,
  startNginx,
  startSquid,
  startSshd,
  startTinyproxy,
  type WebServer,
} from './servers.ts';
import { ADDRESS, bracketed, makeTopology, type Topology } from './topology.ts';

let topology: Topology;
let web: WebServer;

beforeAll(async () => {
  topology = await makeTopology();
  web = await startNginx(topology);
  await startTinyproxy(topology);
  await startSquid(topology);
});
afterAll(() => topology.remove());

describe.each(['v4', 'v6'] as const)('%s', (family) => {
  test('the origin refuses whoever comes straight from app', async () => {
    const direct = await topology.app.run(['curl', '-sS', '--max-time', '5', originUrl(family, '/hello')]);
    expect(direct.code).toBe(7);
  });

  test.each([8888, 3128])('a client that speaks to the proxy on port %i itself reaches the origin', async (port) => {
    const proxy = `http://${bracketed(ADDRESS.net[family])}:${port}`;
    const args = ['-sS', '-p', '-x', proxy, '--cacert', web.authority, originUrl(family, '/hello', 'https')];
    expect(await topology.app.must(['curl', ...args])).toBe('hello from the origin\n');
  });

  test('peer reaches app, guest reaches net, and neither is translated', async () => {
    await topology.peer.must(['ping', '-c', '1', '-W', '2', ADDRESS.app[family]]);
    await topology.guest.must(['ping', '-c', '1', '-W', '2', ADDRESS.net[family]]);
  });
});

test('ssh logs in at the private sshd', async () => {
  const shell = await startSshd(topology, topology.net);
  const argv = ['ssh', ...shell.clientOptions, '-p', `${shell.port}`, `root@${ADDRESS.net.v4}`, 'echo', 'logged', 'in'];
  expect(await topology.app.must(argv)).toBe('logged in\n');
});

test('git clones over plain HTTP', async () => {
  const head = await makeRepository(web.root);
  const clone = path.join(topology.directory, 'clone');
  await topology.net.must(['git', 'clone', '-q', `http://${ADDRESS.origin.v4}:8080/repository.git`, clone]);
  expect(fs.readFileSync(path.join(clone, '.git', 'refs', 'heads', 'main'), 'utf8').trim()).toBe(head);
});

test('labproxy refuses by port, and says when', async () => {
  const proxy = await startLabProxy(topology.net, 8899);
  const before = process.hrtime.bigint();
  const curl = ['curl', '-sS', '-p', '-x', `http://${ADDRESS.net.v4}:8899`, `http://${ADDRESS.origin.v4}:9017/`];
  expect((await topology.app.run(curl)).code).not.toBe(0);
  expect(proxy.targets()).toEqual([`${ADDRESS.origin.v4} 9017`]);
  expect(proxy.answeredAtNs(9017)[0]).toBeGreaterThan(before);
});

test('two dumps of a host that nobody touched are equal, and a change shows', async () => {
  const { app } = topology;
  const before = await dumpHost(app);
  expect(before.length).toBeGreaterThan(300);
  await app.run(['curl', '-sS', '-x', `http://${ADDRESS.net.v4}:8888`, originUrl('v4', '/hello')]);
  expect(dumpDifference(before, await dumpHost(app))).toEqual([]);
  const changes: readonly (readonly [string, string])[] = [
    ['ip rule add priority 99 lookup 99', 'ip rule del priority 99'],
    ['ip -6 route add fd99::/64 dev uplink', 'ip -6 route del fd99::/64 dev uplink'],
    ['nft add table inet other', 'nft delete table inet other'],
    ['sysctl -w net.ipv4.conf.uplink.rp_filter=2', 'sysctl -w net.ipv4.conf.uplink.rp_filter=0'],
    ['ip link add other type veth', 'ip link del other'],
    ['ip link set uplink txqueuelen 7', 'ip link set uplink txqueuelen 1000'],
  ];
  for (const [change, back] of changes) {
    await app.must(change.split(' '));
    expect(dumpDifference(before, await dumpHost(app)), change).not.toEqual([]);
    await app.must(back.split(' '));
    expect(dumpDifference(before, await dumpHost(app)), back).toEqual([]);
  }
});
