/** An ordinary user with an installed launcher: the whole life of a tunnel without sudo. */
import fs from 'node:fs';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { isAlive, Status } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { expectEcho, startLabProxy } from './lab.ts';
import { LauncherLab, NET_ADMIN, NONE, statusOf, USER } from './launcher-lab.ts';
import { type Ran, type RunOptions, until } from './process.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

/** The device's usual mode, which containers and this machine may lack; a private /dev/net has it. */
const USUAL_DEVICE = 'mount -t tmpfs tmpfs /dev/net && mknod -m 0666 /dev/net/tun c 10 200 && exec "$@"';
const PORT = 8888;
const PROXY = `${ADDRESS.net.v4}:${PORT}`;

let lab: LauncherLab;
let topology: Topology;
let before: readonly string[];
beforeAll(async () => {
  lab = await LauncherLab.make();
});
afterAll(() => lab.remove());
afterEach(() => topology.remove());

async function setUp(): Promise<void> {
  topology = await makeTopology();
  await startLabProxy(topology.net, PORT);
  before = await dumpHost(topology.app);
}

function cli(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const program = lab.asUser([`HOME=${lab.home}`, `XDG_RUNTIME_DIR=${lab.home}`, lab.launcher, ...args]);
  return topology.app.run(['unshare', '--mount', 'sh', '-c', USUAL_DEVICE, 'sh', ...program], { cwd: '/', ...options });
}

async function status(): Promise<Status> {
  return Status.parse(JSON.parse((await cli(['status', '--json'])).stdout));
}

async function up(...flags: readonly string[]): Promise<number> {
  const ran = await cli(['up', '--proxy', PROXY, '--killswitch', ...flags]);
  expect(ran.code, ran.stderr).toBe(0);
  const { state, pid } = await status();
  expect(state).toBe('up');
  return pid ?? -1;
}

test('up, traffic, status and down, and the host is as it was', async () => {
  await setUp();
  const daemon = await up('--queues', '2');
  expect(statusOf(daemon, 'Uid')).toContain(`${USER}`);
  const sets = ['CapInh', 'CapPrm', 'CapEff', 'CapAmb'].map((set) => statusOf(daemon, set));
  expect(sets).toEqual([NONE, NET_ADMIN, NET_ADMIN, NONE]);
  await expectEcho(topology.app, ADDRESS.origin.v4);
  await expectEcho(topology.app, ADDRESS.origin.v6);
  expect((await status()).flows?.opened).toBeGreaterThanOrEqual(2);
  expect(await cli(['down'])).toMatchObject({ code: 0 });
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  await until('end of the daemon', () => !isAlive(daemon));
});

test('the daemon is out of reach for its own user, but for signals', async () => {
  await setUp();
  const daemon = await up();
  const outcomes = await lab.attack('attach', `${daemon}`);
  for (const [attempt, outcome] of Object.entries(outcomes)) expect(outcome, attempt).toMatch(/^(EPERM|EACCES)$/);
  process.kill(daemon, 'SIGUSR1');
  expect((await status()).state).toBe('up');
  await expectEcho(topology.app, ADDRESS.origin.v4);
  const killed = await lab.run(lab.asUser(['kill', '-KILL', `${daemon}`]));
  expect(killed.code).toBe(0);
  await until('end of the daemon', () => !isAlive(daemon));
  expect(await cli(['down'])).toMatchObject({ code: 0 });
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});

test('up --foreground runs until SIGTERM, and restores the host then', async () => {
  await setUp();
  const program = lab.asUser([`XDG_RUNTIME_DIR=${lab.home}`, lab.launcher, 'up', '--proxy', PROXY, '--foreground']);
  const foreground = topology.app.start(['unshare', '--mount', 'sh', '-c', USUAL_DEVICE, 'sh', ...program]);
  await foreground.until('up', async () => (await cli(['status'])).code === 0);
  await expectEcho(topology.app, ADDRESS.origin.v4);
  process.kill(foreground.pid, 'SIGTERM');
  expect(await foreground.exitCode()).toBe(0);
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});

test('started as the systemd unit starts it, with an ambient capability under no_new_privs, it works as well', async () => {
  await setUp();
  const sets = ['inh-caps', 'ambient-caps', 'bounding-set'].flatMap((set) => [`--${set}`, '-all,+net_admin']);
  const program = [lab.launcher, 'up', '--proxy', PROXY, '--killswitch', '--foreground'];
  const service = lab.asUser([`PROXYVPN_STATE_DIR=${lab.home}/state`, ...program], ...sets, '--no-new-privs');
  const foreground = topology.app.start(['unshare', '--mount', 'sh', '-c', USUAL_DEVICE, 'sh', ...service]);
  await foreground.until('up', () => foreground.stdout.includes('up; TCP goes through'));
  const found = ['CapInh', 'CapPrm', 'CapEff', 'CapAmb', 'CapBnd'].map((set) => statusOf(foreground.pid, set));
  expect(found).toEqual([NONE, NET_ADMIN, NET_ADMIN, NONE, NET_ADMIN]);
  await expectEcho(topology.app, ADDRESS.origin.v4);
  process.kill(foreground.pid, 'SIGTERM');
  expect(await foreground.exitCode()).toBe(0);
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});

test('the proxy file is read with the rights of the user, and relative to his directory', async () => {
  await setUp();
  const file = path.join(lab.home, 'proxy.url');
  fs.writeFileSync(file, `http://${PROXY}\n`, { mode: 0o600 });
  const refused = await cli(['up', '--proxy-file', file]);
  expect(refused.code).toBe(2);
  expect(refused.stderr).toContain('EACCES');
  fs.chownSync(file, USER, USER);
  const ran = await cli(['up', '--proxy-file', 'proxy.url'], { cwd: lab.home });
  expect(ran.code, ran.stderr).toBe(0);
  expect(await cli(['down'])).toMatchObject({ code: 0 });
});

test('/dev/net/tun that only root may open is named, with exit code 3 or 1, and the host is restored', async () => {
  await setUp();
  const closed = USUAL_DEVICE.replace('0666', '0600');
  const program = lab.asUser([`XDG_RUNTIME_DIR=${lab.home}`, lab.launcher, 'up', '--proxy', PROXY]);
  const ran = await topology.app.run(['unshare', '--mount', 'sh', '-c', closed, 'sh', ...program]);
  expect([1, 3]).toContain(ran.code);
  expect(ran.stderr).toContain('E_TUN_OPEN');
  expect(ran.stderr).toContain('EACCES');
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
});
