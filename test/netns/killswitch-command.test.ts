/** `killswitch on|off|status`: it stands without a tunnel, tunnels come and go in it, and nothing leaves in between. */
import fs from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Cli } from './cli.ts';
import { dumpDifference, dumpHost } from './host-state.ts';
import { expectEcho } from './lab.ts';
import { NFT_FILTER, PROXY_PORT, startLeakServers, watchLeaks } from './leak-scenario.ts';
import type { Ran } from './process.ts';
import { ADDRESS, makeTopology, type Topology } from './topology.ts';

const LONG_MS = 600_000;
const PROXY = ['--proxy', `${ADDRESS.net.v4}:${PROXY_PORT}`];

let topology: Topology;
let cli: Cli;

beforeEach(async () => {
  topology = await makeTopology({ originIsDirect: true });
  cli = new Cli(topology);
  await startLeakServers(topology);
});
afterEach(() => topology.remove());

const killswitch = (...words: readonly string[]): Promise<Ran> => cli.run(['killswitch', ...words]);

async function state(): Promise<string> {
  const { code, stdout } = await killswitch('status', '--json');
  return `${JSON.parse(stdout).state} ${code}`;
}

/** Whether a program gets out by itself. */
async function isOpen(): Promise<boolean> {
  const script = `exec 3<>/dev/tcp/${ADDRESS.net.v4}/${PROXY_PORT}`;
  return (await topology.app.run(['timeout', '5', 'bash', '-c', script])).code === 0;
}

test('on blocks, off opens, and the host is as it was', async () => {
  const before = await dumpHost(topology.app);
  expect(await isOpen()).toBe(true);
  expect(await state()).toBe('off 4');
  const on = await killswitch('on');
  expect([on.code, on.stderr]).toEqual([0, '']);
  expect(on.stdout).toContain('nothing gets out');
  expect(await isOpen()).toBe(false);
  expect(await state()).toBe('on 0');
  expect(await cli.status()).toMatchObject({ state: 'down', killswitch: true });
  expect((await killswitch('off')).code).toBe(0);
  expect(await state()).toBe('off 4');
  expect(await isOpen()).toBe(true);
  expect(dumpDifference(before, await dumpHost(topology.app))).toEqual([]);
  expect(fs.existsSync(path.join(cli.stateDirectory, 'default'))).toBe(false);
});

test('both are idempotent', async () => {
  for (const word of ['on', 'on', 'off', 'off']) expect((await killswitch(word)).code, word).toBe(0);
  expect(await isOpen()).toBe(true);
});

test('not one packet leaves between on and off: up, crash, up, down, up, down', { timeout: LONG_MS }, async () => {
  const { leaks, toProxy, gaps } = await watchLeaks(topology, NFT_FILTER, async (probes) => {
    expect((await killswitch('on', '--strict')).code).toBe(0);
    await probes.rounds(2);
    await cli.up([...PROXY, '--killswitch', '--allow-dns', 'none']);
    await probes.rounds(2);
    await cli.killDaemon();
    await probes.rounds(1);
    await cli.up([...PROXY, '--killswitch', '--allow-dns', 'none']);
    await cli.down();
    await probes.rounds(2);
    await cli.up([...PROXY, '--killswitch', '--allow-dns', 'none']);
    await cli.down();
    expect((await killswitch('on', '--strict')).code).toBe(0);
    await probes.rounds(1);
    expect((await killswitch('off')).code).toBe(0);
  });
  expect(leaks.map(({ text }) => text)).toEqual([]);
  expect(gaps).toEqual([]);
  expect(toProxy).toBeGreaterThan(0);
});

describe('while it stands', () => {
  beforeEach(async () => {
    expect((await killswitch('on')).code).toBe(0);
  });

  test('a tunnel has a killswitch, asked for or not, and down leaves it standing', async () => {
    const up = await cli.up([...PROXY]);
    expect(up.stderr).toContain('the killswitch is on');
    expect(await cli.status()).toMatchObject({ state: 'up', killswitch: true });
    await expectEcho(topology.app, ADDRESS.origin.v4);
    expect(await state()).toBe('on 0');
    const down = await cli.down();
    expect(down.stderr).toContain('the killswitch stays on');
    expect(await state()).toBe('on 0');
    expect(await isOpen()).toBe(false);
  });

  test('down without a tunnel is told apart, and opens nothing', async () => {
    const down = await cli.run(['down']);
    expect([down.code, down.stderr]).toEqual([4, expect.stringContaining('killswitch off')]);
    expect(await isOpen()).toBe(false);
  });

  test('after a crash down returns to it', async () => {
    await cli.up([...PROXY, '--killswitch', '--lan', 'allow']);
    await cli.killDaemon();
    expect(await cli.status()).toMatchObject({ state: 'degraded', killswitch: true });
    await cli.down();
    expect(await state()).toBe('on 0');
    expect(await topology.app.must(['nft', 'list', 'table', 'inet', 'proxyvpn'])).not.toContain('10.0.0.0/8');
  });

  test('an up that fails leaves it as it is', async () => {
    const up = await cli.run(['up', '--proxy', `${ADDRESS.net.v4}:9`, '--killswitch']);
    expect(up.code).toBe(1);
    expect(up.stderr).toContain('E_PROXY_UNREACHABLE');
    expect(await state()).toBe('on 0');
    expect(await isOpen()).toBe(false);
  });

  test('beside a tunnel it can be switched neither on nor off', async () => {
    await cli.up([...PROXY]);
    for (const word of ['on', 'off']) {
      const ran = await killswitch(word);
      expect([ran.code, ran.stderr]).toEqual([4, expect.stringContaining('E_TUNNEL_UP')]);
    }
    await cli.down();
  });

  test('status says when somebody removed the filter, and on mends it', async () => {
    await topology.app.must(['nft', 'delete', 'table', 'inet', 'proxyvpn']);
    expect(await state()).toBe('degraded 1');
    expect((await killswitch('on')).code).toBe(0);
    expect(await state()).toBe('on 0');
  });

  test('down --force removes it too', async () => {
    expect((await cli.run(['down', '--force'])).code).toBe(0);
    expect(await state()).toBe('off 4');
    expect(await isOpen()).toBe(true);
  });
});

test('what the configuration permits gets out, and nothing of it with --strict', async () => {
  const file = path.join(topology.directory, 'corp.conf');
  fs.writeFileSync(file, `proxy = "proxy.example:3128"\nbypass = ["${ADDRESS.net.v4}/32"]\n`);
  expect((await killswitch('on', '--config', file)).code).toBe(0);
  expect(await isOpen()).toBe(true);
  expect((await killswitch('on', '--config', file, '--strict')).code).toBe(0);
  expect(await isOpen()).toBe(false);
  await killswitch('off');
});

test('a configuration that is wrong changes nothing', async () => {
  const file = path.join(topology.directory, 'corp.conf');
  fs.writeFileSync(file, 'lan = "perhaps"\n');
  const ran = await killswitch('on', '--config', file);
  expect([ran.code, ran.stderr]).toEqual([2, expect.stringContaining('corp.conf:1: lan: ')]);
  expect(await state()).toBe('off 4');
});
