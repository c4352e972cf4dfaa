/** Tunnels of several users on one host: nobody replaces or removes another's, and root finds and stops them all. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isAlive } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { startLabProxy } from './lab.ts';
import { type Ran, until } from './process.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const PROXY = ['--proxy', `${ADDRESS.net.v4}:8888`];
const PROGRAM = path.join(import.meta.dirname, '..', '..', 'dist', 'proxyvpn.cjs');
/** /run is this test run's own, scripts/test-privileged.sh. */
const SERVICE = { uid: 4242, root: '/run/proxyvpn-service' };
const USER = { uid: 4343, root: '/run/user/4343/proxyvpn' };
/** As udev makes it. */
const USUAL_DEVICE = 'mount -t tmpfs tmpfs /dev/net && mknod -m 0666 /dev/net/tun c 10 200 && exec "$@"';
type Somebody = typeof SERVICE;

let topology: Topology;
let before: readonly string[] = [];

beforeEach(async () => {
  topology = await makeTopology();
  await startLabProxy(topology.net, 8888);
  for (const { uid, root } of [SERVICE, USER]) {
    fs.mkdirSync(path.dirname(root), { recursive: true });
    fs.mkdirSync(root, { mode: 0o700 });
    fs.chownSync(root, uid, uid);
  }
  before = await dumpHost(topology.app);
});
afterEach(async () => {
  await topology.remove();
  for (const { root } of [SERVICE, USER]) fs.rmSync(root, { recursive: true, force: true });
});

/** As the installed launcher or the unit does: a user with the one capability. */
function as({ uid, root }: Somebody, ...words: readonly string[]): Promise<Ran> {
  const who = [`--reuid=${uid}`, `--regid=${uid}`, '--clear-groups'];
  const capability = ['--inh-caps=+net_admin', '--ambient-caps=+net_admin', '--bounding-set=-all,+net_admin'];
  const asUser = ['setpriv', ...who, ...capability, '--', process.execPath, PROGRAM, ...words];
  const argv = ['unshare', '--mount', 'sh', '-euc', USUAL_DEVICE, 'sh', ...asUser];
  return topology.app.run(argv, { env: { PROXYVPN_STATE_DIR: root } });
}

const asRoot = (...words: readonly string[]): Promise<Ran> => topology.app.run([process.execPath, PROGRAM, ...words]);

async function serviceUp(...words: readonly string[]): Promise<number> {
  const up = await as(SERVICE, 'up', ...PROXY, '--json', ...words);
  expect([up.code, up.stderr]).toEqual([0, '']);
  return JSON.parse(up.stdout).pid;
}

const difference = async (): Promise<unknown> => dumpDifference(before, await dumpHost(topology.app));

describe('root', () => {
  test("sees and stops the service's tunnel", async () => {
    const pid = await serviceUp('--killswitch');
    const status = await asRoot('status', '--json');
    expect([status.code, JSON.parse(status.stdout).pid]).toEqual([0, pid]);
    const down = await asRoot('down');
    expect([down.code, down.stderr]).toEqual([0, '']);
    expect(await difference()).toEqual([]);
  });

  test('takes down what a crash of the service left', async () => {
    const pid = await serviceUp('--killswitch');
    process.kill(pid, 'SIGKILL');
    await until('end of the daemon', () => !isAlive(pid));
    expect((await asRoot('status')).code).toBe(1);
    expect((await asRoot('down')).code).toBe(0);
    expect(await difference()).toEqual([]);
    // Nothing of root's in a directory of another user.
    const left = fs.readdirSync(SERVICE.root, { recursive: true, encoding: 'utf8' });
    expect(left.filter((name) => fs.lstatSync(path.join(SERVICE.root, name)).uid === 0)).toEqual([]);
  });

  test("stops a user's tunnel as that user", async () => {
    const up = await as(USER, 'up', ...PROXY);
    expect(up.code).toBe(0);
    const down = await asRoot('down');
    expect([down.code, down.stderr]).toEqual([0, '']);
    expect(await difference()).toEqual([]);
  });

  test('does not choose between two', async () => {
    await serviceUp();
    fs.mkdirSync(path.join(USER.root, 'default'));
    fs.writeFileSync(path.join(USER.root, 'default', 'journal'), 'planted');
    const down = await asRoot('down');
    expect([down.code, down.stderr]).toEqual([4, expect.stringContaining('several users have a tunnel default')]);
    expect((await as(SERVICE, 'down')).code).toBe(0);
  });

  test('switches the killswitch of the service off', async () => {
    expect((await as(SERVICE, 'killswitch', 'on')).code).toBe(0);
    expect((await asRoot('killswitch', 'status')).code).toBe(0);
    const off = await asRoot('killswitch', 'off');
    expect([off.code, off.stderr]).toEqual([0, '']);
    expect(await difference()).toEqual([]);
  });
});

describe('another user', () => {
  test('can neither replace nor remove a tunnel, and is told whose it is', async () => {
    const pid = await serviceUp('--killswitch');
    const during = await dumpHost(topology.app);
    for (const words of [
      ['up', ...PROXY],
      ['up', ...PROXY, '--killswitch'],
      ['killswitch', 'on'],
      ['down'],
      ['down', '--force'],
    ]) {
      const ran = await as(USER, ...words);
      expect([words, ran.code, ran.stderr]).toEqual([words, 4, expect.stringContaining('E_TUNNEL_ELSEWHERE')]);
      expect(ran.stderr).toContain(`uid 4242, process ${pid}`);
    }
    expect(dumpDifference(during, await dumpHost(topology.app))).toEqual([]);
    expect((await as(SERVICE, 'down')).code).toBe(0);
    expect(await difference()).toEqual([]);
  });

  test('cannot open the killswitch that a crash left', async () => {
    const pid = await serviceUp('--killswitch');
    process.kill(pid, 'SIGKILL');
    await until('end of the daemon', () => !isAlive(pid));
    const up = await as(USER, 'up', ...PROXY);
    expect([up.code, up.stderr]).toEqual([4, expect.stringContaining('the packet filter proxyvpn is loaded')]);
    expect(await topology.app.must(['nft', 'list', 'table', 'inet', 'proxyvpn'])).toContain('policy drop');
    expect((await as(SERVICE, 'down')).code).toBe(0);
  });

  test('gets numbers of his own for a tunnel of another name', async () => {
    await serviceUp('--name', 'corp', '--no-routes');
    const up = await as(USER, 'up', ...PROXY, '--json', '--name', 'lab', '--no-routes');
    expect([up.code, JSON.parse(up.stdout).tun]).toEqual([0, 'pvpn2']);
    expect((await as(USER, 'down', '--name', 'lab')).code).toBe(0);
    expect((await as(SERVICE, 'down', '--name', 'corp')).code).toBe(0);
    expect(await difference()).toEqual([]);
  });
});
